# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

libplatter_core_la_SOURCES += \
	formats/doubt.c \
	formats/doubt.h \
	formats/driver.h \
	formats/finding.c \
	formats/finding.h \
	formats/name.c \
	formats/name.h \
	formats/options.c \
	formats/options.h \
	formats/policy.c \
	formats/policy.h \
	formats/probe.c \
	formats/probe.h \
	formats/registry.c \
	$(NULL)
