# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

libplatter_core_la_SOURCES += \
	vhd/batmap.c \
	vhd/census.c \
	vhd/check.c \
	vhd/check.h \
	vhd/check_bits.c \
	vhd/create.c \
	vhd/driver.c \
	vhd/footer.c \
	vhd/info.c \
	vhd/locator.c \
	vhd/map.c \
	vhd/mend.c \
	vhd/mend_bat.c \
	vhd/mend_bits.c \
	vhd/mend_header.c \
	vhd/mend_moves.c \
	vhd/ondisk.h \
	vhd/open.c \
	vhd/parent.c \
	vhd/place.c \
	vhd/reparent.c \
	vhd/resize.c \
	vhd/space.c \
	vhd/vhd.h \
	vhd/vjournal.c \
	vhd/zero.c \
	$(NULL)
