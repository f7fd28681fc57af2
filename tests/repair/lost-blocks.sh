#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# VHDs with real filesystems in them whose blocks lie in no order, damaged in each way that the catalogue of VHD has:
# what repair puts back lies where it lay, a whole disk is the same to qemu-img and libvhdi and its filesystem sound,
# what does not come back is never shown as if it were right, and undo gives the very bytes back.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
requires python3 mke2fs debugfs dumpe2fs e2fsck mkfs.fat mcopy qemu-img

seed=${PLT_SEED:-7}
make=$srcdir/tests/fixtures/vhd-blocks.py
vhdi=
/usr/bin/python3 "$srcdir/tests/peer/vhdi.py" - 2>/dev/null && vhdi=yes

# entries that name another block than they did: "wrong right were"
compare_tables() {
	python3 - "$1" "$2" <<'EOF2'
import struct, sys
def bat(p):
    b = open(p, 'rb').read()
    at, n = struct.unpack('>QxxxxI', b[528:544])
    return struct.unpack('>%dI' % n, b[at:at + 4 * n])
a, b = bat(sys.argv[1]), bat(sys.argv[2])
size = len(open(sys.argv[1], 'rb').read()) // 512
there = lambda e: 3 <= e < size
print(sum(1 for x, y in zip(a, b) if there(x) and x != y), sum(1 for x, y in zip(a, b) if there(y) and x == y),
      sum(1 for y in b if there(y)))
EOF2
}

# damaged NAME KIND LEAST-PER-CENT STATUS...
damaged() {
	local name=$1 kind=$2 least=$3 status wrong right were

	shift 3
	cp "$name.vhd" d.vhd
	python3 "$make" hurt d.vhd "$kind" "$seed"
	cp d.vhd before
	"$PLATTER" check -q -f vpc d.vhd >out 2>&1
	status=$?
	[ $kind = bitmap ] || [ $kind = byte-short ] || isnt $status 0 "$name, $kind: check" # (of these a note)
	"$PLATTER" repair -q --yes -f vpc d.vhd >out 2>&1
	status=$?
	status=$(settled $status out)
	is "$(for s; do [ "$s" = $status ] && echo yes; done)" yes "$name, $kind: repair ($status)"
	read -r wrong right were <<<"$(compare_tables d.vhd "$name.vhd")"
	is "$wrong" 0 "$name, $kind: nothing in a wrong place"
	ok "$name, $kind: $right of $were are back" [ $((right * 100)) -ge $((were * least)) ]
	if [ "$least" -eq 100 ]; then
		ok "$name, $kind: the disk is what it was" "$PLATTER" compare -q -f vpc -F raw d.vhd "$name.raw"
		ok "$name, $kind: to qemu-img, too" qemu-img compare -q -f vpc -F raw d.vhd "$name.raw"
		if [ -n "$vhdi" ]; then
			/usr/bin/python3 "$srcdir/tests/peer/vhdi.py" vhdi.raw d.vhd
			is_file_equal vhdi.raw "$name.raw" "$name, $kind: and to libvhdi"
		fi
		"$PLATTER" check -q -f vpc d.vhd >/dev/null
		is $? 0 "$name, $kind: check finds nothing any more"
	fi
	if [ -e d.vhd.platter-undo ]; then
		ok "$name, $kind: undo" "$PLATTER" undo -q d.vhd.platter-undo
	fi
	is_file_equal d.vhd before "$name, $kind: the very bytes"
	rm -f d.vhd*
}

for fs in ext4 vfat; do
	python3 "$srcdir/tests/fixtures/guest.py" $fs 128 "$seed" $fs.raw >/dev/null || skip_all 'no filesystem can be made'
	python3 "$make" make $fs.raw $fs.vhd "$seed" 1024 $([ $fs = vfat ] && echo aligned)
	"$PLATTER" check -q -f vpc $fs.vhd
	is $? 0 "$fs: sound"
	"$PLATTER" repair -q --yes -f vpc $fs.vhd
	is $? 0 "$fs: repair of a sound one"
	is "$(echo $fs.vhd*)" $fs.vhd "$fs: has nothing to do"
done
for kind in head tail sums header byte-short; do
	damaged ext4 $kind 100 0
done
damaged ext4 bitmap 100 0
damaged vfat footers 100 0
damaged vfat front 100 0
damaged ext4 entry-flip 100 0 2
damaged vfat entry-beyond 100 0 2
damaged ext4 entries-shifted 100 0 2
damaged vfat entry-twice 100 0 2
damaged vfat junk-behind 100 0
for fs in ext4 vfat; do
	for kind in bat-zero bat-unused bat-garbage; do
		sampled || continue
		damaged $fs $kind 85 0 2 3
	done
done
damaged ext4 bat-sector 85 0 2 3
damaged ext4 entry-unused 0 0 2 3
damaged vfat half 35 0 2
done_testing
