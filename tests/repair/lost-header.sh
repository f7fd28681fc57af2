#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# qcow2 images whose header is gone, or of which one field is another: the rest of the file says what it was.  With -f and
# without, the repaired image is clean for qemu-img and the disk what it was; a raw disk is never taken for such an
# image, whatever lies in it; undo gives the very bytes back.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
requires python3 mke2fs debugfs dumpe2fs qemu-img qemu-io

seed=${PLT_SEED:-7}
echo "# PLT_SEED=$seed"
python3 "$srcdir/tests/fixtures/guest.py" ext4 48 "$seed" disk.raw >/dev/null || skip_all 'no filesystem can be made'
damage="$srcdir/tests/repair/damage.py"

# judge KIND [f]: repair (with -f), and what the peers say of it; d.qcow2, a copy of sound.qcow2
judge() {
	local status what="$name, $1" format=${2:+-f qcow2}

	cp sound.qcow2 d.qcow2
	rm -f copy.qcow2 d.qcow2.*
	what+=" $(python3 "$damage" "$1" d.qcow2 "$seed")"
	cp d.qcow2 before
	# shellcheck disable=SC2086 # two words or none
	"$PLATTER" repair -q --yes $format d.qcow2 >out 2>err
	status=$?
	ok "$what: repair" [ $status -eq 0 -o $status -eq 3 ]
	qemu-img check -q d.qcow2 >out 2>&1
	like $? '^[03]$' "$what: qemu-img finds no error"
	ok "$what: the disk is what it was" qemu-img compare -q d.qcow2 sound.qcow2
	if [ -e d.qcow2.platter-undo ]; then
		ok "$what: undo" "$PLATTER" undo -q d.qcow2.platter-undo
	fi
	is_file_equal d.qcow2 before "$what: the very bytes"
}

for options in cluster_size=64k cluster_size=512 cluster_size=4k,refcount_bits=8 cluster_size=2M \
	cluster_size=64k,compat=0.10 cluster_size=16k,extended_l2=on cluster_size=64k,refcount_bits=64; do
	sampled || continue
	name=$options
	"$PLATTER" convert -O qcow2 -o $options disk.raw sound.qcow2
	judge header
	judge cluster f
done
name='compressed, zstd'
qemu-img convert -c -O qcow2 -o compression_type=zstd disk.raw sound.qcow2
judge cluster
name='with a snapshot'
"$PLATTER" convert -O qcow2 disk.raw sound.qcow2
qemu-img snapshot -c one sound.qcow2
qemu-io -c 'write -q -P 7 3M 300k' sound.qcow2
judge header

# The front of the file is gone: header, L1 table, and counts or not.  The tables find their places by what the guest has
# written; a disk of which the first cluster is nowhere had a backing file, whose name is gone: what is not there is named.
front() { # CLASS STATUS [TENTHS that come back at least]
	local all got bad

	cp sound.qcow2 d.qcow2
	rm -f d.qcow2.* got.raw
	python3 "$srcdir/tests/fixtures/damage.py" "$1" d.qcow2 "$seed" >out || fail "$1: no damage"
	cp d.qcow2 before
	"$PLATTER" convert --rescue --report report.json -f qcow2 -O raw d.qcow2 got.raw >out 2>&1
	is $? "$2" "$name, $1: convert --rescue"
	read -r bad got all < <(python3 "$srcdir/tests/repair/blocks.py" disk.raw got.raw 4096)
	echo "# wrong, right, there were: $bad $got $all"
	is "$bad" 0 '  nothing in a wrong place'
	ok '  nearly all of it, or as much as is expected' [ $((got * 10)) -ge $((all * ${3:-9})) ]
	"$PLATTER" repair -q --yes -f qcow2 d.qcow2 >out 2>&1
	is $? "$2" '  repair'
	ok '  qemu-img finds no error' sh -c 'qemu-img check d.qcow2 >/dev/null 2>&1; [ $? -eq 0 -o $? -eq 3 ]'
	undone d.qcow2 before '  undo'
}
for options in cluster_size=64k cluster_size=4k,compat=0.10; do
	name=$options
	"$PLATTER" convert -O qcow2 -o $options disk.raw sound.qcow2
	front Q-2-FRONT 2
	front Q-2-HDR-L1 2
