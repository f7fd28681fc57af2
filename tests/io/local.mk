# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

unit_tests += \
	tests/io/test-faults \
	tests/io/test-file \
	tests/io/test-journal \
	tests/io/test-lock \
	tests/io/test-medium \
	tests/io/test-model \
	tests/io/test-ring \
	tests/io/test-store \
	$(NULL)

tests_io_test_faults_SOURCES = tests/io/stores.h tests/io/test-faults.c
tests_io_test_file_SOURCES = tests/io/test-file.c
tests_io_test_journal_SOURCES = tests/io/test-journal.c
tests_io_test_lock_SOURCES = tests/io/test-lock.c
tests_io_test_medium_SOURCES = tests/io/test-medium.c
tests_io_test_model_SOURCES = tests/io/test-model.c
tests_io_test_ring_SOURCES = \
	tests/io/rings.c \
	tests/io/rings.h \
	tests/io/test-ring-load.c \
	tests/io/test-ring.c \
	$(NULL)
tests_io_test_store_SOURCES = tests/io/stores.h tests/io/test-store.c

tsan_tests += \
	tests/io/test-faults \
	tests/io/test-file \
	tests/io/test-ring \
	tests/io/test-store \
	$(NULL)
