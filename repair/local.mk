# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

libplatter_core_la_SOURCES += \
	repair/apply.c \
	repair/beside.c \
	repair/copy.c \
	repair/deep.c \
	repair/deep/deep.h \
	repair/deep/map.c \
	repair/deep/moves.c \
	repair/deep/step.c \
	repair/deep/suspects.c \
	repair/deep/survey.c \
	repair/evidence/assign.c \
	repair/evidence/ends.c \
	repair/evidence/evidence.c \
	repair/evidence/evidence.h \
	repair/evidence/facts.c \
	repair/evidence/fit.c \
	repair/evidence/older.c \
	repair/evidence/order.c \
	repair/evidence/path.c \
	repair/evidence/private.h \
	repair/evidence/runs.c \
	repair/evidence/scan.c \
	repair/evidence/score.c \
	repair/evidence/view.c \
	repair/foreign.c \
	repair/guest/fat.c \
	repair/guest/guest.c \
	repair/guest/guest.h \
	repair/guest/shift.c \
	repair/guest/super.c \
	repair/guest/table.c \
	repair/packed.c \
	repair/parent.c \
	repair/parent/content.c \
	repair/parent/find.c \
	repair/parent/link.c \
	repair/parent/parent.h \
	repair/parent/rank.c \
	repair/place.c \
	repair/plan.c \
	repair/planfile.c \
	repair/recognize.c \
	repair/repair.h \
	repair/rescue.c \
	repair/undo.c \
	repair/worse.c \
	$(NULL)