done
# No table of clusters is left: what lies in the first four clusters says enough of itself.
name='one table'
"$PLATTER" convert -O qcow2 disk.raw sound.qcow2
front Q-2-HDR-L2 2 4
name='with a snapshot that has all of it'
qemu-img snapshot -c one sound.qcow2
front Q-2-HDR-L1 0
rm -f over.qcow2
qemu-img create -q -f qcow2 -o cluster_size=4k -F raw -b disk.raw over.qcow2
qemu-io -c 'write -q -P 1 3M 5M' over.qcow2
python3 "$srcdir/tests/fixtures/damage.py" Q-HDR-3 over.qcow2 "$seed" >out
"$PLATTER" convert --rescue --report report.json -f qcow2 -O raw over.qcow2 got.raw >out 2>&1
is $? 2 'an overlay without its header: convert --rescue'
ok '  what it is short of is said' grep -q '"reason": *"the header is gone, and with it the name' report.json
ok '  and what it has is there' qemu-io -f raw -c 'read -q -P 1 3M 5M' got.raw

# Of an overlay that says too little of its disk's size the guest's filesystem has no room where the disk begins: it began elsewhere.
mkdir over
qemu-img create -q -f qcow2 -o cluster_size=4k -F raw -b ../disk.raw over/d.qcow2
dd if=disk.raw of=piece bs=64k skip=16 count=4 status=none
qemu-io -c 'write -q -s piece 1M 256k' -c 'write -q -P 1 8M 64k' over/d.qcow2
python3 - over/d.qcow2 <<'PY'
import struct, sys
f = open(sys.argv[1], 'r+b')
f.seek(struct.unpack_from('>Q', f.read(4096), 40)[0])
table = struct.unpack('>Q', f.read(8))[0] & (1 << 56) - 512
for at in 0, table:
    f.seek(at)
    f.write(bytes(4096))
PY
"$PLATTER" convert --rescue --report report.json -f qcow2 -O raw over/d.qcow2 got.raw >out 2>&1
is $? 2 'an overlay without header and first table: convert --rescue'
python3 - disk.raw got.raw report.json <<'PY' >judged
import json, sys
a, b = (open(p, 'rb').read() for p in sys.argv[1:3])
named = [(r['start'], r['start'] + r['length']) for k, v in json.load(open(sys.argv[3])).items() if k in ('lost', 'inferred') for r in v]
print(len(b), sum(a[i:i + 4096] != b[i:i + 4096] and not any(s < i + 4096 and i < e for s, e in named) for i in range(0, 8 << 20, 4096)))
PY
is "$(cat judged)" "$((10 << 20)) 0" '  nothing is shown in a wrong place, or is not there, that is not named'
rm -r over

name='with a backing file'
qemu-img create -q -f qcow2 -F raw -b disk.raw sound.qcow2
# (into files only: repair looks at the guest's metadata as well)
qemu-io -c 'write -q -P 1 24M 5M' -c 'write -q -P 2 40M 1k' sound.qcow2
judge magic
judge field:l1_offset
cp sound.qcow2 d.qcow2
python3 "$damage" header d.qcow2 "$seed"
"$PLATTER" repair -q --yes d.qcow2 >out 2>&1
is "$(qemu-img info d.qcow2 | sed -n 's/^backing file: //p')" disk.raw 'header: the name of the backing file still stands there'

name='one field'
"$PLATTER" convert -O qcow2 disk.raw sound.qcow2
for field in version cluster_bits size crypt l1_size l1_offset refcount_table_offset refcount_table_clusters \
	refcount_order header_length extension_length; do
	judge field:$field f
done

