# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

unit_tests += \
	tests/formats/test-doubt \
	tests/formats/test-finding \
	tests/formats/test-name \
	tests/formats/test-options \
	$(NULL)

tests_formats_test_doubt_SOURCES = tests/formats/test-doubt.c
tests_formats_test_finding_SOURCES = tests/formats/test-finding.c
tests_formats_test_name_SOURCES = tests/formats/test-name.c
tests_formats_test_options_SOURCES = tests/formats/test-options.c
