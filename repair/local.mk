# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

libplatter_core_la_SOURCES += \
	repair/apply.c \
	repair/beside.c \
	repair/copy.c \
	repair/deep.c \
	repair/evidence.c \
	repair/evidence.h \
	repair/evidence_assign.c \
	repair/evidence_ends.c \
	repair/evidence_facts.c \
	repair/evidence_order.c \
	repair/evidence_private.h \
	repair/evidence_runs.c \
	repair/evidence_scan.c \
	repair/evidence_score.c \
	repair/evidence_view.c \
	repair/guest.c \
	repair/guest.h \
	repair/guest_super.c \
	repair/guest_table.c \
	repair/place.c \
	repair/plan.c \
	repair/planfile.c \
	repair/recognize.c \
	repair/repair.h \
	repair/rescue.c \
	repair/undo.c \
	repair/worse.c \
	$(NULL)
