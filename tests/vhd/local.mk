# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

unit_tests += \
	tests/vhd/test-check \
	tests/vhd/test-data \
	tests/vhd/test-footer \
	tests/vhd/test-locator \
	tests/vhd/test-mend \
	tests/vhd/test-parent \
	$(NULL)

vhd_make = tests/vhd/make.c tests/vhd/make.h
tests_vhd_test_check_SOURCES = tests/vhd/test-check.c $(vhd_make)
tests_vhd_test_footer_SOURCES = tests/vhd/test-footer.c $(vhd_make)
tests_vhd_test_locator_SOURCES = tests/vhd/test-locator.c $(vhd_make)
tests_vhd_test_mend_SOURCES = tests/vhd/test-mend.c $(vhd_make)
tests_vhd_test_parent_SOURCES = tests/vhd/test-parent.c $(vhd_make)
tests_vhd_test_data_SOURCES = tests/vhd/test-data.c $(vhd_make)
