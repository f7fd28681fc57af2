# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Sourced by every script test: prints TAP and owns the scratch folder.
#
#	. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
#	requires qemu-img
#	plan 2                          # may be left out: counted at the end by done_testing
#	is "$(cmd)" 'wanted' 'what it shows'
#	ok 'it converts' "$PLATTER" convert -O qcow2 a b
#	done_testing
#
# A script that ends without done_testing (or with another count than its plan) has failed, and
# so has one with a "not ok".  Set after sourcing:
#
#	PLATTER     the program that was built; a name that messages show as "platter"
#	QEMU_IMG_LINK  the same program under the name "qemu-img"
#	srcdir      root of the source tree      builddir   root of the build tree
#	SCRATCH     a private folder, also the current one; removed at exit
#	SANITIZER   1 in a sanitizer build (no limits on address space there), else 0
#
# Run by hand: abs_builddir=build bash tests/cli/name.sh

set -u

srcdir=$(cd "${abs_srcdir:-$(dirname "${BASH_SOURCE[0]}")/..}" && pwd) || exit 99
builddir=$(cd "${abs_builddir:-$srcdir/build}" && pwd) || exit 99
SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/platter-test.XXXXXX") || exit 99
SANITIZER=${PLT_SANITIZER:-0}
export SANITIZER

# Where random work begins, bash's $RANDOM too: at the same place in each run, so that a check fails for what has been changed
# and for nothing else.  PLT_SEED is another place; "random" is one that is made up, other ones each time (`make soak`).
if [ "${PLT_SEED:-}" = random ]; then
	export PLT_SEED=$((RANDOM << 15 | RANDOM))
	echo "# PLT_SEED=$PLT_SEED"
fi
RANDOM=${PLT_SEED:-1}

tap_count=0
tap_failed=0
tap_planned=
tap_done=

tap_cleanup() {
	local status=$?

	cd /
	if [ -n "${KEEP_SCRATCH:-}" ]; then
		echo "# kept: $SCRATCH"
	else
		chmod -R u+rwX "$SCRATCH" 2>/dev/null
		rm -rf "$SCRATCH"
	fi
	if [ -z "$tap_done" ]; then
		echo "Bail out! ended before done_testing (status $status)"
		exit 1
	fi
	exit "$status"
}
trap tap_cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The program itself, not libtool's wrapper: it starts faster, debuggers see it, argv[0] is right.
mkdir "$SCRATCH/.bin" || exit 99
if [ -x "$builddir/.libs/platter" ]; then
	tap_program=$builddir/.libs/platter
	export LD_LIBRARY_PATH="$builddir/.libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
else
	tap_program=$builddir/platter
fi
ln -s "$tap_program" "$SCRATCH/.bin/platter"
ln -s "$tap_program" "$SCRATCH/.bin/qemu-img"
PLATTER=$SCRATCH/.bin/platter
QEMU_IMG_LINK=$SCRATCH/.bin/qemu-img
export PLATTER QEMU_IMG_LINK srcdir builddir SCRATCH
mkdir "$SCRATCH/work" && cd "$SCRATCH/work" || exit 99

# Where python3 is a script that looks for the interpreter (pyenv's), that takes several times as long as to start it.
if tap_python=$(command -v python3) && { read -r -N 2 tap_magic <"$tap_python"; } 2>/dev/null && [ "$tap_magic" = '#!' ]; then
	tap_python=$(python3 -c 'import os, sys; print(os.path.dirname(sys.executable))') && PATH=$tap_python:$PATH
fi

plan() {
	tap_planned=$1
	echo "1..$1"
}

pass() {
	tap_count=$((tap_count + 1))
	printf 'ok %d - %s\n' "$tap_count" "${1//#/\\#}"
}

