#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Damage to the snapshot table of a qcow2: the snapshots come back, by name where it still stands somewhere, the disk is
# what it was, qemu-img finds nothing wrong, and undo gives the very bytes back.  A snapshot that was deleted stays so.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires python3 qemu-img qemu-io

qemu-img create -q -f qcow2 sound.qcow2 300M
qemu-io -c 'write -q -P 1 0 20M' sound.qcow2
qemu-img snapshot -c one sound.qcow2
qemu-io -c 'write -q -P 2 5M 3M' sound.qcow2
qemu-img snapshot -c two sound.qcow2
qemu-io -c 'write -q -P 3 8M 3M' sound.qcow2
for i in one two; do qemu-img convert -l $i -O raw sound.qcow2 $i.raw; done
table=$((16#$(od -An -tx1 -j 64 -N 8 sound.qcow2 | tr -d ' \n')))

# poke OFFSET BYTES (\x..)
poke() {
	# shellcheck disable=SC2059 # the bytes are a format
	printf "$2" | dd of=d.qcow2 bs=1 seek="$1" conv=notrunc status=none
}
# fill SOURCE LENGTH: over the table
fill() {
	head -c "$2" "$1" | dd of=d.qcow2 bs=1 seek=$table conv=notrunc status=none
}
# judge NAME FIRST SECOND [IDS]: what the two are called afterwards; what has got a new name is inferred, and said to be, and
# so are those of these ids
judge() {
	local what=$1 got k=0 inferred=${4:-}
	shift
	[ "$1" = one ] || inferred='1 2'
	cp d.qcow2 before
	"$PLATTER" repair -q --yes --report report.json d.qcow2 >out 2>&1
	is $? $((${inferred:+2} + 0)) "$what: repair"
	is "$(python3 -c 'import json; print(*(s["id"] for s in json.load(open("report.json")).get("snapshots", []) if s["inferred"]))')" \
		"$inferred" '  what is inferred of which snapshot'
	ok '  qemu-img finds nothing' qemu-img check -q d.qcow2
	ok '  the disk is what it was' qemu-img compare -q d.qcow2 sound.qcow2
	got=$(qemu-img snapshot -l d.qcow2 | awk 'NR > 2 { printf "%s ", $2 }')
	is "$got" "$1 $2 " '  the snapshots'
	for i in one two; do
		k=$((k + 1))
		qemu-img convert -l "$(echo "$got" | cut -d ' ' -f $k)" -O raw d.qcow2 got.raw
		is_file_equal got.raw $i.raw "  what was $i"
	done
	undone d.qcow2 before '  undo'
}
damaged() {
	cp sound.qcow2 d.qcow2
}

damaged; poke 60 '\0\0\0\0'; judge 'the count is 0' one two
damaged; poke 60 '\0\0\0\1'; judge 'the count is too small' one two
damaged; poke 60 '\0\0\0\7'; judge 'the count is too large' one two
damaged; poke 60 '\7\0\0\2'; judge 'the count is huge' one two
damaged; poke 64 '\0\0\0\0\0\0\0\0'; judge 'the place is 0' one two
damaged; poke 64 '\0\0\0\0\0\5\5\0'; judge 'the place is not aligned' one two
damaged; poke 64 '\0\0\0\5\0\0\0\0'; judge 'the place is behind the end' one two
damaged; fill /dev/zero 200; judge 'the table is zero' snap-recovered-1 snap-recovered-2
damaged; fill <(yes junk) 200; judge 'the table is text' snap-recovered-1 snap-recovered-2
damaged; poke $((table + 2)) '\1\2\3\4'; judge 'the place of an L1 table' one two
damaged; poke $((table + 8)) '\xff\xff\xff\xff'; judge 'the length of an L1 table' one two
damaged; poke $((table + 14)) '\xff\xff'; judge 'the length of a name' one two
damaged; poke $((table + 14)) '\3\0'; judge 'a name that goes on over the next entry' one two
damaged; poke $((table + 72 + 12)) '\2\1\xea\x60'; judge 'texts that go on over data' one two

# The L1 tables themselves: what they named is still counted for the snapshots.
l1() { # INDEX: where it lies
	python3 - "$table" "$1" <<'END'
import struct
import sys
d = open('sound.qcow2', 'rb').read()
at = int(sys.argv[1])
for _ in range(int(sys.argv[2])):
    extra, = struct.unpack_from('>I', d, at + 36)
    at += 40 + extra + sum(struct.unpack_from('>HH', d, at + 12)) + 7 & ~7
print(struct.unpack_from('>Q', d, at)[0])
END
}
first=$(l1 0) second=$(l1 1)
damaged; poke "$first" 'this is no table'; judge "the first one's L1 table is text" one two 1
damaged; poke "$second" '\x80\0\0\0\0\7\0\0'; judge "the second one's names a cluster" one two 2
damaged; poke "$first" 'not a table'; poke "$second" 'nor is this'; judge 'both L1 tables are text' one two '1 2'

# What was deleted is not brought back; a sound image is not touched.
cp sound.qcow2 d.qcow2
qemu-img snapshot -d two d.qcow2
cp d.qcow2 before
ok 'after a snapshot was deleted: repair' "$PLATTER" repair -q --yes d.qcow2
is_file_equal d.qcow2 before '  changes nothing'
qemu-img snapshot -d one d.qcow2
cp d.qcow2 before
ok 'after all were: repair' "$PLATTER" repair -q --yes d.qcow2
is_file_equal d.qcow2 before '  changes nothing'
cp sound.qcow2 before
"$PLATTER" repair -q --yes sound.qcow2
is_file_equal sound.qcow2 before 'a sound image is not touched'
done_testing
