# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

unit_tests += \
	tests/base/test-alloc \
	tests/base/test-bitmap \
	tests/base/test-checked \
	tests/base/test-crc \
	tests/base/test-crew \
	tests/base/test-digest \
	tests/base/test-endian \
	tests/base/test-error \
	tests/base/test-extents \
	tests/base/test-iov \
	tests/base/test-pool \
	tests/base/test-zero \
	$(NULL)

tests_base_test_alloc_SOURCES = tests/base/test-alloc.c
tests_base_test_bitmap_SOURCES = tests/base/test-bitmap.c
tests_base_test_checked_SOURCES = tests/base/test-checked.c
tests_base_test_crc_SOURCES = tests/base/test-crc.c
tests_base_test_crew_SOURCES = tests/base/test-crew.c
tests_base_test_digest_SOURCES = tests/base/test-digest.c
tests_base_test_endian_SOURCES = tests/base/test-endian.c
tests_base_test_error_SOURCES = tests/base/test-error.c
tests_base_test_extents_SOURCES = tests/base/test-extents.c
tests_base_test_iov_SOURCES = tests/base/test-iov.c
tests_base_test_pool_SOURCES = tests/base/test-pool.c
tests_base_test_zero_SOURCES = tests/base/test-zero.c

tsan_tests += \
	tests/base/test-crew \
	tests/base/test-digest \
	tests/base/test-pool \
	$(NULL)
