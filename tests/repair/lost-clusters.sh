#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# qcow2 images with a guest's filesystem, their clusters in shuffled runs, whose L2 tables or single entries are damaged,
# or whose end is gone: what a repair brings back is right or named; qemu-img finds nothing wrong with it; the
# snapshot is what it was; in place the same comes out as in a copy, and undo gives the very bytes back.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
requires python3 mke2fs debugfs dumpe2fs qemu-img qemu-io

seed=${PLT_SEED:-7} # always the same: what comes back is held against limits below
echo "# PLT_SEED=$seed"
python3 "$srcdir/tests/fixtures/guest.py" ext4 192 "$seed" disk.raw >/dev/null || skip_all 'no filesystem can be made'
damage="$srcdir/tests/repair/damage.py"

# judge KIND PERCENT: of d.qcow2, a copy of sound.qcow2 that holds sound.raw, as much comes back.
judge() {
	local kind=$1 least=$2 what="$name, $1" wrong got all status

	cp sound.qcow2 d.qcow2
	rm -f copy.qcow2
	echo "# $what $(python3 "$damage" "$kind" d.qcow2 "$seed")"
	cp d.qcow2 before
	"$builddir/tests/repair/mend-lab" d.qcow2 - >named
	awk '$5 == -1' named >active
	"$PLATTER" repair -q --yes --output copy.qcow2 d.qcow2 >out 2>&1
	like $? '^[0-3]$' "$what: a repaired copy"
	is_file_equal d.qcow2 before "$what: the image is not touched"
	"$PLATTER" convert -O raw copy.qcow2 got.raw
	read -r wrong got all < <(python3 "$srcdir/tests/repair/blocks.py" sound.raw got.raw "$block" active)
	echo "# $what: wrong, right, there were: $wrong $got $all"
	is "$wrong" 0 "$what: nothing is wrong that is not named"
	ok "$what: $least % come back" [ $((got * 100)) -ge $((all * least)) ]
	qemu-img check copy.qcow2 >out 2>&1
	status=$?
	ok "$what: qemu-img finds no error" [ $status -eq 0 -o $status -eq 3 ]
	"$PLATTER" repair -q --yes d.qcow2 >out 2>&1
	is_file_equal d.qcow2 copy.qcow2 "$what: in place"
	undone d.qcow2 before "$what: undo"
}

for options in cluster_size=64k cluster_size=64k,compat=0.10 cluster_size=16k,extended_l2=on; do
	sampled || continue
	name=$options
	block=65536
	"$PLATTER" convert -O qcow2 -o $options disk.raw sound.qcow2
	case $options in
	*extended*) ;;
	*) python3 "$damage" shuffle sound.qcow2 16 "$seed" >out ;;
	esac
	cp disk.raw sound.raw
	ok "$name: the disk" qemu-img compare -q sound.qcow2 disk.raw
	cp sound.qcow2 before
	"$PLATTER" repair -q --yes sound.qcow2
	is $? 0 "$name: sound"
	is_file_equal sound.qcow2 before "$name: sound: not touched"
	is "$("$builddir/tests/repair/mend-lab" sound.qcow2 -)" '' "$name: sound: nothing is in doubt"
	case $options in
	*extended*)
		judge l2-half 60
		judge l1-bit 99
		continue
		;;
	esac
	case $options in
	*compat*) ;;
	*)
		judge l2-zero 70
		judge l2-counts 70
		;;
	esac
	judge l2-junk 70
	judge l2-half 70
	judge l2-sectors 90
	judge entries 97
	judge l1-bit 100
	judge truncated 50
done

# With a snapshot, which has most of it as well.
"$PLATTER" convert -O qcow2 disk.raw sound.qcow2
qemu-img snapshot -c one sound.qcow2
for i in 3 60 100 150; do
	qemu-io -c "write -q -P $i ${i}M 300k" sound.qcow2
done
"$PLATTER" convert -O raw sound.qcow2 sound.raw
name='with a snapshot'
judge l2-zero 95
judge l2-junk 95
qemu-img convert -l one -O raw copy.qcow2 snap.raw
ok "$name: which is what it was" cmp snap.raw disk.raw
judge l2-sectors 97
judge entries 95

# Over a backing file: a cluster that was copied and then written in part is like the one below.
qemu-img create -q -f qcow2 -b disk.raw -F raw sound.qcow2
python3 - disk.raw <<'EOF' | qemu-io sound.qcow2 >out
import sys
with open(sys.argv[1], 'rb') as f:
    used = [at for at in range(0, 64 << 20, 65536) if len(set(f.read(65536))) > 200]
for at in used[::max(1, len(used) // 30)][:30]:
    print('write -q -P 7 %d 4096' % (at + 8192))
EOF
"$PLATTER" convert -O raw sound.qcow2 sound.raw
name='over a backing file'
block=4096
judge l2-zero 98
n=$(grep -c 'it is like the version before' named)
ok "$name: $n ranges are like those below" [ "$n" -ge 25 ]

# Compressed: what nothing names is taken apart stream by stream.
block=4096
for options in cluster_size=64k,compression_type=zlib cluster_size=4k,compression_type=zstd; do
	sampled || continue
	name="compressed, $options"
	"$PLATTER" convert -c -O qcow2 -o $options disk.raw sound.qcow2
	cp disk.raw sound.raw
	case $options in
	*64k*)
		judge l2-zero 55 # (with one seed or another 70 to 82)
		judge l1-end 45
		;;
	*) judge l2-junk 8 ;;
	esac
done

# Where the guest's bytes lie in a file of their own, they lie where the guest has them.
name='an external data file'
rm -f sound.qcow2
"$PLATTER" convert -O qcow2 -o data_file=sound.data,data_file_raw=on disk.raw sound.qcow2
cp disk.raw sound.raw
judge l2-zero 100
rm -f sound.qcow2
"$PLATTER" convert -O qcow2 -o data_file=sound.data,cluster_size=16k disk.raw sound.qcow2
sum=$(sha256sum <sound.data)
block=4096
judge l2-older 98
"$PLATTER" repair -q --yes --report r.json d.qcow2 >out 2>&1
is $? 2 "$name: what rests on less than proof is said"
ok "$name: what the guest has in use is back" grep -q 'the guest has something in use' r.json
ok "$name: what else the table may have lost is named" grep -q 'the data file holds something where nothing is mapped' r.json
is "$(sha256sum <sound.data)" "$sum" "$name: the data file is not written to"
# (what a program that was stopped has written, and the guest knows nothing of)
dd if=/dev/urandom of=sound.data bs=16k seek=$(((192 << 6) - 4)) count=1 conv=notrunc status=none
cp sound.qcow2 d.qcow2
"$PLATTER" check -q --deep d.qcow2 >out 2>&1
is "$? $(cat out)" '0 ' "$name: what nothing knows of is no loss"
done_testing
