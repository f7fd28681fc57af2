# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

libplatter_core_la_SOURCES += \
	block/ahead.c \
	block/amend.c \
	block/bench.c \
	block/cache_room.c \
	block/codec.c \
	block/codec.h \
	block/context.c \
	block/copyread.c \
	block/crypt.c \
	block/create.c \
	block/cursor.c \
	block/decode.c \
	block/disk.c \
	block/donor.c \
	block/engine.h \
	block/epoch.c \
	block/faults.c \
	block/flush.c \
	block/image.c \
	block/imagestore.c \
	block/info.c \
	block/internal.h \
	block/keys.c \
	block/limbo.c \
	block/metacache.c \
	block/need.c \
	block/node.h \
	block/node_file.c \
	block/node_options.c \
	block/node_pieces.c \
	block/open.c \
	block/queue.c \
	block/range.c \
	block/read.c \
	block/rescue.c \
	block/resize.c \
	block/scratch.c \
	block/secret.c \
	block/skip.c \
	block/slots.c \
	block/slots.h \
	block/status.c \
	block/submit.c \
	block/sync.c \
	block/write.c \
	block/unread.c \
	block/vmstate.c \
	block/writeback.c \
	block/zero.c \
	$(NULL)
