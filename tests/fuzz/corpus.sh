#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Every fuzz target over the stored corpus.  A target that comes back has passed; hanging and growing
# are failures as well as crashing.  New inputs are what libFuzzer finds (configure --enable-fuzzing,
# then tests/fuzz/fuzz-NAME tests/fuzz/corpus/KIND); those that found a bug are kept in the corpus.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"

seconds=60
[ "$SANITIZER" = 1 ] && seconds=200

# replay TARGET KIND
replay() {
	local program=$builddir/tests/fuzz/fuzz-$1 corpus=$srcdir/tests/fuzz/corpus/$2 status

	if [ "$SANITIZER" = 1 ]; then # it reserves terabytes of addresses
		timeout "$seconds" "$program" "$corpus"/* >log 2>&1
	else
		timeout "$seconds" prlimit --as=2147483648 --cpu="$seconds" "$program" "$corpus"/* >log 2>&1
	fi
	status=$?
	if [ "$status" -eq 0 ]; then
		pass "fuzz-$1 over the corpus of ${2}s"
	else
		fail "fuzz-$1 over the corpus of ${2}s" "status $status" "$(tail -n 30 log)"
	fi
}

requires prlimit timeout
[ -x "$builddir/tests/fuzz/fuzz-open" ] || skip_all "the fuzz targets were not built"
plan 12
replay probe image
replay open image
replay map image
replay read image
replay check image
replay mend image
replay scan image
replay free image
replay free guest
replay write image
replay name name
replay options option
done_testing
