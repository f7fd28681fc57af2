# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

unit_tests += tests/repair/test-evidence
tests_repair_test_evidence_SOURCES = tests/repair/test-evidence.c

check_helpers += tests/repair/evidence-lab
tests_repair_evidence_lab_SOURCES = tests/repair/evidence-lab.c

script_tests += \
	tests/repair/evidence.sh \
	tests/repair/guest-disks.sh \
	tests/repair/lost-blocks.sh \
	tests/repair/lost-tables.sh \
	$(NULL)
