#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# dd: what is said, and that the part which arrives is the part that was asked for.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
. "$srcdir/tests/cli/transcript.sh"

given() {
	truncate -s 1M r.raw
	seq 1 20000 | dd of=r.raw bs=64k seek=3 conv=notrunc status=none
	"$QI" convert -f raw -O qcow2 r.raw a.qcow2
	"$QI" create -q -f qcow2 -b a.qcow2 -F qcow2 o.qcow2 2M
}

# sum FILE FORMAT: what the guest sees.
sum() {
	"$QI" convert -f "$2" -O raw "$1" sum.raw && stat -c %s sum.raw && cksum <sum.raw
	rm -f sum.raw
}

parts() {
	local image what

	given
	for image in r.raw a.qcow2 o.qcow2; do
		for what in '' 'bs=1 count=5' 'bs=1 count=513 skip=1' 'bs=512 count=3' 'bs=64k skip=2 count=9' count=0 \
			skip=0 'bs=1M skip=2' 'bs=1M skip=100' 'bs=7 skip=65535' 'bs=1M count=100' \
			'bs=3k skip=9223372036854775807' count=9223372036854775807 'bs=100k count=5 skip=3' \
			'bs=100k count=5 skip=6' 'bs=1k bs=2k count=100'; do
			rm -f out
			# shellcheck disable=SC2086
			t dd $what if=$image of=out
			stat -c %s out && cksum <out
			rm -f out
			[ $image = a.qcow2 ] || continue
			# shellcheck disable=SC2086
			t dd -O qcow2 of=out $what if=$image
			sum out qcow2
		done
	done
	t dd -f raw if=a.qcow2 of=out bs=64k count=1
	t dd --image-opts if=driver=qcow2,file.filename=a.qcow2 of=out
	t dd -U -f qcow2 if=a.qcow2 of=out
	t dd if=r.raw of=a.qcow2
	sum a.qcow2 raw
}

refused() {
	given
	t dd
	t dd if=r.raw
	t dd of=out
	t dd if=nofile of=out
	t dd if=r.raw of=nodir/out
	t dd if=r.raw of=.
	t dd bs=0 if=r.raw of=out
	t dd bs=x if=r.raw of=out
	t dd bs=3G if=r.raw of=out
	t dd bs=99E if=r.raw of=out
	t dd count=x if=r.raw of=out
	t dd count=-1 if=r.raw of=out
	t dd skip=-1 if=r.raw of=out
	t dd foo if=r.raw of=out
	t dd foo=1 if=r.raw of=out
	t dd seek=1 if=r.raw of=out
	t dd conv=notrunc if=r.raw of=out
	t dd -O nope if=r.raw of=out
	t dd -O nope if=nofile of=out
	t dd -f nope if=r.raw of=out
	t dd -f qcow2 if=r.raw of=out
	t dd --image-opts -f raw if=driver=raw,file.filename=r.raw of=out
	ls
}

same_as_qemu dd parts
same_as_qemu dd-refused refused

QI=$PLATTER
given
# The output is new or the old one: here it cannot be made.
echo old >out
"$PLATTER" create -q -f qcow2 -u -b nofile -F raw lost.qcow2 1M
fails 1 'an input that does not open' "$PLATTER" dd if=lost.qcow2 of=out
is "$(cat out)" old '  leaves the output as it was'
fails 1 '--untrusted refuses a backing file' "$PLATTER" dd --untrusted if=o.qcow2 of=out
ok '--no-backing does without it' "$PLATTER" dd --no-backing if=o.qcow2 of=out
ok 'the input may be the output' "$PLATTER" dd -f raw bs=64k skip=3 count=6 if=r.raw of=r.raw
is "$(head -n 1 r.raw)" 1 '  and is read before it is replaced'
done_testing