# fail DESCRIPTION [DIAGNOSTIC...]
fail() {
	local text=$1

	shift
	tap_count=$((tap_count + 1))
	tap_failed=$((tap_failed + 1))
	printf 'not ok %d - %s\n' "$tap_count" "${text//#/\\#}"
	[ $# -eq 0 ] || diag "$@"
	return 1
}

diag() {
	printf '%s\n' "$@" | sed 's/^/# /'
}

# skip DESCRIPTION REASON: one point that cannot be decided here.
skip() {
	tap_count=$((tap_count + 1))
	printf 'ok %d - %s # SKIP %s\n' "$tap_count" "${1//#/\\#}" "$2"
}

# skip_all REASON: ends the script.  Only before the first point.
skip_all() {
	echo "1..0 # SKIP $1"
	tap_done=1
	exit 0
}

# requires TOOL...: skips the whole script, naming the first that is missing.
requires() {
	local tool

	for tool; do
		command -v "$tool" >/dev/null 2>&1 || skip_all "$tool is not installed"
	done
}

# poke FILE OFFSET BYTES: bytes as printf has them (\x00\1)
poke() {
	# shellcheck disable=SC2059 # the bytes are a format
	printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# zero FILE OFFSET LENGTH
zero() {
	dd if=/dev/zero of="$1" bs="$3" oflag=seek_bytes seek="$2" count=1 conv=notrunc status=none
}

# undone IMAGE BEFORE DESCRIPTION: its repair is taken back, to the very bytes
undone() {
	if ! "$PLATTER" undo -q "$1.platter-undo"; then
		fail "$3" 'undo has failed'
	elif [ -e "$1.platter-undo" ]; then
		fail "$3" 'the journal is still there'
	else
		is_file_equal "$1" "$2" "$3"
	fi
}

# settled STATUS FILE: the status with which a repair has ended; 0 for 2 if nothing is wrong or lost by what it has said
# (in FILE), but not all of it is proven.
settled() {
	if [ "$1" = 2 ] && grep -q 'rest on less than proof' "$2" && ! grep -q -e ': lost: ' -e ' are left' "$2"; then
		echo 0
	else
		echo "$1"
	fi
}

# sampled [N]: for loops over many cases of one kind: one in N of them, others for each seed.  A sanitizer looks for errors of
# memory and is slow: a third of that is enough there.
sampled_count=$((RANDOM % 36))
sampled() {
	local of=${1:-1}

	[ "$SANITIZER" = 1 ] && of=$((of * 3))
	sampled_count=$((sampled_count + 1))
	[ $((sampled_count % of)) -eq 0 ]
}

# ok DESCRIPTION COMMAND...: it exits 0.  Its output is shown if it does not.
ok() {
	local text=$1 out status

	shift
	out=$("$@" 2>&1)
	status=$?
	if [ "$status" -eq 0 ]; then
		pass "$text"
	else
		fail "$text" "status $status: $*" "$out"
	fi
}

# fails STATUS DESCRIPTION COMMAND...: it exits with exactly STATUS.
fails() {
	local want=$1 text=$2 out status

	shift 2
	out=$("$@" 2>&1)
	status=$?
	if [ "$status" -eq "$want" ]; then
		pass "$text"
	else
		fail "$text" "status $status, expected $want: $*" "$out"
	fi
}

# is GOT EXPECTED DESCRIPTION
is() {
	if [ "$1" = "$2" ]; then
		pass "$3"
	else
		fail "$3" "got:" "$1" "expected:" "$2"
	fi
}

isnt() {
	if [ "$1" != "$2" ]; then
		pass "$3"
	else
		fail "$3" "got what must not be:" "$1"
	fi
}

# like TEXT EXTENDED-REGULAR-EXPRESSION DESCRIPTION
like() {
	if printf '%s\n' "$1" | grep -Eq -e "$2"; then
		pass "$3"
	else
		fail "$3" "got:" "$1" "expected a match of:" "$2"
	fi
}

unlike() {
	if printf '%s\n' "$1" | grep -Eq -e "$2"; then
		fail "$3" "got:" "$1" "expected no match of:" "$2"
	else
		pass "$3"
	fi
}

# is_file_equal A B DESCRIPTION: byte for byte, lengths too.
is_file_equal() {
	local out

	if out=$(cmp "$1" "$2" 2>&1); then
		pass "$3"
	else
		fail "$3" "$out"
	fi
}

# is_output FILE EXPECTED DESCRIPTION: texts; shows the difference.
is_output() {
	local out

	if out=$(diff -u "$2" "$1" 2>&1); then
		pass "$3"
	else
		fail "$3" "$out"
	fi
}

done_testing() {
	tap_done=1
	if [ -z "$tap_planned" ]; then
		echo "1..$tap_count"
	elif [ "$tap_planned" -ne "$tap_count" ]; then
		diag "planned $tap_planned, ran $tap_count"
		exit 1
	fi
	if [ "$tap_count" -eq 0 ]; then
		echo "Bail out! nothing was tested"
		exit 1
	fi
	# automake would count the exit status as one failure more.
	[ "$tap_failed" -eq 0 ] || [ -n "${PLT_HARNESS:-}" ]
	exit
}
