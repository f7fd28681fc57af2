# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# How tests are built and run.  The folders below add to unit_tests and script_tests.

if HAVE_CHECK
check_PROGRAMS += $(unit_tests)
TESTS += $(unit_tests)
endif

check_LTLIBRARIES += libplatter_unit.la
libplatter_unit_la_SOURCES = \
	tests/unit.c \
	tests/unit.h \
	$(NULL)

# What a program links that names nothing else: the unit tests and the helpers of scripts.
LDADD = libplatter_unit.la libplatter_core.la $(CHECK_LIBS)

EXTRA_DIST += tests/lib.sh

tap_driver = env AM_TAP_AWK='$(AWK)' $(SHELL) $(top_srcdir)/build-aux/tap-driver.sh
LOG_DRIVER = $(tap_driver)
TEST_EXTENSIONS = .sh
SH_LOG_DRIVER = $(tap_driver)
SH_LOG_COMPILER = $(BASH)

# Tests see the same language everywhere, no settings of the caller's, and (where no sanitizer has
# its own allocator) memory that is never zero by luck.
AM_TESTS_ENVIRONMENT = \
	PLT_HARNESS=1; export PLT_HARNESS; \
	LC_ALL=C; export LC_ALL; \
	TZ=UTC0; export TZ; \
	abs_srcdir='$(abs_top_srcdir)'; export abs_srcdir; \
	abs_builddir='$(abs_top_builddir)'; export abs_builddir;
if ENABLE_SANITIZER
AM_TESTS_ENVIRONMENT += \
	PLT_SANITIZER=1; export PLT_SANITIZER; \
	CK_FORK=no; export CK_FORK; \
	ASAN_OPTIONS="allocator_may_return_null=1:$$ASAN_OPTIONS"; export ASAN_OPTIONS; \
	UBSAN_OPTIONS="print_stacktrace=1:$$UBSAN_OPTIONS"; export UBSAN_OPTIONS; \
	TSAN_OPTIONS="allocator_may_return_null=1:second_deadlock_stack=1:$$TSAN_OPTIONS"; \
	export TSAN_OPTIONS;
else
AM_TESTS_ENVIRONMENT += \
	MALLOC_CHECK_=3; export MALLOC_CHECK_; \
	MALLOC_PERTURB_=165; export MALLOC_PERTURB_;
endif

# The threaded tests alone: what a build with --enable-tsan is for.
check-tsan:
	$(MAKE) $(AM_MAKEFLAGS) platter$(EXEEXT) $(check_helpers) $(tsan_tests)
	$(MAKE) $(AM_MAKEFLAGS) check-TESTS TESTS='$(tsan_tests)'
.PHONY: check-tsan

# All of it again and again, with other random numbers each time, until something fails: the log says which PLT_SEED.
soak:
	while PLT_SEED=random $(MAKE) $(AM_MAKEFLAGS) check; do :; done; false
.PHONY: soak
