# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

libplatter_core_la_SOURCES += \
	io/access.c \
	io/blkdebug.c \
	io/blkdebug.h \
	io/completion.c \
	io/device.c \
	io/direct.c \
	io/fault.c \
	io/fdio.c \
	io/file.c \
	io/journal.c \
	io/journal.h \
	io/journal_disk.h \
	io/journal_name.c \
	io/journal_read.c \
	io/journal_replay.c \
	io/journal_write.c \
	io/limits.c \
	io/lock.c \
	io/lock.h \
	io/mapfile.c \
	io/mapfile.h \
	io/medium.c \
	io/memory.c \
	io/null.c \
	io/op.c \
	io/overlay.c \
	io/pieces.c \
	io/pieces.h \
	io/private.h \
	io/ring.h \
	io/ring_inline.c \
	io/ring_test.c \
	io/ring_threads.c \
	io/ring_uring.c \
	io/store.c \
	io/store.h \
	io/unitlock.c \
	io/window.c \
	io/writelog.c \
	$(NULL)
