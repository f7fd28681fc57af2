#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Compressed clusters of a qcow2 whose entries are damaged: one that says the wrong length, one that leads into another's
# stream, behind the end of the file, or is one bit wrong.  Each stream says itself where it ends, so all of them come back,
# qemu-img finds nothing wrong, and undo gives the very bytes back.  A stream that is damaged itself keeps its entry, and what
# comes out of it before the flaw.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img python3

cat >hurt.py <<'PY'
import struct, sys
kind, name = sys.argv[1:]
f = open(name, 'r+b')
d = f.read()
bits, = struct.unpack_from('>I', d, 20)
l1, = struct.unpack_from('>Q', d, 40)
x = 62 - (bits - 8)
at = [t + i for t in struct.unpack_from('>4Q', d, l1) if t for t in [t & (1 << 56) - 512] for i in range(0, 1 << bits, 8)]
at = [a for a in at if struct.unpack_from('>Q', d, a)[0] >> 62 == 1]
def entry(i):
    return struct.unpack_from('>Q', d, at[i])[0]
def put(i, e):
    f.seek(at[i])
    f.write(struct.pack('>Q', e))
off = lambda i: entry(i) & (1 << x) - 1
a, b = len(at) // 3, len(at) // 2
if kind == 'short': # no sectors but the first
    put(a, off(a) | 1 << 62)
elif kind == 'long': # as many as can be said
    put(len(at) - 1, entry(len(at) - 1) | (1 << 62) - (1 << x))
elif kind == 'inside':
    put(a, entry(a) >> x << x | off(b) + 60)
elif kind == 'behind':
    put(a, entry(a) | 1 << 40)
elif kind == 'bit': # within the same cluster of the file, as a rule
    put(a, entry(a) ^ 8)
elif kind == 'several':
    for i in range(a, b, 5):
        put(i, off(i) | 1 << 62)
    put(b, entry(b) ^ 16)
else: # payload
    f.seek(off(a) + 40)
    f.write(b'\xff' * 400)
PY

# judge KIND: all of it comes back
judge() {
	local what="$name, $1"

	cp sound.qcow2 d.qcow2
	python3 hurt.py "$1" d.qcow2
	cp d.qcow2 before
	rm -f got.raw
	"$PLATTER" check -q --deep d.qcow2 >out 2>&1
	like $? "$2" "$what: check --deep"
	"$PLATTER" convert --rescue --deep --strict -O raw d.qcow2 got.raw >out 2>&1
	is_file_equal got.raw disk.raw "$what: looked through the plan"
	"$PLATTER" repair -q --deep --yes d.qcow2 >out 2>&1
	ok "$what: qemu-img finds nothing" qemu-img check -q d.qcow2
	ok "$what: and reads the disk" qemu-img compare -q d.qcow2 sound.qcow2
	[ ! -e d.qcow2.platter-undo ] || "$PLATTER" undo -q d.qcow2.platter-undo
	is_file_equal d.qcow2 before "$what: the very bytes"
}

python3 - >disk.raw <<'PY'
import random, sys
rnd = random.Random(5)
words = [bytes(rnd.choices(b'abcdefghij', k=rnd.randrange(2, 9))) for _ in range(400)]
for i in range(32):
    sys.stdout.buffer.write(b' '.join(rnd.choices(words, k=12000))[:65536])
sys.stdout.buffer.write(bytes(1 << 20))
PY
for options in cluster_size=4k cluster_size=64k,compression_type=zstd cluster_size=64k; do
	[ $options = cluster_size=64k ] || sampled || continue
	name=$options
	qemu-img convert -c -f raw -O qcow2 -o $options disk.raw sound.qcow2
	cp sound.qcow2 d.qcow2
	"$PLATTER" repair -q --deep --yes d.qcow2
	is $? 0 "$name: sound"
	is_file_equal d.qcow2 sound.qcow2 "$name: sound: not touched"
	for kind in short inside behind bit several; do
		judge $kind '[2]'
	done
	judge long '[02]' # (the file ends, and so does the stream)
done

# The payload of one is damaged: the entry stays, what comes out before is there, the rest is named.
cp sound.qcow2 d.qcow2
python3 hurt.py payload d.qcow2
cp d.qcow2 before
"$PLATTER" repair -q --deep --yes d.qcow2 >out 2>&1
is $? 2 'damaged payload: repair says so'
is_file_equal d.qcow2 before 'damaged payload: nothing is edited'
"$PLATTER" convert --rescue --deep --report r.json -O raw d.qcow2 got.raw >out 2>&1
is $? 2 'damaged payload: exit status'
is "$(python3 -c 'import json; d = json.load(open("r.json")); print(sum(r["length"] for k in ("lost", "inferred") for r in d[k]))')" \
	65536 'damaged payload: what comes out before the flaw is inferred, the rest is lost'
ok 'damaged payload: nothing else differs' [ "$(cmp -l got.raw disk.raw | wc -l)" -le 65536 ]
done_testing
