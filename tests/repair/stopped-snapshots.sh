#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# What counts say of a map that snapshots share.  A snapshot -a or -d that was stopped leaves tables counted for a disk
# that does not have them any more: they are not put into its empty places, which would mix two states.  A lost table
# of the disk looks alike in one place: it is put back, and -r leaks does not lower the count that says so.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io python3

cat >edit.py <<'EOF'
import struct, sys
what, src, out = sys.argv[1:4]
d = bytearray(open(src, 'rb').read())
MASK = 0xfffffffffffe00

def get(b, off, f):
    return struct.unpack_from(f, b, off)

cs = 1 << get(d, 20, '>I')[0]
block = get(d, get(d, 48, '>Q')[0], '>Q')[0] # one will do for all

def add(off, n):
    at = block + 2 * (off // cs)
    struct.pack_into('>H', d, at, get(d, at, '>H')[0] + n)

def snapshots(b):
    off, v = get(b, 64, '>Q')[0], {}
    for i in range(get(b, 60, '>I')[0]):
        l1, n, idl, namel = get(b, off, '>QIHH')
        at = off + 40 + get(b, off + 36, '>I')[0]
        v[bytes(b[at + idl:at + idl + namel]).decode()] = l1, n
        off = (at + idl + namel + 7) & ~7
    return v, get(b, 64, '>Q')[0], off

def entries(b, off, n):
    return [e & MASK for e in get(b, off, '>%dQ' % n)]

l1, n = get(d, 40, '>Q')[0], get(d, 36, '>I')[0]
if what == 'applying': # E's clusters are counted once more, the L1 is E's; nothing is lowered yet
    e = entries(d, *snapshots(d)[0]['E'])
    for t in filter(None, e):
        add(t, 1)
        for c in filter(None, entries(d, t, cs // 8)):
            add(c, 1)
    struct.pack_into('>%dQ' % n, d, l1, *(e + [0] * n)[:n])
elif what == 'deleting': # the header names a table without A; nothing is lowered yet
    after = open(sys.argv[4], 'rb').read()
    _, off, end = snapshots(after)
    d += bytes(max(0, off + cs - len(d)))
    d[off:end] = after[off:end]
    d[60:72] = after[60:72]
    add(off, 1)
elif what == 'lost': # some entries of the L1
    for i in map(int, sys.argv[4:]):
        struct.pack_into('>Q', d, l1 + 8 * i, 0)
open(out, 'wb').write(d)
EOF

# stopped NAME TRUTH: each repair settles k.qcow2, whose disk stays TRUTH
stopped() {
	local how s

	ok "$1: the disk is as meant" qemu-img compare -q k.qcow2 "$2"
	for how in 'check -q -r leaks' 'check -q -r all' 'repair -q --yes'; do
		rm -f j.qcow2*
		cp k.qcow2 j.qcow2
		# shellcheck disable=SC2086 # words
		"$PLATTER" $how j.qcow2 >out 2>&1
		s=$?
		ok "$1: $how: it is one state of the disk" qemu-img compare -q j.qcow2 "$2"
		[ $s = 3 ] && s=0 # (whether a part is lost may be open; nothing is called damaged)
		is "$s" 0 "$1: $how: nothing is called lost"
	done
}

# Slots of 2 MiB.  E has the first one, A and B more; some of what A has is written over.
for private in no yes; do
	rm -f b.qcow2
	qemu-img create -q -f qcow2 -o cluster_size=4k b.qcow2 8M
	qemu-io -c 'write -q -P 1 0 512k' b.qcow2
	qemu-img snapshot -c E b.qcow2
	qemu-io -c 'write -q -P 2 0 256k' -c 'write -q -P 3 2M 512k' -c 'write -q -P 4 5M 512k' b.qcow2
	qemu-img snapshot -c A b.qcow2
	[ $private = no ] || qemu-io -c 'write -q -P 7 128k 64k' -c 'write -q -P 8 2M 64k' -c 'write -q -P 9 7M 64k' b.qcow2
	python3 edit.py applying b.qcow2 k.qcow2
	qemu-img convert -O raw -l E b.qcow2 E.raw
	stopped "apply, private clusters: $private" E.raw

	[ $private = no ] || qemu-img snapshot -c B b.qcow2
	[ $private = yes ] || { qemu-io -c 'write -q -P 7 128k 64k' b.qcow2 && qemu-img snapshot -c B b.qcow2; }
	qemu-img snapshot -a E b.qcow2
	cp b.qcow2 after.qcow2
	qemu-img snapshot -d A after.qcow2
	python3 edit.py deleting b.qcow2 k.qcow2 after.qcow2
	stopped "delete, private clusters: $private" E.raw
done

# Lost entries of the disk, whose tables snapshots have too.
rm -f b.qcow2
qemu-img create -q -f qcow2 -o cluster_size=4k b.qcow2 8M
qemu-io -c 'write -q -P 1 0 512k' -c 'write -q -P 3 2M 512k' -c 'write -q -P 4 5M 512k' b.qcow2
qemu-img snapshot -c A b.qcow2
for lost in '1' '0 2' '0 1 2'; do
	# shellcheck disable=SC2086 # words
	python3 edit.py lost b.qcow2 k.qcow2 $lost
	# (without any, a commit may have been stopped that had emptied the disk)
	status=2
	[ "$lost" != '0 1 2' ] || status=3
	"$PLATTER" check k.qcow2 >out 2>&1
	is $? $status "entries $lost are lost: check says so"
	like "$(cat out)" 'part of the map is lost' 'in words'
	cp k.qcow2 j.qcow2
	"$PLATTER" check -r leaks j.qcow2 >out 2>&1
	is $? $status '-r leaks, too'
	is_file_equal j.qcow2 k.qcow2 'and lowers no count'
	ok '-r all puts them back' "$PLATTER" check -q -r all j.qcow2
	ok 'the disk is what it was' qemu-img compare -q j.qcow2 b.qcow2
	ok 'qemu-img finds nothing' qemu-img check -q j.qcow2
	rm -f j.qcow2*
done
done_testing
