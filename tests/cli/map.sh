#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# map: both forms, ranges, chains.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
. "$srcdir/tests/cli/transcript.sh"

# pattern FILE OFFSET_KIB LENGTH_KIB: not zero.
pattern() {
	head -c $(($3 * 1024)) /dev/zero | tr '\0' '\125' |
		dd of="$1" bs=1k seek="$2" conv=notrunc status=none
}

maps() {
	truncate -s 1M r.raw
	pattern r.raw 0 64
	pattern r.raw 256 128
	t map -f raw r.raw
	t map -f raw --output=json r.raw
	t map -f raw --output=json --start-offset=32k --max-length=300k r.raw
	t map -f raw --start-offset=32k --max-length=300k r.raw
	t map -f raw --output=json -s 1M r.raw
	t map -f raw --output=json -s 2M r.raw
	t map -f raw --output=json -l 0 r.raw
	t map -f raw -l 0 r.raw
	t map --image-opts -f qcow2 a
	t map nofile
	"$QI" create -q -f qcow2 a.qcow2 1M
	t map --output=json a.qcow2
	t map a.qcow2
	"$QI" create -q -f qcow2 -b r.raw -F raw b.qcow2
	t map --output=json b.qcow2
	t map b.qcow2
	t map -U --output=json --image-opts driver=qcow2,file.filename=b.qcow2
	"$QI" create -q -f qcow2 -b b.qcow2 -F qcow2 c.qcow2 2M
	t map --output=json c.qcow2
	"$QI" create -q -f qcow2 -u -b nofile -F raw lost.qcow2 1M
	t map lost.qcow2
	"$QI" create -q -f qcow2 -o preallocation=metadata p.qcow2 1M
	t map --output=json p.qcow2
	t map p.qcow2
	"$QI" convert -f raw -O qcow2 -c r.raw z.qcow2
	t map --output=json z.qcow2
	t map z.qcow2
	"$QI" convert -f raw -O qcow2 r.raw d.qcow2
	t map --output=json d.qcow2 | sed -E 's/"offset": [0-9]+/"offset": N/'
}

same_as_qemu map maps

truncate -s 1M r.raw
"$PLATTER" create -q -f qcow2 -b r.raw -F raw b.qcow2
fails 1 '--untrusted refuses a backing file' "$PLATTER" map --untrusted b.qcow2
ok '--no-backing does without it' "$PLATTER" map --no-backing b.qcow2
ok '--allow-dir lets it pass' "$PLATTER" map --allow-dir . b.qcow2
fails 1 '--allow-dir elsewhere refuses it' "$PLATTER" map --allow-dir / --allow-dir /etc --untrusted b.qcow2
done_testing
