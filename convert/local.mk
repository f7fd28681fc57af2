# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

libplatter_core_la_SOURCES += \
	convert/bitmaps.c \
	convert/compare.c \
	convert/convert.h \
	convert/copy.c \
	convert/ghost.c \
	convert/hash.c \
	convert/hold.c \
	convert/measure.c \
	convert/replace.c \
	convert/scan.c \
	convert/scan.h \
	convert/scan_carve.c \
	convert/scan_find.c \
	convert/scan_images.c \
	convert/source.c \
	convert/sparsify.c \
	convert/sparsify.h \
	convert/sparsify_look.c \
	convert/target.c \
	convert/verify.c \
	$(NULL)
