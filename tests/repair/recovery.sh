#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# A slice of the recovery report (recovery.py), always the same: every class of damage once, on small images.  What
# comes back of each is held against recovery.expected: "whole" (all that survives), "part" (what is missing was
# said) or "silent" (something is wrong, and nobody said so); what is worse than expected fails, and so does an undo
# that does not give the bytes back.  UPDATE=1 writes recovery.expected anew, after a change that brings back more.
# With $PLT_SEED other damages are done, of which only undo, crashes and qemu-img's word on what is repaired are judged.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
requires python3 qemu-img qemu-io mke2fs debugfs dumpe2fs e2fsck

expected=$srcdir/tests/repair/recovery.expected
# In memory if there is room: most of the time would be spent in syncing.
export TMPDIR=$SCRATCH
[ "$(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1)" -gt 600000 ] 2>/dev/null && [ -w /dev/shm ] && TMPDIR=/dev/shm
echo "# PLT_SEED=${PLT_SEED:-7}"
python3 -B "$srcdir/tests/repair/recovery.py" --seed "${PLT_SEED:-7}" --mib 64 --guests ext4 --no-peer --times 1 --cuts 1 \
	--shapes q4k,q4k-snapshot,q64k-packed,q4k-bitmap,q64k-external,v-small,v-child,raw --states got >out 2>&1
status=$?
[ $status = 0 ] || diag "$(cat out)"
is $status 0 'undo gives every byte back, no program fails, qemu-img finds nothing in what is said to be right'
[ -n "${UPDATE:-}" ] && cp got "$expected"
if [ -z "${PLT_SEED:-}" ]; then
	while read -r class guest shape was; do
		now=$(awk -v c="$class" '$1 == c { print $4 }' got)
		case $was:$now in
		whole:whole | part:part | part:whole | silent:?*) pass "$class, $guest, $shape: $now" ;;
		*) fail "$class, $guest, $shape: '$now', and it was '$was'" ;;
		esac
	done <"$expected"
	is "$(wc -l <got)" "$(wc -l <"$expected")" 'every class is expected'
fi
done_testing
