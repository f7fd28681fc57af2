#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# check --deep finds what structure does not show, in images that plain check calls sound: compressed clusters that
# cannot be decoded, damaged bases, data files that are too short, clusters that lie in each other's places.  It
# finds nothing in sound images with real filesystems.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
requires qemu-img qemu-io python3 mke2fs

# u64 FILE OFFSET
u64() {
	echo $((16#$(od -An -tx1 -j "$2" -N 8 "$1" | tr -d ' \n')))
}
# put64 FILE OFFSET VALUE
put64() {
	printf "$(printf '%016x' "$3" | sed 's/../\\x&/g')" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# deep STATUS PATTERN DESCRIPTION [OPTION...]: of d.qcow2, which plain check calls sound.
deep() {
	local status=$1 pattern=$2 name=$3 sum

	shift 3
	sum=$(sha256sum <d.qcow2)
	"$PLATTER" check -q d.qcow2 >out 2>&1
	is "$? $(cat out)" '0 ' "$name: plain check sees nothing"
	"$PLATTER" check --deep "$@" d.qcow2 >out 2>&1
	is $? "$status" "$name: exit status"
	like "$(cat out)" "$pattern" "$name: what is found"
	is "$(sha256sum <d.qcow2)" "$sum" "$name: nothing is written"
}

mke2fs -q -t ext4 -b 4096 -O metadata_csum -d "$srcdir/qcow2" disk.raw 64M 2>/dev/null || skip_all 'no filesystem can be made'
qemu-img convert -c -f raw -O qcow2 disk.raw comp.qcow2
qemu-img convert -f raw -O qcow2 -o cluster_size=4k disk.raw plain.qcow2

cp plain.qcow2 d.qcow2
deep 0 'No errors were found' 'a sound image with a filesystem'
cp comp.qcow2 d.qcow2
deep 0 'No errors were found' 'a sound compressed one'
"$PLATTER" check --deep -f raw disk.raw >out 2>&1
is "$? $(cat out)" '0 No errors were found on the image.' 'raw has no structure, and is looked into'

# A compressed cluster that ends in garbage.
python3 - d.qcow2 <<'PY'
import struct, sys
f = open(sys.argv[1], 'r+b')
d = f.read()
l1, = struct.unpack_from('>Q', d, 40)
l2 = struct.unpack_from('>Q', d, l1)[0] & 0xfffffffffffe00
n = 0
for i in range(8192):
    e, = struct.unpack_from('>Q', d, l2 + 8 * i)
    if e >> 62 & 1 and (n := n + 1) == 3:
        f.seek(e & (1 << 54) - 1)
        f.write(b'\xff' * 64) # (no block of deflate begins so)
PY
deep 2 'corruption: ERROR .*the compressed cluster at guest offset 0x[0-9a-f]* [(]0x[0-9a-f]* in the file[)] cannot be decoded: 0 of 65536' \
	'a compressed cluster is garbage'
is "$(grep -c 'cannot be decoded' out)" 1 'it and no other'
"$PLATTER" check --deep --output=json d.qcow2 >out 2>/dev/null
is "$? $(python3 -c 'import json; print([f["id"] for f in json.load(open("out"))["platter-findings"]])')" "2 ['Q-CMP']" \
	'in JSON'

# One that only a snapshot has.
qemu-img snapshot -c before d.qcow2
qemu-io -c 'write -q -P 0 0 64M' d.qcow2
deep 2 'snapshot before: the compressed cluster' 'a compressed cluster of a snapshot is garbage'
is "$(grep -c 'cannot be decoded' out)" 1 'it and no other'

# The base is damaged, the overlay is not.
cp plain.qcow2 base.qcow2
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 d.qcow2
deep 0 'No errors were found' 'a sound chain'
l1=$(u64 base.qcow2 40)
l2=$(($(u64 base.qcow2 "$l1") & 0x00fffffffffffe00))
put64 base.qcow2 $((l2 + 8)) $((0x123456789abc))
deep 2 '[^k]' 'a damaged base'
mv base.qcow2 away
deep 2 'ERROR .d.qcow2.: its backing file is missing or another one: base.qcow2' 'a base that is missing'
"$PLATTER" check --deep --no-backing d.qcow2 >/dev/null 2>&1
is $? 0 'a base that is not asked for'

# A data file that has lost its end.
qemu-img create -q -f qcow2 -o data_file=data,data_file_raw=off d.qcow2 8M
qemu-io -c 'write -q -P 1 0 4M' d.qcow2
deep 0 'No errors were found' 'a whole data file'
truncate -s 3M data
deep 2 "1048576 bytes, the first at guest offset 0x300000, should lie behind the end of the data file 'data'" 'a short data file'

# Two clusters in each other's places: both mapped, both counted, and the guest's checksums say no.
cp plain.qcow2 d.qcow2
python3 - d.qcow2 disk.raw <<'PY'
import struct, sys
f, raw = open(sys.argv[1], 'r+b'), open(sys.argv[2], 'rb').read()
d = f.read()
l1, = struct.unpack_from('>Q', d, 40)
l2 = struct.unpack_from('>Q', d, l1)[0] & 0xfffffffffffe00
# the first two blocks of the inode table
table, = struct.unpack_from('<I', raw, 4096 + 8)
a, b = (l2 + 8 * (table + i) for i in (0, 1))
x, y = (struct.unpack_from('>Q', d, at)[0] for at in (a, b))
assert x and y
f.seek(a); f.write(struct.pack('>Q', y))
f.seek(b); f.write(struct.pack('>Q', x))
PY
deep 2 'ERROR the ext filesystem at 0: 2 of [0-9]* pieces of metadata do not belong where they lie' 'swapped clusters'

fails 1 '-r and --deep' "$PLATTER" check --deep -r all d.qcow2
"$PLATTER" check --deep --rescue --report r.json d.qcow2 >/dev/null 2>&1
is $? 0 '--deep looks through a plan, too, in which they are where they belong'
# The table of the disk's very beginning in another's place: no partition table, no filesystem, and nothing that structure
# shows; who reads all looks without being asked.
if python3 -B "$srcdir/tests/fixtures/guest.py" ext4 32 7 gpt.raw 0 fill=8 >/dev/null; then
	"$PLATTER" convert -O qcow2 -o cluster_size=4k gpt.raw d.qcow2
	python3 - d.qcow2 <<'PY'
import struct, sys
f = open(sys.argv[1], 'r+b')
d = f.read()
l1, = struct.unpack_from('>Q', d, 40)
v = list(struct.unpack_from('>16Q', d, l1))
k = [i for i in range(1, 16) if v[i]][-1] # (the copy of the partition table lies there)
v[0], v[k] = v[k], v[0]
f.seek(l1); f.write(struct.pack('>16Q', *v))
PY
	ok 'an exchanged beginning: plain check finds nothing' "$PLATTER" check -q d.qcow2
	is "$("$PLATTER" hash --rescue d.qcow2 2>/dev/null | cut -d' ' -f1)" "$("$PLATTER" hash gpt.raw | cut -d' ' -f1)" \
		'an exchanged beginning: --rescue shows the disk'
	"$PLATTER" check -q --deep d.qcow2 >/dev/null 2>&1
	is $? 2 'an exchanged beginning: check --deep'
	ok 'an exchanged beginning: repair' "$PLATTER" repair -q --yes d.qcow2
	ok '  puts it right' qemu-img compare -q d.qcow2 gpt.raw
	rm -f d.qcow2*
fi

# clear IMAGE CLUSTER...: their L2 entries
clear() {
	python3 - "$@" <<'PY'
import struct, sys
f = open(sys.argv[1], 'r+b')
d = f.read()
(bits,), (l1,) = struct.unpack_from('>I', d, 20), struct.unpack_from('>Q', d, 40)
for c in map(int, sys.argv[2:]):
    i, k = divmod(c, (1 << bits) // 8)
    f.seek((struct.unpack_from('>Q', d, l1 + 8 * i)[0] & 0xfffffffffffe00) + 8 * k)
    f.write(bytes(8))
PY
}
# rescued SOUND: 512-byte sectors of d.qcow2 that --rescue shows otherwise, and names in no list; and of all others
rescued() {
	"$PLATTER" convert -q --rescue --report r.json -O raw d.qcow2 out.raw 2>/dev/null
	"$PLATTER" convert -q -O raw "$1" sound.raw
	python3 - <<'PY'
import json
r = json.load(open('r.json'))
named = sorted((v['start'], v['start'] + v['length']) for v in r['lost'] + r['inferred'])
a, b = open('sound.raw', 'rb').read(), open('out.raw', 'rb').read()
bad = [at for at in range(0, len(a), 512) if a[at:at + 512] != b[at:at + 512]]
print(sum(not any(x <= at < y for x, y in named) for at in bad), len(bad))
PY
}

# Inodes that the bitmap says are in use are no zeros.
cp plain.qcow2 d.qcow2
clear d.qcow2 $(($(dumpe2fs disk.raw 2>/dev/null | sed -n 's/.*Inode table at \([0-9]*\)-.*/\1/p' | head -n 1) + 2))
"$PLATTER" check --deep d.qcow2 >out 2>&1
like "$? $(cat out)" '1 of [0-9]* pieces of metadata do not belong where they lie' 'inodes of zeros that are in use'
is "$(rescued plain.qcow2)" '0 0' '  they are put back'

# A partition whose filesystem has lost its beginning and more: all of it was written last.
if command -v mkfs.fat >/dev/null; then
	python3 -B "$srcdir/tests/fixtures/guest.py" vfat 32 7 fat.raw 0 fill=8 >/dev/null
	dd if=fat.raw of=part bs=64k skip=16 count=2 status=none
	cp fat.raw zeros.raw
	dd if=/dev/zero of=zeros.raw bs=64k seek=16 count=2 conv=notrunc status=none
	qemu-img convert -f raw -O qcow2 -o cluster_size=4k zeros.raw d.qcow2
	qemu-io -c 'write -q -s part 1M 128k' d.qcow2
	cp d.qcow2 sound.qcow2
	clear d.qcow2 $(seq 256 287)
	read -r silent bad < <(rescued sound.qcow2)
	is "$silent" 0 "no filesystem begins in a partition: nothing of it is wrong in silence ($bad sectors are)"
	ok '  and most is back' [ "$bad" -lt 128 ]
	"$PLATTER" check -q --deep d.qcow2 >/dev/null 2>&1
	is $? 2 '  check --deep'

	# Most of the map is gone, and a table in the place of another's, of places that the guest has not in use.
	qemu-img convert -f raw -O qcow2 -o cluster_size=4k fat.raw sound.qcow2
	cp sound.qcow2 d.qcow2
	python3 - d.qcow2 <<'PY'
import struct, sys
f = open(sys.argv[1], 'r+b')
d = f.read()
l1, = struct.unpack_from('>Q', d, 40)
first, last = (struct.unpack_from('>Q', d, l1 + 8 * i)[0] & 0xfffffffffffe00 for i in (0, 15))
f.seek(first); f.write(d[last:last + 4096])
f.seek(last); f.write(b'the quick brown fox ' * 200)
PY
	read -r silent bad < <(rescued sound.qcow2)
	is "$silent" 0 "a copy of the last table in the place of the first: nothing is wrong in silence ($bad sectors are)"

	# Two tables of an overlay in each other's places: nothing but what lies below says so.
	qemu-img create -q -f qcow2 -b fat.raw -F raw -o cluster_size=1k sound.qcow2
	for i in $(seq 0 5 127) $(seq 513 3 639); do # (half of a cluster: the rest stays)
		echo "write -q -P 9 $((20 * 131072 + i * 1024)) 512"
	done | qemu-io sound.qcow2 >/dev/null
	cp sound.qcow2 d.qcow2
	python3 - d.qcow2 <<'PY'
import struct, sys
f = open(sys.argv[1], 'r+b')
d = f.read()
l1, = struct.unpack_from('>Q', d, 40)
a, b = l1 + 8 * 20, l1 + 8 * 24
f.seek(a); f.write(d[b:b + 8])
f.seek(b); f.write(d[a:a + 8])
PY
	is "$(rescued sound.qcow2 | cut -d' ' -f1)" 0 'exchanged tables of an overlay are known by what lies below'
	"$PLATTER" repair -q --yes d.qcow2 >out 2>&1
	is $? 2 '  and repair says so'
	"$PLATTER" check -q --deep sound.qcow2 >out 2>&1
	is "$? $(cat out)" '0 ' '  in their places they are no news'
fi

# An older version of a table: what it has lost of places that the guest calls free is named, too, as nobody knows of which.
cp plain.qcow2 d.qcow2
read -r free _ < <(dumpe2fs disk.raw 2>/dev/null | sed -n 's/.*Free blocks:.* \([0-9]*\)-\([0-9]*\)$/\1/p' | head -n 1)
files=$(debugfs -R 'blocks /check.c' disk.raw 2>/dev/null)
qemu-io -c "write -q -P 5 $(((free + 3) * 4096)) 8k" -c "write -q -P 6 60M 4k" d.qcow2
cp d.qcow2 sound.qcow2
clear d.qcow2 $files $((free + 3)) $((free + 4))
is "$(rescued sound.qcow2 | cut -d' ' -f1)" 0 'lost entries of places that the guest calls free are named with the others'

# Zeros by a flag over what was there before are what a guest's zeros become in some programs, unless they are few.
cp plain.qcow2 d.qcow2
files=$(for f in check.c open.c snapshot.c create.c; do debugfs -R "blocks /$f" disk.raw 2>/dev/null; done)
zero() {
	for block in "$@"; do
		printf 'write -q -z %s 4096\n' $((block * 4096))
	done | qemu-io d.qcow2 >/dev/null
}
zero ${files%% *}
deep 2 'ERROR 4096 bytes of the disk are in doubt, .*: a zero flag hides data' 'one zero flag over a file'
zero $files
deep 0 'No errors were found' 'many of them'

# What a program leaves that was killed lies behind everything that is mapped: no reason to doubt files of zeros.
if command -v mcopy >/dev/null; then
	truncate -s 8M fat.raw
	mkfs.fat -s 8 fat.raw >/dev/null
	truncate -s 300000 zeros
	mcopy -i fat.raw zeros "$srcdir/qcow2/check.c" ::
	qemu-img convert -f raw -O qcow2 -o cluster_size=4k fat.raw d.qcow2
	deep 0 'No errors were found' 'a file of zeros'
	qemu-io -c 'write -q -P 7 7M 4k' d.qcow2
	l1=$(u64 d.qcow2 40)
	put64 d.qcow2 $((($(u64 d.qcow2 $((l1 + 24))) & 0x00fffffffffffe00) + 2048)) 0
	"$PLATTER" check --deep d.qcow2 >out 2>&1
	is "$? $(grep -c G-MAP out)" '3 0' 'and a cluster that a killed program has left'
fi

# Tables of 32 KiB in each other's places, inside a file: no metadata, no end of a file.  What lies beside them in the guest
# runs on there on the host, which says something where the rest of the image is in order, and nothing where it is not.
head -c 3000000 /dev/urandom >big
mkdir only
mv big only
mke2fs -q -t ext4 -b 4096 -O metadata_csum -d only big.raw 8M
python3 - "$(debugfs -R 'blocks /big' big.raw 2>/dev/null)" >big.qemu-io <<'PY'
import sys
blocks = [int(b) for b in sys.argv[1].split()]
full = [t for t in range(1, 256) if all(b in set(blocks) for b in range((t - 1) * 8, (t + 2) * 8))]
a, b = full[2], full[20]
open('tables', 'w').write('%d %d\n' % (a, b))
d = open('big.raw', 'rb').read()
used = [t for t in range(len(d) // 32768) if any(d[t * 32768:(t + 1) * 32768])]
rest = [t for t in used if t not in (a - 1, a, a + 1, b - 1, b, b + 1)]
rest = rest[::2] + rest[1::2] # (each runs on elsewhere)
for t in [a - 1, b, a + 1, *rest, b - 1, a, b + 1]:
    open('t%d' % t, 'wb').write(d[t * 32768:(t + 1) * 32768])
    print('write -q -s t%d %d 32768' % (t, t * 32768))
PY
read -r a b <tables
qemu-img create -q -f qcow2 -o cluster_size=512 d.qcow2 8M
qemu-io d.qcow2 <big.qemu-io >/dev/null
rm -f t[0-9]*
deep 0 'No errors were found' 'an order that looks like an exchange, among others'
for sector in 0 1; do # a sector at the beginning of the one, on both sides: an end fewer for each
	qemu-img convert -f raw -O qcow2 -o cluster_size=512 big.raw d.qcow2
	[ $sector = 0 ] || qemu-io -d unmap -c "discard -q $((a * 32768)) 512" -c "discard -q $((b * 32768)) 512" d.qcow2 >/dev/null
	"$PLATTER" hash d.qcow2 >want
	l1=$(u64 d.qcow2 40)
	x=$(u64 d.qcow2 $((l1 + 8 * a))) y=$(u64 d.qcow2 $((l1 + 8 * b)))
	put64 d.qcow2 $((l1 + 8 * a)) $y
	put64 d.qcow2 $((l1 + 8 * b)) $x
	deep 2 'runs on there, on the host|two tables seem to be exchanged' "exchanged inside a file ($sector)"
	"$PLATTER" repair -q --yes d.qcow2 >/dev/null 2>&1
	if [ $sector = 0 ]; then
		is "$("$PLATTER" hash d.qcow2)" "$(cat want)" 'four ends say so: repair puts them right'
	else
		"$PLATTER" repair -q --yes --trust likely d.qcow2 >out 2>&1
		is "$("$PLATTER" hash d.qcow2)" "$(cat want)" "two ends: --trust likely does $(cat out)"
	fi
	rm -f d.qcow2*
done

# How well a disk agrees with itself: a child over its own parent does, over another disk or over a parent that was
# written to since it does not.
lab=$builddir/tests/repair/weigh-lab
# number WORD: what weigh-lab says of it
number() {
	sed -nE "s/.*\\b([0-9]+) $1.*/\\1/p" out
}
for fs in ext4:mke2fs xfs:mkfs.xfs ntfs:mkntfs vfat:mcopy; do
	command -v ${fs#*:} >/dev/null || continue
	fs=${fs%:*}
	for seed in 1 2; do
		python3 "$srcdir/tests/fixtures/guest.py" $fs $([ $fs = xfs ] && echo 320 || echo 96) $seed $seed.raw 0 old fill=3 >/dev/null
	done
	python3 "$srcdir/tests/fixtures/image.py" q4k-backing 1.raw 1 child.qcow2
	"$lab" child.qcow2 >out
	is "$(number bad)" 0 "$fs: the right parent: $(cat out)"
	"$PLATTER" check --deep child.qcow2 >out2 2>&1
	is "$? $(grep -c '[[]' out2)" '0 0' "$fs: check --deep of a sound chain"
	"$PLATTER" check --deep --no-backing child.qcow2 >/dev/null 2>&1
	is $? 0 "$fs: what is not opened is not missed"
	good=$(number good)
	ok "$fs: there is something that verifies" test "$good" -gt 10
	"$lab" child.qcow2 10 >out
	ok "$fs: a sample: $(cat out)" [ "$(number good)" -ge 3 ]
	like "$(cat out)" sampled "$fs: which says so"
	"$lab" 1.raw >out
	is "$(number good)" "$good" "$fs: the disk itself: $(cat out)"
	mv child.qcow2.base right
	qemu-img convert -f raw -O qcow2 2.raw.old child.qcow2.base
	"$lab" child.qcow2 >out
	[ $fs = ntfs ] || ok "$fs: another disk as parent: $(cat out)" [ "$(number bad)" -gt 0 ] # (its tools change no metadata)
	qemu-img create -q -f qcow2 child.qcow2.base "$(stat -c %s 1.raw)"
	"$lab" child.qcow2 >out
	ok "$fs: nothing as parent: $(cat out)" [ "$(number good)" -lt "$good" ]
	rm -f child.qcow2* right
done

done_testing
