#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Damage to encrypted images.  What the guest has written is evidence only to who can read it: with the secret, clusters of
# a lost L2 table find their places; without it they are named.  Of a LUKS header all that something else tells is put right,
# in a qcow2 and in a luks image; it is found where nothing names it; key slots that are gone are named.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
requires qemu-img python3 mke2fs debugfs

secret=(--object 'secret,id=s,data=correct horse')
# of IMAGE: how it is named so that it can be read
image() {
	echo "driver=qcow2,encrypt.key-secret=s,file.filename=$1"
}

python3 "$srcdir/tests/fixtures/guest.py" ext4 64 "${PLT_SEED:-7}" disk.raw >/dev/null || skip_all 'no filesystem can be made'
"$PLATTER" convert "${secret[@]}" -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,cluster_size=4k \
	disk.raw sound.qcow2
cp sound.qcow2 d.qcow2
python3 - d.qcow2 <<'PY' # the second L2 table with much in it
import random, struct, sys
f = open(sys.argv[1], 'r+b')
d = f.read()
tables = [t & (1 << 56) - 512 for t in struct.unpack_from('>16Q', d, struct.unpack_from('>Q', d, 40)[0])]
full = [t for t in tables if t and sum(map(bool, struct.unpack_from('>512Q', d, t))) > 100]
f.seek(full[1])
f.write(random.Random(1).randbytes(4096))
PY
cp d.qcow2 before
"$PLATTER" convert "${secret[@]}" --rescue --report with.json --image-opts "$(image d.qcow2)" -O raw got.raw 2>out
python3 - with.json <<'PY' >judged
import json, sys
lists = json.load(open(sys.argv[1]))
named = [(r['start'], r['start'] + r['length']) for k in ('lost', 'inferred') for r in lists[k]]
a, b = open('disk.raw', 'rb').read(), open('got.raw', 'rb').read()
wrong = [i for i in range(0, len(a), 4096) if a[i:i + 4096] != b[i:i + 4096]]
print(sum(not any(s < i + 4096 and i < e for s, e in named) for i in wrong), len(wrong))
PY
read -r silent wrong <judged
is "$silent" 0 'a lost L2 table, with the secret: nothing is wrong that is not named'
"$PLATTER" repair -q --yes d.qcow2 >out 2>&1
is $? 2 'without it what is lost is named'
"$PLATTER" convert "${secret[@]}" --image-opts "$(image d.qcow2)" -O raw got.raw
all=$(cmp -l got.raw disk.raw | awk '{ print int(($1 - 1) / 4096) }' | uniq | wc -l)
ok "with the secret $wrong blocks are wrong, without it $all" [ $((wrong * 3)) -lt "$all" ]
"$PLATTER" undo -q d.qcow2.platter-undo
"$PLATTER" repair -q --yes "${secret[@]}" --image-opts "$(image d.qcow2)" >out 2>&1
is $? 2 'repair with the secret'
qemu-img check -q "${secret[@]}" --image-opts "$(image d.qcow2)" >out 2>&1
like $? '^[03]$' 'and qemu-img finds no error'
undone d.qcow2 before 'undo'

# The LUKS header.
truncate -s 2M tail.raw
dd if=disk.raw of=tail.raw bs=1M count=1 conv=notrunc status=none
"$PLATTER" convert "${secret[@]}" -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 tail.raw sound.qcow2
"$PLATTER" convert "${secret[@]}" -O luks -o key-secret=s,iter-time=10 tail.raw sound.luks
cat >hurt.py <<'PY'
import struct, sys
kind, name = sys.argv[1:]
f = open(name, 'r+b')
d = f.read()
at = d.index(b'LUKS\xba\xbe') # of the header
ext = d.find(struct.pack('>II', 0x0537be77, 16), 0, 4096)
slot = lambda i: at + 208 + 48 * i
edits = {
    'mark': [(at, b'JUNK')], 'version': [(at + 6, b'\0\7')], 'cipher': [(at + 9, b'\xff')], 'mode': [(at + 42, b'\1')],
    'hash': [(at + 73, b'xx')], 'payload': [(at + 104, b'\0\0\0\1')], 'key': [(at + 108, b'\0\0\0\x20')],
    'offset': [(slot(0) + 40, b'\0\0\1\0')], 'stripes': [(slot(0) + 44, b'\0\0\0\1'), (slot(5) + 44, b'\1')],
    'state': [(slot(0), b'\0\x6c')], 'unused': [(slot(3), bytes(range(48)))],
    'detached': [(at + 104, bytes(4))], 'several': [(at, b'\0' * 8), (at + 104, b'\xff' * 8), (slot(2) + 40, bytes(8))],
    'place': [(ext + 8, struct.pack('>Q', 1 << 40))] if ext > 0 else [], 'extension': [(ext, b'\0\0\7\7')] if ext > 0 else [],
    'slot': [(at + 4096 + 512, bytes(1024))], 'salt': [(slot(0) + 8, bytes(32))], 'gone': [(at, bytes(4096))],
}
for off, b in edits[kind]:
    f.seek(off)
    f.write(b)
