# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Sourced after tests/lib.sh by tests that compare whole command lines with qemu-img's.
#
# The script defines a function of lines "t ARGUMENTS", which runs the program under test with them
# and puts the command, its output (stdout and stderr) and its exit status into a transcript.  The
# expected transcript lies beside the script as NAME.out.  It is what qemu-img 7.2 says, and where
# that is installed, that is verified too: so the file can be neither wrong nor out of date.
#
#	same_as_qemu NAME FUNCTION

t() {
	printf '$ qemu-img %s\n' "$*"
	"$QI" "$@" 2>&1 </dev/null
	printf 'status %d\n' "$?"
}

# What differs from run to run, or by how the allocator of a format places things.
transcript_filter() {
	sed -E -e 's/^disk size: .*/disk size: SIZE/' -e 's/"actual-size": [0-9]+/"actual-size": SIZE/' \
		-e 's/[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}/DATE               /' \
		-e 's/"date-n?sec": [0-9]+/"date": NUMBER/' -e 's/^(Run completed in) [0-9.]+/\1 SOME/'
}

# transcript PROGRAM FUNCTION FILE: in a fresh folder, so that both programs find the same.
transcript() {
	rm -rf "$SCRATCH/transcript"
	mkdir "$SCRATCH/transcript"
	(cd "$SCRATCH/transcript" && QI=$1 && "$2") | transcript_filter | tr '\r' '\n' >"$3"
}

is_qemu_7() {
	command -v qemu-img >/dev/null && qemu-img --version | grep -q '^qemu-img version 7\.2'
}

same_as_qemu() {
	local want=$srcdir/tests/cli/$1.out

	transcript "$QEMU_IMG_LINK" "$2" "$SCRATCH/got"
	is_output "$SCRATCH/got" "$want" "platter as qemu-img: $1"
	if is_qemu_7; then
		transcript "$(command -v qemu-img)" "$2" "$SCRATCH/theirs"
		is_output "$SCRATCH/theirs" "$want" "qemu-img itself: $1"
	else
		skip "qemu-img itself: $1" "qemu-img 7.2 is not installed"
	fi
}
