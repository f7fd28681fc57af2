# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

unit_tests += tests/repair/test-evidence
tests_repair_test_evidence_SOURCES = tests/repair/test-evidence.c

unit_tests += tests/repair/test-deep-map
tests_repair_test_deep_map_SOURCES = tests/repair/test-deep-map.c

unit_tests += tests/repair/test-worse
tests_repair_test_worse_SOURCES = tests/repair/test-worse.c tests/block/lab.c tests/block/lab.h

check_helpers += tests/repair/evidence-lab tests/repair/mend-lab tests/repair/weigh-lab
tests_repair_evidence_lab_SOURCES = tests/repair/evidence-lab.c
tests_repair_mend_lab_SOURCES = tests/repair/mend-lab.c
tests_repair_weigh_lab_SOURCES = tests/repair/weigh-lab.c

script_tests += \
	tests/repair/chains.sh \
	tests/repair/data-file.sh \
	tests/repair/deep.sh \
	tests/repair/device.sh \
	tests/repair/encrypted.sh \
	tests/repair/evidence.sh \
	tests/repair/guest-disks.sh \
	tests/repair/journals.sh \
	tests/repair/lost-bitmaps.sh \
	tests/repair/lost-blocks.sh \
	tests/repair/lost-child.sh \
	tests/repair/lost-clusters.sh \
	tests/repair/lost-counts.sh \
	tests/repair/lost-header.sh \
	tests/repair/lost-snapshots.sh \
	tests/repair/lost-tables.sh \
	tests/repair/media.sh \
	tests/repair/parents.sh \
	tests/repair/plan-file.sh \
	tests/repair/recovery.sh \
	tests/repair/rescue.sh \
	tests/repair/sizes.sh \
	tests/repair/sound.sh \
	tests/repair/stopped-snapshots.sh \
	tests/repair/streams.sh \
	tests/repair/trust.sh \
	tests/repair/vhd-journal.sh \
	$(NULL)

EXTRA_DIST += \
	tests/repair/blocks.py \
	tests/repair/cuts.py \
	tests/repair/damage.py \
	tests/repair/mutations.py \
	tests/repair/recovery.expected \
	tests/repair/recovery.py \
	tests/repair/recovery_chain.py \
	tests/repair/recovery_table.py \
	tests/repair/sound.py \
	$(NULL)

# What comes back of damaged images, by class: rewrites docs/recovery.md.  Minutes.
RECOVERY = --seed 7 --times 2 --cuts 1 --deep
recovery-report: platter$(EXEEXT)
	PLATTER=$(abs_top_builddir)/platter python3 -B $(srcdir)/tests/repair/recovery.py $(RECOVERY) \
		--markdown $(srcdir)/docs/recovery.md
.PHONY: recovery-report

# 1000 random mutations of an image of each format: no crash, no hang, nothing worse than stock.  Hours.
mutations: platter$(EXEEXT)
	PLATTER=$(abs_top_builddir)/platter python3 -B $(srcdir)/tests/repair/mutations.py $${COUNT:-1000} $${SEED:-1}
.PHONY: mutations
