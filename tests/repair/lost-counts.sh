#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# A qcow2 that has lost its counts together with a part of its map: what nothing reaches is no free space then, however
# little is counted.  What has one place only goes back there; what has none is said to be lost, and not given free.
# Counts alone, with old data in clusters that were free, are no loss; and a writer that was killed with counts behind
# (lazy_refcounts) has lost nothing.  undo gives the very bytes back.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io

# be OFFSET BYTES FILE: a number
be() {
	echo $((16#$(od -An -tx1 -j "$1" -N "$2" "$3" | tr -d ' \n')))
}
# zeros OFFSET LENGTH: over d.qcow2
zeros() {
	dd if=/dev/zero of=d.qcow2 bs=8 seek=$(($1 / 8)) count=$(($2 / 8)) conv=notrunc status=none
}
# parts: where they are in d.qcow2
parts() {
	cs=$((1 << $(be 20 4 d.qcow2)))
	l1=$(be 40 8 d.qcow2) l1len=$((8 * $(be 36 4 d.qcow2)))
	rt=$(be 48 8 d.qcow2) rtlen=$((cs * $(be 56 4 d.qcow2)))
}
no_table() { zeros "$rt" "$rtlen"; }
no_blocks() {
	local k off
	for ((k = 0; k < rtlen / 8 && k < 64; k++)); do
		off=$(be $((rt + 8 * k)) 8 d.qcow2)
		[ "$off" = 0 ] || zeros "$off" "$cs"
	done
}
no_l1() { zeros "$l1" "$l1len"; }
no_entry() { zeros $((l1 + 8)) 8; }
no_l2() { zeros $(($(be "$l1" 8 d.qcow2) & 0xffffffffffffff)) "$cs"; }
# mend WHAT STATUS: repair, and what holds of every one; leaves the image repaired
mend() {
	cp d.qcow2 before
	isnt "$("$PLATTER" check -q d.qcow2 >/dev/null 2>&1; echo $?)" 0 "$1: check"
	"$PLATTER" repair --yes --report report.json d.qcow2 >out 2>&1
	is $? "$2" "$1: repair"
	ok '  qemu-img finds no error' sh -c 'qemu-img check d.qcow2 >/dev/null 2>&1; [ $? -eq 0 -o $? -eq 3 ]'
}
# whole: the disk is what it was, and undo
whole() {
	ok '  the disk is what it was' qemu-img compare -q d.qcow2 sound.qcow2
	back
}
back() {
	undone d.qcow2 before '  undo'
	rm -f d.qcow2.platter-undo
}

# Tables for two L1 entries, written in turns, a snapshot's beside them, or not.
for options in cluster_size=64k,refcount_bits=1 cluster_size=16k,compat=0.10 cluster_size=16k,extended_l2=on; do
	sampled || continue
	rm -f sound.qcow2
	case $options in
	*64k*) second=512M size=1G ;;
	*extended*) second=16M size=32M ;;
	*) second=32M size=64M ;;
	esac
	qemu-img create -q -f qcow2 -o $options sound.qcow2 $size
	qemu-io -c 'write -q -P 1 0 2M' -c "write -q -P 2 $second 3M" -c 'write -q -P 3 5M 3M' -c "write -q -P 4 $second 1M" sound.qcow2
	for counts in no_table no_blocks; do
		case $counts,$options in no_table,*extended* | no_blocks,*compat*) continue ;; esac
		cp sound.qcow2 d.qcow2
		parts
		$counts
		mend "$options, $counts" 0
		whole
		cp sound.qcow2 d.qcow2
		no_entry
		$counts
		mend "$options, $counts, no_entry" 2
		whole
		cp sound.qcow2 d.qcow2
		no_l2
		$counts
		mend "$options, $counts, no_l2" 2
		ok '  what is lost is said' grep -q '"reason": *"its L2 entry is zero' report.json
		like "$(qemu-img check d.qcow2 2>&1)" 'leaked clusters' '  and is not free'
		back
	done
	# (two tables, and no guest that says which is which)
	cp sound.qcow2 d.qcow2
	no_l1
	no_blocks
	mend "$options, no_l1" 2
	ok '  what is lost is said' grep -q '"lost": *\[' report.json
	like "$(qemu-img check d.qcow2 2>&1)" 'leaked clusters' '  and is not free'
	back
