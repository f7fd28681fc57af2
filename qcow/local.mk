# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

libplatter_core_la_SOURCES += \
	qcow/check.c \
	qcow/create.c \
	qcow/map.c \
	qcow/ondisk.h \
	qcow/open.c \
	qcow/place.c \
	qcow/qcow.h \
	$(NULL)
