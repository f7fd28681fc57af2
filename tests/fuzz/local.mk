# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# A fuzz target is one file with LLVMFuzzerTestOneInput():
#
#     fuzz_targets += tests/fuzz/fuzz-NAME
#     tests_fuzz_fuzz_NAME_SOURCES = tests/fuzz/fuzz-NAME.c
#     tests_fuzz_fuzz_NAME_LDADD = $(fuzz_ldadd)
#     tests_fuzz_fuzz_NAME_LDFLAGS = $(fuzz_ldflags)
#
# With --enable-fuzzing it is a libFuzzer program; otherwise replay.c gives it a main() that runs
# the files (and the files of the folders) named on the command line.

fuzz_ldflags = $(AM_LDFLAGS) $(FUZZ_LDFLAGS)

if ENABLE_FUZZING
fuzz_ldadd = libplatter_core.la
EXTRA_DIST += tests/fuzz/replay.c
else
check_LTLIBRARIES += libplatter_replay.la
libplatter_replay_la_SOURCES = tests/fuzz/replay.c
fuzz_ldadd = libplatter_replay.la libplatter_core.la
endif

fuzz_targets += \
	tests/fuzz/fuzz-check \
	tests/fuzz/fuzz-free \
	tests/fuzz/fuzz-map \
	tests/fuzz/fuzz-mend \
	tests/fuzz/fuzz-name \
	tests/fuzz/fuzz-open \
	tests/fuzz/fuzz-options \
	tests/fuzz/fuzz-probe \
	tests/fuzz/fuzz-read \
	tests/fuzz/fuzz-scan \
	tests/fuzz/fuzz-write \
	$(NULL)

tests_fuzz_fuzz_check_SOURCES = tests/fuzz/fuzz-check.c tests/fuzz/fuzz.h
tests_fuzz_fuzz_check_LDADD = $(fuzz_ldadd)
tests_fuzz_fuzz_check_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_free_SOURCES = tests/fuzz/fuzz-free.c tests/fuzz/fuzz.h
tests_fuzz_fuzz_free_LDADD = $(fuzz_ldadd)
tests_fuzz_fuzz_free_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_map_SOURCES = tests/fuzz/fuzz-map.c tests/fuzz/fuzz.h
tests_fuzz_fuzz_map_LDADD = $(fuzz_ldadd)
tests_fuzz_fuzz_map_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_mend_SOURCES = tests/fuzz/fuzz-mend.c tests/fuzz/fuzz.h
tests_fuzz_fuzz_mend_LDADD = $(fuzz_ldadd)
tests_fuzz_fuzz_mend_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_name_SOURCES = tests/fuzz/fuzz-name.c tests/fuzz/fuzz.h
tests_fuzz_fuzz_name_LDADD = $(fuzz_ldadd)
tests_fuzz_fuzz_name_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_open_SOURCES = tests/fuzz/fuzz-open.c tests/fuzz/fuzz.h
tests_fuzz_fuzz_open_LDADD = $(fuzz_ldadd)
tests_fuzz_fuzz_open_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_options_SOURCES = tests/fuzz/fuzz-options.c tests/fuzz/fuzz.h
tests_fuzz_fuzz_options_LDADD = $(fuzz_ldadd)
tests_fuzz_fuzz_options_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_probe_SOURCES = tests/fuzz/fuzz-probe.c tests/fuzz/fuzz.h
tests_fuzz_fuzz_probe_LDADD = $(fuzz_ldadd)
tests_fuzz_fuzz_probe_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_read_SOURCES = tests/fuzz/fuzz-read.c tests/fuzz/fuzz.h
tests_fuzz_fuzz_read_LDADD = $(fuzz_ldadd)
tests_fuzz_fuzz_read_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_scan_SOURCES = tests/fuzz/fuzz-scan.c tests/fuzz/fuzz.h
tests_fuzz_fuzz_scan_LDADD = $(fuzz_ldadd)
tests_fuzz_fuzz_scan_LDFLAGS = $(fuzz_ldflags)
tests_fuzz_fuzz_write_SOURCES = tests/fuzz/fuzz-write.c tests/fuzz/fuzz.h
tests_fuzz_fuzz_write_LDADD = $(fuzz_ldadd)
tests_fuzz_fuzz_write_LDFLAGS = $(fuzz_ldflags)

check_helpers += tests/fuzz/make-images tests/fuzz/make-vhd
tests_fuzz_make_images_SOURCES = \
	tests/fuzz/hostile-opens.c \
	tests/fuzz/hostile-pack.c \
	tests/fuzz/hostile.c \
	tests/fuzz/hostile.h \
	tests/fuzz/make-images.c \
	$(NULL)
tests_fuzz_make_vhd_SOURCES = tests/fuzz/make-vhd.c

script_tests += \
	tests/fuzz/corpus.sh \
	tests/fuzz/hostile.sh \
	$(NULL)
EXTRA_DIST += \
	tests/fuzz/corpus \
	tests/fuzz/make-corpus.sh \
	$(NULL)