# An L1 table of several clusters, of which the header names the second; the header itself; a table of clusters.
qemu-img create -q -f qcow2 -o cluster_size=512 sound.qcow2 48M
qemu-img convert -n -f raw -O qcow2 disk.raw sound.qcow2
# place OFFSET TEXT: the L1 table lies there, says the header
place() {
	cp sound.qcow2 d.qcow2
	rm -f d.qcow2.*
	python3 -c 'import sys; f = open("d.qcow2", "r+b"); f.seek(40); f.write(int(sys.argv[1]).to_bytes(8, "big"))' "$1"
	"$PLATTER" repair -q --yes d.qcow2 >out 2>&1
	is $? 0 "the L1 table $2: repair"
	is_file_equal d.qcow2 sound.qcow2 '  the header is what it was'
}
at=$((16#$(od -An -tx1 -j 40 -N 8 sound.qcow2 | tr -d ' \n')))
place $((at + 512)) 'begins too late'
place 0 'is the header'
table=$((16#$(od -An -tx1 -j $((at + 1)) -N 7 sound.qcow2 | tr -d ' \n')))
place $table 'is a table of clusters'

# check says so, and changes nothing.
cp sound.qcow2 d.qcow2
python3 "$damage" cluster d.qcow2 "$seed"
cp d.qcow2 before
for format in '' '-f qcow2'; do
	# shellcheck disable=SC2086
	"$PLATTER" check $format d.qcow2 >out 2>&1
	is $? 2 "check $format"
	like "$(cat out)" 'header: it is gone' '  in words'
done
is_file_equal d.qcow2 before '  and writes nothing'

# A feature that nobody knows stays, and is refused by name.
cp sound.qcow2 d.qcow2
printf '\x20' | dd of=d.qcow2 bs=1 seek=78 conv=notrunc status=none
cp d.qcow2 before
fails 1 'an unknown incompatible feature' "$PLATTER" repair -q --yes d.qcow2
is_file_equal d.qcow2 before '  stays'

# Encrypted: the LUKS header is found by its mark.
printf 'secret' >key
if qemu-img create -q -f qcow2 --object secret,id=k,file=key -o encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10 \
	sound.qcow2 64M 2>/dev/null; then
	opts() { echo "driver=qcow2,file.filename=$1,encrypt.key-secret=k"; }
	qemu-io --object secret,id=k,file=key --image-opts -c 'write -q -P 5 0 4M' "$(opts sound.qcow2)"
	cp sound.qcow2 d.qcow2
	python3 "$damage" cluster d.qcow2 "$seed"
	ok 'encrypted: repair' "$PLATTER" repair -q --yes d.qcow2
	ok '  the key still fits, and the data is there' qemu-io --object secret,id=k,file=key --image-opts \
		-c 'read -q -P 5 1M 3M' "$(opts d.qcow2)"
fi

# A feature that nobody knows: to look at it, it is ignored, unless the image's own table has a name for it; never to repair.
"$PLATTER" convert -O qcow2 disk.raw sound.qcow2
cp sound.qcow2 d.qcow2
printf '\1' | dd of=d.qcow2 bs=1 seek=74 conv=notrunc status=none
cp d.qcow2 before
rm -f d.qcow2.* got.raw
"$PLATTER" convert --rescue --report report.json -O raw d.qcow2 got.raw >out 2>&1
is $? 2 'an unknown feature: convert --rescue'
ok '  the disk is what it was' cmp disk.raw got.raw
ok '  and all of it is inferred' grep -q '"reason": *"the header claims a feature that nobody knows' report.json
"$PLATTER" repair -q --yes d.qcow2 >out 2>&1
is $? 1 '  repair refuses'
like "$(cat out)" 'claim that: --ignore-feature 40$' '  and says how it would not'
is_file_equal d.qcow2 before '  and changes nothing'
# On the user's word it is ignored: by whoever reads, which writes nothing; repair takes it out.
rm -f got.raw
ok '  --ignore-feature: convert' "$PLATTER" convert --ignore-feature 40 -O raw d.qcow2 got.raw
ok '  the disk is what it was' cmp disk.raw got.raw
ok '  compare' "$PLATTER" compare -q --ignore-feature 40 d.qcow2 disk.raw
"$PLATTER" check -q --ignore-feature 40 d.qcow2 >out 2>&1
is $? 2 '  check'
fails 1 '  nobody writes' "$PLATTER" io --ignore-feature 40 -c 'write 0 1' d.qcow2
fails 1 '  another one is no help' "$PLATTER" convert --ignore-feature 41 -O raw d.qcow2 none.raw
fails 1 '  nor is one in an image that has none' "$PLATTER" info --ignore-feature 40 disk.raw
like "$("$PLATTER" info --ignore-feature 40 disk.raw 2>&1)" 'format raw claim none' '  which is said'
"$PLATTER" amend -f qcow2 -o lazy_refcounts=on sound.qcow2
cp sound.qcow2 known.qcow2
printf '\20' | dd of=known.qcow2 bs=1 seek=79 conv=notrunc status=none
fails 1 '  one that is known counts' "$PLATTER" convert --ignore-feature 4 -O raw known.qcow2 none.raw
like "$("$PLATTER" convert --ignore-feature 4 -O raw known.qcow2 none.raw 2>&1)" '0x10.* known' '  which is said'
is_file_equal d.qcow2 before '  nothing of it has changed the image'
"$PLATTER" repair -q --yes --ignore-feature 40 d.qcow2 >out 2>&1
is $? 2 '  repair: all of the disk is inferred'
ok '  qemu-img finds no error' qemu-img check -q d.qcow2
ok '  the disk is what it was' qemu-img compare -q d.qcow2 disk.raw
undone d.qcow2 before '  undo'
python3 - d.qcow2 <<'END'
import struct
import sys
d = bytearray(open(sys.argv[1], 'rb').read())
at = struct.unpack('>I', d[100:104])[0]
while struct.unpack('>I', d[at:at + 4])[0] != 0x6803f857:
    at += 8 + (struct.unpack('>I', d[at + 4:at + 8])[0] + 7) // 8 * 8
d[at + 8:at + 8 + 20] = bytes([0, 40]) + b'a new thing'.ljust(18, b'\0')
open(sys.argv[1], 'wb').write(d)
END
"$PLATTER" convert --rescue -O raw d.qcow2 got.raw >out 2>&1
is $? 1 '  one with a name is none to ignore'
like "$(cat out)" 'a new thing' '  it is said'
# A disk that ends too early, between the clusters of an L1 entry and the next: its partition table knows better.
qemu-img create -q -f qcow2 -o cluster_size=4k sound.qcow2 48M
qemu-img convert -n -f raw -O qcow2 disk.raw sound.qcow2
qemu-io -c 'write -q -P 7 24M 4k' sound.qcow2
cp sound.qcow2 d.qcow2
rm -f d.qcow2.*
printf '\0\0\0\0\1\200\0\0' | dd of=d.qcow2 bs=1 seek=24 conv=notrunc status=none
"$PLATTER" check d.qcow2 >out 2>&1
like "$(cat out)" 'both copies of its partition table' 'a disk that ends too early: check'
"$PLATTER" repair -q --yes d.qcow2 >out 2>&1
is $? 0 '  repair'
ok '  the disk is what it was' qemu-img compare -q d.qcow2 sound.qcow2

# Plain tables that are said to be extended: most pairs of their entries could be entries with bitmaps.
qemu-img create -q -f qcow2 sound.qcow2 48M
commands=()
for at in $(seq 0 2 120 | shuf --random-source=disk.raw); do
	commands+=(-c "write -q -P $((at + 1)) $((at * 64))k 128k")
done
qemu-io "${commands[@]}" sound.qcow2
for name in 'tables that are not extended' 'nor shared ones'; do
	cp sound.qcow2 d.qcow2
	rm -f d.qcow2.*
	printf '\20' | dd of=d.qcow2 bs=1 seek=79 conv=notrunc status=none
	"$PLATTER" repair -q --yes d.qcow2 >out 2>&1
	is $? 0 "$name: repair"
	ok "$name: the disk is what it was" qemu-img compare -q d.qcow2 sound.qcow2
	qemu-img snapshot -c one sound.qcow2
	qemu-io -c 'write -q -P 200 0 64k' -c 'write -q -P 201 1856k 64k' -c 'write -q -P 202 17M 64k' sound.qcow2
done

# Raw disks are raw, whatever their guest's files are.
"$PLATTER" convert -O qcow2 disk.raw inner.qcow2
for at in 0 1M 1234432; do
	rm -f r.raw
	truncate -s 100M r.raw
	dd if=inner.qcow2 of=r.raw bs=4096 oflag=seek_bytes seek=$at conv=notrunc status=none
	case $at in
	0) cp disk.raw r.raw && dd if=inner.qcow2 of=r.raw bs=1M seek=8 conv=notrunc status=none ;;
	esac
	cp r.raw before
	"$PLATTER" repair --yes r.raw >out 2>&1
	unlike "$(cat out)" 'whose header|header: it is gone|Plan:' "a raw disk with an image at $at is raw"
	is_file_equal r.raw before '  and stays what it is'
done

# An overlay maps little, and the partition table lies below it: its L1 table says how large the disk is.
qemu-img create -q -f qcow2 -o cluster_size=4k -b disk.raw -F raw sound.qcow2
qemu-io -c 'write -q -P 7 3M 300k' sound.qcow2
cp sound.qcow2 d.qcow2
printf '\0\0\1\040\0\0\0\0' | dd of=d.qcow2 bs=1 seek=24 conv=notrunc status=none
ok 'the size of an overlay: repair' "$PLATTER" repair -q --yes d.qcow2
ok 'the size of an overlay: the disk is what it was' qemu-img compare -q -s d.qcow2 sound.qcow2

# With its header an overlay has lost the name of what it stands on: the image beside it over which the content fits is it,
# and what comes from there is named as inferred; of two that fit alike none is taken.
mkdir lost
python3 "$srcdir/tests/fixtures/guest.py" ext4 48 "$seed" guest.raw 0 old fill=6 >/dev/null
PLATTER=$PLATTER python3 -B "$srcdir/tests/fixtures/image.py" q64k-backing guest.raw "$seed" lost/o.qcow2
cd lost || exit 1
mv o.qcow2.base 'a base'
cp ../disk.raw 'another disk'
python3 "$srcdir/tests/fixtures/damage.py" Q-HDR-3 o.qcow2 "$seed" >out
cp o.qcow2 before
"$PLATTER" convert --rescue --report report.json -f qcow2 -O raw o.qcow2 got.raw >out 2>&1
is "$?:$(python3 "$srcdir/tests/repair/blocks.py" ../guest.raw got.raw 4096 | awk '{ print $1, $2 - $3 }')" '2:0 0' \
	'an overlay without its header: all of it is shown'
ok '  and what is not its own is inferred' jq -e '.lost == [] and (.inferred | map(.length) | add) > 20000000' report.json
rm got.raw
"$PLATTER" convert --rescue --no-backing -f qcow2 -O raw o.qcow2 got.raw >out 2>&1
ok '  but nothing from below, where that is not wanted' cmp -s -n 1048576 got.raw /dev/zero
rm got.raw
"$PLATTER" repair -q --yes -f qcow2 o.qcow2 >out 2>&1
is "$?:$(qemu-img info --output=json o.qcow2 | jq -r '."backing-filename"')" '2:a base' '  repair records its name'
ok '  the disk is what it was' qemu-img compare -q -f qcow2 -F raw o.qcow2 ../guest.raw
"$PLATTER" undo -q o.qcow2.platter-undo
is_file_equal o.qcow2 before '  undo'
cp 'a base' 'the same'
"$PLATTER" repair --yes -f qcow2 o.qcow2 >out 2>&1
is "$?:$(qemu-img info --output=json o.qcow2 | jq -r '."backing-filename"')" 2:null '  of two copies of it none is taken'
like "$(cat out)" "Beside the image '(a base|the same)' may be it" '  it is said'
cd .. || exit 1
done_testing
