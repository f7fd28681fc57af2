# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

unit_tests += \
	tests/convert/test-hold \
	tests/convert/test-source \
	$(NULL)

tests_convert_test_hold_SOURCES = tests/convert/test-hold.c
tests_convert_test_source_SOURCES = tests/convert/test-source.c

check_helpers += tests/convert/free-lab
tests_convert_free_lab_SOURCES = tests/convert/free-lab.c

EXTRA_DIST += tests/convert/leak.py tests/convert/measure.py tests/convert/pv.py

script_tests += \
	tests/convert/backing.sh \
	tests/convert/compare.sh \
	tests/convert/hash.sh \
	tests/convert/measure.sh \
	tests/convert/refused.sh \
	tests/convert/roundtrip.sh \
	tests/convert/salvage.sh \
	tests/convert/scan.sh \
	tests/convert/sparsify.sh \
	tests/convert/sparsify-maps.sh \
	tests/convert/target.sh \
	$(NULL)

tsan_tests += \
	tests/convert/test-hold \
	tests/convert/test-source \
	$(NULL)
