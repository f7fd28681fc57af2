# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

libplatter_core_la_SOURCES += \
	luks/check.c \
	luks/luks.c \
	luks/luks.h \
	$(NULL)
