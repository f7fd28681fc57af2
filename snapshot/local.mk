# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

libplatter_core_la_SOURCES += \
	snapshot/bitmap.c \
	snapshot/chain.c \
	snapshot/commit.c \
	snapshot/internal.c \
	snapshot/rebase.c \
	$(NULL)
