#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Placements that are not sure: they are done if --trust likely says so, or if a person says yes to each, and
# not otherwise; and each is asked about once.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
requires python3 qemu-img

# damage OPTIONS WHAT: d.qcow2 of disk.raw, without its L1 table, or with the first L2 table zero and the clusters shuffled
damage() {
	local l1 n l2

	"$PLATTER" convert -O qcow2 -o "$1" disk.raw d.qcow2
	[ "$2" = l1 ] || python3 "$srcdir/tests/repair/damage.py" shuffle d.qcow2 16 7 >/dev/null
	l1=$((16#$(od -An -tx1 -j 40 -N 8 d.qcow2 | tr -d ' \n')))
	n=$((16#$(od -An -tx1 -j 36 -N 4 d.qcow2 | tr -d ' \n')))
	l2=$((16#$(od -An -tx1 -j $l1 -N 8 d.qcow2 | tr -d ' \n') & 0x00fffffffffffe00))
	if [ "$2" = l1 ]; then
		dd if=/dev/zero of=d.qcow2 bs=8 seek=$((l1 / 8)) count=$n conv=notrunc status=none
	else
		dd if=/dev/zero of=d.qcow2 bs=4096 seek=$((l2 / 4096)) count=1 conv=notrunc status=none
	fi
}

# What is likely and no more changes with what evidence knows: the first of these that has some.
found=
for guest in vfat:192 ntfs:192 xfs:320 ext4:192; do
	python3 "$srcdir/tests/fixtures/guest.py" "${guest%:*}" "${guest#*:}" 7 disk.raw >/dev/null 2>&1 || continue
	for case in cluster_size=64k:l2 cluster_size=4k:l2 cluster_size=16k,extended_l2=on:l2 cluster_size=4k:l1; do
		damage "${case%:*}" "${case#*:}"
		found="$guest $case"
		[ "$("$PLATTER" hash --rescue d.qcow2 2>/dev/null)" = "$("$PLATTER" hash --rescue --trust likely d.qcow2 2>/dev/null)" ] ||
			break 2
	done
done
[ -n "$found" ] || skip_all 'no filesystem can be made'
echo "# $found"
sum=$(sha256sum <d.qcow2)

"$PLATTER" repair -q --dry-run --plan strong d.qcow2 2>/dev/null
like $? '^[0-3]$' 'only what is sure'
"$PLATTER" repair -q --dry-run --trust strong --plan strong2 d.qcow2 2>/dev/null
is_file_equal strong2 strong '--trust strong is the default'
"$PLATTER" repair -q --dry-run --trust likely --plan likely d.qcow2 2>/dev/null
fails 1 '--trust likely does something else' cmp -s likely strong
yes y | "$PLATTER" repair -q --dry-run --interactive --plan yes d.qcow2 >asked 2>/dev/null
is_file_equal yes likely 'yes to all is --trust likely'
like "$(cat asked)" 'may belong at guest offset [0-9a-fx]*, [0-9]* bytes [(]likely: ' 'it is said what for'
is "$(grep -o 'What lies at offset 0x[0-9a-f]* in the file may belong at guest offset [0-9a-fx]*' asked | sort | uniq -d)" '' \
	'each is asked about once'
yes n | "$PLATTER" repair -q --dry-run --interactive --plan no d.qcow2 >asked 2>/dev/null
is_file_equal no strong 'no to all is nothing more'
"$PLATTER" hash --rescue --trust likely d.qcow2 >likely.sum 2>/dev/null
is "$("$PLATTER" hash --rescue --plan likely d.qcow2 2>/dev/null)" "$(cat likely.sum)" 'looked through it is the same'
isnt "$("$PLATTER" hash --rescue d.qcow2 2>/dev/null)" "$(cat likely.sum)" 'and without --trust it is not'
fails 1 'other words are refused' "$PLATTER" hash --rescue --trust surely d.qcow2
is "$(sha256sum <d.qcow2)" "$sum" 'the image is as it was'
# Whatever is placed on less than proof, and whatever is left over then, is in a list: nothing is wrong in silence.
python3 "$srcdir/tests/fixtures/guest.py" ntfs 128 7 disk.raw 0 fill=6 >/dev/null 2>&1 # (if it can be made)
for case in cluster_size=4k:l1 cluster_size=64k:l2 cluster_size=4k:l2; do
	sampled || continue
	damage "${case%:*}" "${case#*:}"
	for trust in strong likely; do
		rm -f got.raw
		"$PLATTER" convert -q --rescue --trust $trust --report said.json -O raw d.qcow2 got.raw 2>/dev/null
		like $? '^[02]$' "$case, --trust $trust: what is not sure is said"
		is "$(python3 - said.json got.raw <<-'EOF'
			import json, sys
			with open(sys.argv[1]) as f:
			    said = json.load(f)
			named = set()
			for r in said['lost'] + said['inferred']:
			    named.update(range(r['start'] // 4096, (r['start'] + r['length'] + 4095) // 4096))
			with open('disk.raw', 'rb') as a, open(sys.argv[2], 'rb') as b:
			    size = a.seek(0, 2)
			    a.seek(0)
			    print(sum(a.read(4096) != b.read(4096) and i not in named for i in range(size // 4096)))
		EOF
		)" 0 "$case, --trust $trust: nothing is wrong in silence"
	done
done
done_testing
