# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

libplatter_core_la_SOURCES += \
	qcow2/amend.c \
	qcow2/bitmap_set.c \
	qcow2/bitmaps.c \
	qcow2/check.c \
	qcow2/check.h \
	qcow2/check_map.c \
	qcow2/check_refs.c \
	qcow2/check_report.c \
	qcow2/create.c \
	qcow2/create_opts.c \
	qcow2/driver.c \
	qcow2/encrypt.c \
	qcow2/guard.c \
	qcow2/header.c \
	qcow2/header_write.c \
	qcow2/map.c \
	qcow2/mapping.h \
	qcow2/mend/bitmaps.c \
	qcow2/mend/blank.c \
	qcow2/mend/clusters.c \
	qcow2/mend/features.c \
	qcow2/mend/find.c \
	qcow2/mend/find.h \
	qcow2/mend/find_tables.c \
	qcow2/mend/header.c \
	qcow2/mend/luks.c \
	qcow2/mend/map.c \
	qcow2/mend/mend.c \
	qcow2/mend/moves.c \
	qcow2/mend/orphans.c \
	qcow2/mend/shapes.c \
	qcow2/mend/size.c \
	qcow2/mend/packed.c \
	qcow2/mend/snapshots.c \
	qcow2/mend/stale.c \
	qcow2/mend/tables.c \
	qcow2/mend/unreached.c \
	qcow2/ondisk.h \
	qcow2/open.c \
	qcow2/place.c \
	qcow2/qcow2.h \
	qcow2/recount.c \
	qcow2/recover.c \
	qcow2/refcount.c \
	qcow2/resize.c \
	qcow2/rows.c \
	qcow2/show.c \
	qcow2/snapshot.c \
	qcow2/snaptable.c \
	qcow2/snaptree.c \
	qcow2/snaptree.h \
	qcow2/trim.c \
	qcow2/zero.c \
	$(NULL)
