# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

libplatter_core_la_SOURCES += \
	snapshot/bitmap.c \
	snapshot/chain.c \
	snapshot/coalesce.c \
	snapshot/commit.c \
	snapshot/df.c \
	snapshot/flatten.c \
	snapshot/folder.c \
	snapshot/internal.c \
	snapshot/judge.c \
	snapshot/layer.c \
	snapshot/look.h \
	snapshot/rebase.c \
	snapshot/snapshot.h \
	$(NULL)