done

# One table: the L1 table needs no guest to be told.
rm -f sound.qcow2
qemu-img create -q -f qcow2 sound.qcow2 300M
qemu-io -c 'write -q -P 1 0 20M' sound.qcow2
cp sound.qcow2 d.qcow2
parts
no_l1
no_table
"$PLATTER" check d.qcow2 >out 2>&1
is $? 2 'an L1 table and a refcount table of zeros: check'
like "$(cat out)" 'part of the map is lost' '  and what it means'
mend 'an L1 table and a refcount table of zeros' 2
whole
# What a snapshot that was deleted has left: its L1 table explains it.
rm -f old.qcow2
qemu-img create -q -f qcow2 -o cluster_size=4k old.qcow2 64M
qemu-io -c 'write -q -P 1 0 1M' old.qcow2
qemu-img snapshot -c one old.qcow2
qemu-io -c 'write -q -P 2 0 1M' old.qcow2
cp old.qcow2 grown
qemu-img snapshot -d one old.qcow2
python3 - grown old.qcow2 <<'END'
import sys
# what a file system that cannot punch keeps: the bytes of clusters that are free now
a, b = open(sys.argv[1], 'rb').read(), bytearray(open(sys.argv[2], 'rb').read())
for at in range(4096, min(len(a), len(b)), 4096):
    if not any(b[at:at + 4096]):
        b[at:at + 4096] = a[at:at + 4096]
open(sys.argv[2], 'wb').write(b)
END
cp old.qcow2 sound.qcow2
for counts in no_table no_blocks; do
	cp sound.qcow2 d.qcow2
	parts
	$counts
	mend "old data in free clusters, $counts" 3
	ok '  what is open is said' grep -q '1 clusters hold data that nothing reaches, and their counts are lost' out
	is "$(grep -c 'belongs there' out)" 0 '  nothing of it is put back'
	whole
done

# Counts that are behind, after a writer was killed: nothing is lost.
rm -f sound.qcow2
qemu-img create -q -f qcow2 -o lazy_refcounts=on,cluster_size=4k sound.qcow2 64M
qemu-io -c 'write -q -P 1 0 3M' -c flush -c 'write -q -P 2 20M 1M' -c flush -c 'sigraise 9' sound.qcow2 >/dev/null 2>&1
cp sound.qcow2 d.qcow2
cp d.qcow2 before
"$PLATTER" repair -q --yes d.qcow2 >out 2>&1
is $? 0 'a writer with lazy counts was killed: repair'
ok '  the disk is what it was' qemu-img compare -q d.qcow2 sound.qcow2

# Counts of garbage, half of which say that a snapshot's clusters are counted once more than they are named: what the disk
# has in their places is its own.
if command -v mke2fs >/dev/null && command -v python3 >/dev/null; then
	mke2fs -q -t ext4 -b 4096 -O metadata_csum disk.raw 16M >/dev/null 2>&1
	qemu-img convert -f raw -O qcow2 disk.raw sound.qcow2
	qemu-io -c 'write -q -P 1 12M 1M' sound.qcow2
	qemu-img snapshot -c one sound.qcow2
	qemu-io -c 'write -q -P 2 12M 1M' sound.qcow2
	cp sound.qcow2 d.qcow2
	rm -f d.qcow2.*
	python3 - d.qcow2 <<'PY'
import struct, sys
f = open(sys.argv[1], 'r+b')
f.seek(48); table, = struct.unpack('>Q', f.read(8))
f.seek(table); block, = struct.unpack('>Q', f.read(8))
f.seek(block); f.write(struct.pack('>4H', 0x8000, 0, 4, 0) * 8192)
PY
	"$PLATTER" repair -q --yes d.qcow2 >out 2>&1
	is $? 0 'counts of garbage, with a snapshot: repair'
	ok '  the disk is what it was' qemu-img compare -q d.qcow2 sound.qcow2
fi
done_testing
