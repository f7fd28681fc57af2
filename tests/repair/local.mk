# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

check_helpers += tests/repair/evidence-lab
tests_repair_evidence_lab_SOURCES = tests/repair/evidence-lab.c
