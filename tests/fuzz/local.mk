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
