# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

libplatter_core_la_SOURCES += \
	repair/apply.c \
	repair/beside.c \
	repair/copy.c \
	repair/plan.c \
	repair/repair.h \
	repair/undo.c \
	$(NULL)
