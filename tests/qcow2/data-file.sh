#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# External data files: found beside the image, else in the current folder; never guessed.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io python3

mkdir there
(cd there && qemu-img create -q -f qcow2 -o data_file=d.raw a.qcow2 1M &&
	qemu-io -f qcow2 -c 'write -P 7 0 1M' a.qcow2 >/dev/null)

ok 'beside the image' "$PLATTER" convert -f qcow2 -O raw there/a.qcow2 out.raw
ok 'with its content' cmp out.raw there/d.raw

cp there/d.raw d.raw
"$PLATTER" convert -f qcow2 -O raw there/a.qcow2 out.raw >text 2>&1
is $? 1 'two files of that name are refused'
like "$(cat text)" 'exists both beside the image .*d\.raw.* and in the current folder' 'and both are named'
rm d.raw
ln there/d.raw d.raw
ok 'two names of one file are not' "$PLATTER" convert -f qcow2 -O raw there/a.qcow2 out.raw

rm d.raw
mv there/d.raw .
ok 'in the current folder' "$PLATTER" convert -f qcow2 -O raw there/a.qcow2 out.raw
ok 'with its content' cmp out.raw d.raw
rm d.raw
"$PLATTER" convert -f qcow2 -O raw there/a.qcow2 out.raw >text 2>&1
is $? 1 'neither there nor here'
like "$(cat text)" 'd\.raw' 'is an error that names it'
like "$("$PLATTER" info there/a.qcow2)" 'data file: d\.raw' 'info needs no data file'
ok 'neither does check' "$PLATTER" check -q there/a.qcow2

# A name that is a protocol or JSON is not followed.
for name in 'json:{"driver":"file","filename":"/etc/passwd"}' 'nbd://localhost/x' 'file:/etc/passwd'; do
	qemu-img create -q -f qcow2 -o "data_file=d.raw" b.qcow2 1M
	python3 - "$name" <<'PYTHON'
import struct, sys
name = sys.argv[1].encode()
data = bytearray(open('b.qcow2', 'rb').read())
pad = -len(name) % 8
data[112:65536] = (struct.pack('>II', 0x44415441, len(name)) + name + bytes(pad) + bytes(8)).ljust(65536 - 112, b'\0')
open('b.qcow2', 'wb').write(data)
PYTHON
	"$PLATTER" convert -f qcow2 -O raw b.qcow2 out.raw >text 2>&1
	is $? 1 "refused: $name"
	like "$(cat text)" 'is not a plain path' 'because it is no path'
done

done_testing
