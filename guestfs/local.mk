# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

libplatter_core_la_SOURCES += \
	guestfs/ext.c \
	guestfs/ext.h \
	guestfs/ext_inode.c \
	guestfs/ext_marks.c \
	guestfs/ext_super.c \
	guestfs/fat.c \
	guestfs/fat.h \
	guestfs/fat_dir.c \
	guestfs/free.c \
	guestfs/free.h \
	guestfs/free_ext.c \
	guestfs/free_fat.c \
	guestfs/free_lvm.c \
	guestfs/free_ntfs.c \
	guestfs/free_xfs.c \
	guestfs/guestfs.h \
	guestfs/lvm_text.c \
	guestfs/lvm_text.h \
	guestfs/marks.c \
	guestfs/ntfs.c \
	guestfs/ntfs.h \
	guestfs/parts.c \
	guestfs/supers.c \
	guestfs/supers.h \
	guestfs/weigh.c \
	guestfs/weigh.h \
	guestfs/xfs.c \
	guestfs/xfs.h \
	$(NULL)
