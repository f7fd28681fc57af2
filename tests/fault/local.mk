# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

if HAVE_CHECK
check_LTLIBRARIES += libplatter_fault.la
endif
libplatter_fault_la_SOURCES = \
	tests/fault/judge.c \
	tests/fault/powercut.c \
	tests/fault/powercut.h \
	tests/fault/rig-images.c \
	tests/fault/rig.c \
	tests/fault/rig.h \
	tests/fault/scenarios-manage.c \
	tests/fault/scenarios-qcow2.c \
	tests/fault/scenarios-vhd.c \
	tests/fault/scenarios.c \
	tests/fault/scenarios.h \
	$(NULL)

fault_ldadd = libplatter_fault.la $(LDADD)

unit_tests += tests/fault/test-powercut
tests_fault_test_powercut_SOURCES = tests/fault/test-powercut.c
tests_fault_test_powercut_LDADD = $(fault_ldadd)

unit_tests += tests/fault/test-powercut-rules
tests_fault_test_powercut_rules_SOURCES = tests/fault/test-powercut-rules.c
tests_fault_test_powercut_rules_LDADD = $(fault_ldadd)

unit_tests += tests/fault/test-failing
tests_fault_test_failing_SOURCES = tests/fault/test-failing.c
tests_fault_test_failing_LDADD = $(fault_ldadd)

unit_tests += tests/fault/test-sound
tests_fault_test_sound_SOURCES = tests/fault/test-sound.c
tests_fault_test_sound_LDADD = $(fault_ldadd)

# A sound image is never touched: 10,000 of them.
sound-images: tests/fault/test-sound$(EXEEXT)
	PLT_SOUND=10000 tests/fault/test-sound
.PHONY: sound-images

unit_tests += tests/fault/test-races
tests_fault_test_races_SOURCES = tests/fault/test-races.c
tests_fault_test_races_LDADD = $(fault_ldadd)
tsan_tests += tests/fault/test-races

unit_tests += tests/fault/test-chains
tests_fault_test_chains_SOURCES = tests/fault/test-chains.c $(chainlab_sources)
tests_fault_test_chains_LDADD = $(fault_ldadd)

unit_tests += tests/fault/test-repair
tests_fault_test_repair_SOURCES = tests/fault/test-repair.c
tests_fault_test_repair_LDADD = $(fault_ldadd)

unit_tests += tests/fault/test-unread
tests_fault_test_unread_SOURCES = tests/fault/test-unread.c
tests_fault_test_unread_LDADD = $(fault_ldadd)

# What the peers make of the states.
if HAVE_CHECK
check_helpers += tests/fault/dump-states
tests_fault_dump_states_SOURCES = tests/fault/dump-states.c
tests_fault_dump_states_LDADD = $(fault_ldadd)
endif
script_tests += tests/fault/peer.sh
