#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# A slice of the recovery report (recovery.py), always the same: every class of damage once, on small images.  What
# comes back of each is held against recovery.expected: "whole" (all that survives), "part" (what is missing was
# said) or "silent" (something is wrong, and nobody said so); what is worse than expected fails, and so does an undo
# that does not give the bytes back.  UPDATE=1 writes recovery.expected anew, after a change that brings back more.
# Then some of three damages at once, from $PLT_SEED or other ones each time, of which only undo, crashes, interrupted
# repairs and qemu-img's word on what is said to be right are judged.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
requires python3 qemu-img qemu-io mke2fs debugfs dumpe2fs e2fsck

expected=$srcdir/tests/repair/recovery.expected
# In memory if there is room: most of the time would be spent in syncing.
export TMPDIR=$SCRATCH
[ "$(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1)" -gt 600000 ] 2>/dev/null && [ -w /dev/shm ] && TMPDIR=/dev/shm
shapes=q4k,q4k-snapshot,q64k-packed,q4k-bitmap,q64k-external,v-small,v-child,raw

# recovery DESCRIPTION ARGUMENTS...
recovery() {
	local text=$1 status

	shift
	python3 -B "$srcdir/tests/repair/recovery.py" --mib 64 --guests ext4 --shapes $shapes --no-peer --times 1 --cuts 1 "$@" \
		>out 2>&1
	status=$?
	[ $status = 0 ] || diag "$(cat out)"
	is $status 0 "$text: undo gives every byte back, no program fails, qemu-img finds nothing in what is said to be right"
}

recovery 'one damage' --seed 7 --states got
recovery 'LVM' --seed 7 --shapes raw-lvm --classes R-LVM- --states got.more
cat got.more >>got
[ -n "${UPDATE:-}" ] && cp got "$expected"
while read -r class guest shape was; do
	now=$(awk -v c="$class" '$1 == c { print $4 }' got)
	case $was:$now in
	whole:whole | part:part | part:whole | silent:?*) pass "$class, $guest, $shape: $now" ;;
	*) fail "$class, $guest, $shape: '$now', and it was '$was'" ;;
	esac
done <"$expected"
is "$(wc -l <got)" "$(wc -l <"$expected")" 'every class is expected'

seed=${PLT_SEED:-$RANDOM}
echo "# PLT_SEED=$seed"
recovery 'three at once' --seed "$seed" --damages 3 --every 8
done_testing
