#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# A qcow2 whose L1 table is gone, with a guest's filesystem in it: repair puts the L2 tables back by what the guest
# has written, qemu-img finds nothing wrong, the files are what they were, and undo gives the very bytes back.
# What finds no place stays unplaced and is not given free.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
requires python3 mke2fs debugfs dumpe2fs e2fsck qemu-img

python3 "$srcdir/tests/fixtures/guest.py" ext4 192 "${PLT_SEED:-7}" disk.raw >/dev/null || skip_all 'no filesystem can be made'

# l1 FILE: "offset bytes" of its L1 table
l1() {
	echo $((16#$(od -An -tx1 -j 40 -N 8 "$1" | tr -d ' \n'))) \
		$((8 * 16#$(od -An -tx1 -j 36 -N 4 "$1" | tr -d ' \n')))
}

for options in cluster_size=4k cluster_size=4k,compat=0.10 cluster_size=16k,extended_l2=on; do
	rm -f d.qcow2*
	"$PLATTER" convert -O qcow2 -o $options disk.raw d.qcow2
	cp d.qcow2 sound
	read -r at len < <(l1 d.qcow2)
	dd if=/dev/zero of=d.qcow2 bs=8 seek=$((at / 8)) count=$((len / 8)) conv=notrunc status=none
	case $options in # a copy of the header: an entry leads to the L1 table itself, others to refcounts
	*0.10*) dd if=sound of=d.qcow2 bs=8 seek=$((at / 8)) count=13 conv=notrunc status=none ;;
	esac
	cp d.qcow2 before
	isnt "$("$PLATTER" check -q d.qcow2 >/dev/null 2>&1; echo $?)" 0 "$options: check"
	"$PLATTER" repair -q --yes d.qcow2 >out 2>&1
	like $? '^[0-3]$' "$options: repair"
	placed=$(cmp -l d.qcow2 before 2>/dev/null | wc -l)
	isnt "$placed" 0 "$options: tables find their places"
	ok "$options: qemu-img finds no error" sh -c 'qemu-img check d.qcow2 >/dev/null 2>&1; [ $? -eq 0 -o $? -eq 3 ]'
	# what can be read is right
	"$PLATTER" convert -O raw d.qcow2 got.raw
	read -r bad got all < <(python3 "$srcdir/tests/repair/blocks.py" disk.raw got.raw 4096)
	echo "# $options: wrong, right, there were: $bad $got $all"
	is "$bad" 0 "$options: nothing in a wrong place"
	case $options in *extended*) least=5 ;; *) least=9 ;; esac # (of ten; few and large tables are harder)
	ok "$options: most of it" [ $((got * 10)) -ge $((all * least)) ]
	if [ "$got" = "$all" ]; then
		ok "$options: the disk is what it was" qemu-img compare -q d.qcow2 disk.raw
	fi
	undone d.qcow2 before "$options: undo"
done

# The L1 table is gone, and so is half of the file: that the one table names what is not there any more makes it no other.
qemu-img convert -f raw -O qcow2 disk.raw d.qcow2
read -r at len < <(l1 d.qcow2)
dd if=/dev/zero of=d.qcow2 bs=8 seek=$((at / 8)) count=$((len / 8)) conv=notrunc status=none
truncate -s $(($(stat -c %s d.qcow2) / 131072 * 65536)) d.qcow2
"$PLATTER" convert -q --rescue --report r.json -O raw d.qcow2 got.raw 2>/dev/null
read -r bad got all < <(python3 "$srcdir/tests/repair/blocks.py" disk.raw got.raw 4096)
is "$bad" 0 "half of the file is gone, too: nothing in a wrong place (of $all $got)"
ok '  what is left is shown' [ $((got * 3)) -ge "$all" ]
like "$("$PLATTER" repair --dry-run d.qcow2 2>/dev/null)" 'L1 entry 0: the L2 table at offset 0x40000 belongs there' '  by the table'

# The table of a disk that shares most of it with a snapshot is zeros: what is counted once too often for the snapshot and
# what nothing reaches are one loss.
qemu-img create -q -f qcow2 -o compat=0.10 d.qcow2 8M
qemu-io -c 'write -q -P 1 0 4M' d.qcow2
qemu-img snapshot -c s d.qcow2
qemu-io -c 'write -q -P 2 0 1M' d.qcow2
sum=$("$PLATTER" hash d.qcow2)
read -r at len < <(l1 d.qcow2)
table=$((16#$(od -An -tx1 -j "$at" -N 8 d.qcow2 | tr -d ' \n') & 0xfffffffffffe00))
dd if=/dev/zero of=d.qcow2 bs=64k seek=$((table >> 16)) count=1 conv=notrunc status=none
isnt "$("$PLATTER" repair -q --dry-run d.qcow2 >/dev/null 2>&1; echo $?)" 0 'a table of zeros, and a snapshot: not said to be right'
"$PLATTER" convert -q --rescue -O raw d.qcow2 got.raw 2>/dev/null
is "$(head -c 4M got.raw | tail -c 3M | tr -d '\1' | wc -c)" 0 '  what the snapshot has is put back'

# Where it cannot be told whether a part of the map was lost, nobody is told that his data is safe.
qemu-img create -q -f qcow2 d.qcow2 8M
"$PLATTER" io -c 'write -q -P 1 0 1M' d.qcow2
read -r at len < <(l1 d.qcow2)
dd if=/dev/zero of=d.qcow2 bs=8 seek=$((at / 8)) count=$((len / 8)) conv=notrunc status=none
fails 3 'a small image: check' "$PLATTER" check d.qcow2
text=$("$PLATTER" check d.qcow2 2>/dev/null)
like "$text" '^17 leaked clusters were found' 'leaked clusters, as qemu-img says'
unlike "$text" 'no harm' 'and not that they are no harm'
like "$("$PLATTER" check --output=json d.qcow2 2>/dev/null)" '"id": "Q-ORPHANS"' 'nor in JSON'
is "$("$QEMU_IMG_LINK" check d.qcow2 2>/dev/null)" "$(qemu-img check d.qcow2 2>/dev/null)" 'as qemu-img: its words'

# The header was written over an L1 table: of its words one is a bit off the place of another entry's table, and the others
# are not.
qemu-img create -q -f qcow2 -o cluster_size=4k d.qcow2 24M
qemu-io -c 'write -q -P 1 0 8k' -c 'write -q -P 2 2M 64k' d.qcow2
read -r at len < <(l1 d.qcow2)
is "$at$(od -An -tx1 -j $((at + 14)) -N 2 d.qcow2)" '12288 70 00' 'the header over an L1 table at 0x3000, a table at 0x7000'
cp d.qcow2 sound
dd if=sound of=d.qcow2 bs=8 seek=$((at / 8)) count=12 conv=notrunc status=none
unlike "$("$PLATTER" repair --dry-run d.qcow2 2>/dev/null)" 'one bit of' '  no bit was turned'
"$PLATTER" convert -q --rescue --report r.json -O raw d.qcow2 got.raw 2>/dev/null
is "$(tr -d '\0' <got.raw | wc -c)" 0 '  nobody has the data of another place'
is "$(python3 -c 'import json; print(sum(v["length"] for v in json.load(open("r.json"))["lost"]) >> 20)')" 24 \
	'  and what it was written over with zeros is named, too'
done_testing
