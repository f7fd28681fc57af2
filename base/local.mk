# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

libplatter_core_la_SOURCES += \
	base/alloc.c \
	base/alloc.h \
	base/bitmap.c \
	base/bitmap.h \
	base/checked.h \
	base/cleanup.h \
	base/crc.c \
	base/crc.h \
	base/crew.c \
	base/crew.h \
	base/digest.c \
	base/digest.h \
	base/endian.h \
	base/error.c \
	base/error.h \
	base/extents.c \
	base/extents.h \
	base/iov.c \
	base/iov.h \
	base/jsontext.h \
	base/number.h \
	base/pool.c \
	base/pool.h \
	base/shown.h \
	base/rate.c \
	base/zero.c \
	base/zero.h \
	$(NULL)