PY
for name in sound.qcow2 sound.luks; do
	if [ $name = sound.luks ]; then
		key=key-secret format=luks more=''
	else
		key=encrypt.key-secret format=qcow2 more='place extension detached'
	fi
	how=driver=$format,$key=s,file.filename=d.img
	cp $name d.img
	"$PLATTER" repair -q --yes -f $format d.img
	is $? 0 "$name: sound"
	is_file_equal d.img $name "$name: sound: not touched"
	for kind in mark version cipher mode hash payload key offset stripes state unused several $more; do
		sampled || continue
		cp $name d.img
		python3 hurt.py $kind d.img
		cp d.img before
		"$PLATTER" check -q -f $format d.img >out 2>&1
		is $? 2 "$name, $kind: check"
		"$PLATTER" repair -q --yes -f $format d.img >out 2>&1
		is $? 0 "$name, $kind: repair"
		qemu-img compare -q "${secret[@]}" --image-opts "$how" driver=raw,file.filename=tail.raw
		is $? 0 "$name, $kind: qemu-img opens it with the secret, and reads what it was"
		"$PLATTER" undo -q d.img.platter-undo
		is_file_equal d.img before "$name, $kind: the very bytes"
	done
	# What nothing tells again is said, and nothing is made up.
	for kind in slot salt gone; do
		cp $name d.img
		python3 hurt.py $kind d.img
		"$PLATTER" repair --yes -f $format d.img >out 2>&1
		like $? '^[12]$' "$name, $kind: repair says that something is left"
		like "$(cat out)" 'no key slot is left|not in LUKS format|no LUKS header' "$name, $kind: and what"
	done
done
# One slot is worn, another opens.
"$PLATTER" amend -q "${secret[@]}" --object secret,id=t,data=staple -o encrypt.state=active,encrypt.new-secret=t,encrypt.iter-time=10 \
	--image-opts "$(image sound.qcow2)"
cp sound.qcow2 d.qcow2
python3 hurt.py slot d.qcow2
"$PLATTER" check d.qcow2 >out 2>&1
like "$(cat out)" 'key slot 0.*no passphrase opens it' 'a slot that is worn is named'
unlike "$(cat out)" 'no key slot is left' 'and the other is not'
"$PLATTER" convert --object secret,id=s,data=staple --rescue --image-opts "$(image d.qcow2)" -O raw got.raw 2>out
is_file_equal got.raw tail.raw 'which opens the image'
# The place of the L1 table leads to the header of the encryption.
cp sound.qcow2 d.qcow2
python3 - d.qcow2 <<'PY'
import sys
f = open(sys.argv[1], 'r+b')
luks = f.read(65536).find(bytes.fromhex('0537be77'))
f.seek(luks + 8)
place = f.read(8)
f.seek(40)
f.write(place)
PY
"$PLATTER" repair -q --yes "${secret[@]}" --image-opts "$(image d.qcow2)" >out 2>&1
is $? 0 'an L1 table in the place of the LUKS header: repair'
is_file_equal d.qcow2 sound.qcow2 'it is what it was'
# In front of the LUKS header are copies of the refcount table, one of which names itself: it could pass for a table of any kind.
"$PLATTER" convert "${secret[@]}" -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,cluster_size=16k \
	disk.raw d.qcow2
python3 - d.qcow2 <<'PY'
import sys
f = open(sys.argv[1], 'r+b')
h = f.read(65536)
cluster = 1 << int.from_bytes(h[20:24], 'big')
f.seek(int.from_bytes(h[48:56], 'big'))
table = f.read(cluster)
f.seek(0)
at = h.find(bytes.fromhex('0537be77'))
f.write(table * (int.from_bytes(h[at + 8:at + 16], 'big') // cluster))
PY
"$PLATTER" convert "${secret[@]}" --rescue --report report.json --image-opts "$(image d.qcow2)" -O raw got.raw >out 2>&1
is $? 0 'a table that names itself: convert --rescue'
read -r bad right all < <(python3 "$srcdir/tests/repair/blocks.py" disk.raw got.raw 4096)
is "$bad $right" "0 $all" '  all of it is in its place'
done_testing
