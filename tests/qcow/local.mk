# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

unit_tests += \
	tests/qcow/test-qcow \
	$(NULL)

tests_qcow_test_qcow_SOURCES = tests/qcow/test-qcow.c
