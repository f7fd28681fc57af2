# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

unit_tests += tests/snapshot/test-internal
tests_snapshot_test_internal_SOURCES = tests/snapshot/test-internal.c tests/block/lab.c tests/block/lab.h
tsan_tests += tests/snapshot/test-internal

chainlab_sources = \
	tests/snapshot/chainjudge.c \
	tests/snapshot/chainlab.c \
	tests/snapshot/chainlab.h \
	$(NULL)

unit_tests += tests/snapshot/test-operations
tests_snapshot_test_operations_SOURCES = tests/snapshot/test-operations.c $(chainlab_sources)
