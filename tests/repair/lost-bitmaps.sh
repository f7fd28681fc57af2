#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Damage to the dirty bitmaps of a qcow2, which QEMU does not open then: after a repair it does, the bitmaps that are sound are
# there with what they hold, no more than what is in doubt is dropped, nothing of the file is given free, and undo gives the
# very bytes back.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io python3

qemu-img create -q -f qcow2 sound.qcow2 64M
for i in one two three; do qemu-img bitmap --add -g 64k sound.qcow2 $i; done
qemu-io -c 'write -q -P 7 1M 3M' sound.qcow2
"$PLATTER" convert -O raw sound.qcow2 disk.raw
cat >hurt.py <<'PY'
import struct, sys
f = open('d.qcow2', 'r+b')
d = f.read()
ext = d.index(struct.pack('>II', 0x23852875, 24)) + 8
n, _, size, dir = struct.unpack_from('>IIQQ', d, ext)
entry = [dir]
while len(entry) < 3:
    name, extra = struct.unpack_from('>HI', d, entry[-1] + 18)
    entry.append(entry[-1] + (24 + name + extra + 7 & ~7))
table = struct.unpack_from('>Q', d, entry[1])[0]
if sys.argv[1] == 'table':
    print(struct.unpack_from('>Q', d, table)[0])
    sys.exit()
for off, b in {'first': [(dir, b'junk' * 6)], 'second': [(entry[1] + 16, b'\7')], 'name': [(entry[2] + 18, b'\4')],
               'all': [(dir, b'junk' * 64)], 'zeros': [(dir, bytes(256))], 'count': [(ext, bytes(4))],
               'many': [(ext, b'\0\0\1')], 'place': [(ext + 16, struct.pack('>Q', 1 << 40))], 'size': [(ext + 8, b'\xff')],
               'unaligned': [(ext + 22, b'\1')], 'entry': [(table, struct.pack('>Q', 1 << 44))],
               'bits': [(table, b'\xff' * 8)]}[sys.argv[1]]:
    f.seek(off)
    f.write(b)
PY
# names IMAGE: of the bitmaps that can be used
names() {
	qemu-img info --output=json "$1" | python3 -c '
import json, sys
print(*[b["name"] for b in json.load(sys.stdin)["format-specific"]["data"].get("bitmaps", []) if "in-use" not in b["flags"]])'
}
# judge KIND STATUS NAMES...
judge() {
	local kind=$1 status=$2

	shift 2
	cp sound.qcow2 d.qcow2
	python3 hurt.py $kind
	cp d.qcow2 before
	"$PLATTER" check -q d.qcow2 >out 2>&1
	is $? 2 "$kind: check"
	"$PLATTER" repair -q --yes d.qcow2 >out 2>&1
	is $? "$status" "$kind: repair"
	is "$(names d.qcow2)" "$*" "$kind: the bitmaps"
	ok "$kind: the disk" qemu-img compare -q d.qcow2 disk.raw
	qemu-img check -q d.qcow2 >out 2>&1
	is $? "$status" "$kind: qemu-img finds nothing but what is kept"
	undone d.qcow2 before "$kind: undo"
}

judge count 0 one two three
judge many 0 one two three
judge size 0 one two three
judge place 0 one two three
judge unaligned 0 one two three
judge first 3 two three
judge second 3 one three
judge name 3 one two
judge all 3
judge zeros 3
# An entry of a table: what it stood for counts as written.
for kind in entry bits; do
	cp sound.qcow2 d.qcow2
	python3 hurt.py $kind
	"$PLATTER" repair -q --yes d.qcow2 >out 2>&1
	is $? 0 "$kind: repair"
	ok "$kind: qemu-img finds nothing" qemu-img check -q d.qcow2
	is "$(names d.qcow2)" 'one two three' "$kind: the bitmaps"
	is "$(python3 hurt.py table)" 1 "$kind: the entry says that all has been written"
done
cp sound.qcow2 d.qcow2
"$PLATTER" repair -q --yes d.qcow2
is_file_equal d.qcow2 sound.qcow2 'a sound image is not touched'
done_testing
