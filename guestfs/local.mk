# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

libplatter_core_la_SOURCES += \
	guestfs/ext.c \
	guestfs/ext.h \
	guestfs/ext_inode.c \
	guestfs/ext_marks.c \
	guestfs/ext_super.c \
	guestfs/fat.c \
	guestfs/guestfs.h \
	guestfs/marks.c \
	guestfs/ntfs.c \
	guestfs/parts.c \
	guestfs/supers.c \
	guestfs/supers.h \
	guestfs/weigh.c \
	guestfs/weigh.h \
	guestfs/xfs.c \
	$(NULL)
