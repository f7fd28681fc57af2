# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

unit_tests += \
	tests/qcow2/test-check \
	tests/qcow2/test-create \
	tests/qcow2/test-guard \
	tests/qcow2/test-header \
	tests/qcow2/test-open \
	$(NULL)

tests_qcow2_test_check_SOURCES = tests/qcow2/test-check.c tests/qcow2/make.h
tests_qcow2_test_create_SOURCES = tests/qcow2/test-create.c tests/qcow2/make.h
tests_qcow2_test_guard_SOURCES = tests/qcow2/test-guard.c tests/block/lab.c tests/block/lab.h
tests_qcow2_test_header_SOURCES = tests/qcow2/test-header.c tests/qcow2/make.h
tests_qcow2_test_open_SOURCES = tests/qcow2/test-open.c tests/qcow2/make.h

script_tests += \
	tests/qcow2/check.sh \
	tests/qcow2/create.sh \
	tests/qcow2/data-file.sh \
	$(NULL)

EXTRA_DIST += tests/qcow2/damage.py
