#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# measure: the numbers to the byte, for every option that changes them, and what is refused; and that
# they are enough for the conversion that they were asked for.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
. "$srcdir/tests/cli/transcript.sh"

given() {
	truncate -s 5M r.raw
	seq 1 90000 | dd of=r.raw bs=64k seek=7 conv=notrunc status=none
	seq 1 100 | dd of=r.raw bs=1k seek=4001 conv=notrunc status=none
	# Whole clusters: what is written of a part of one is each program's own affair.
	truncate -s 5M f.raw
	seq 1 200000 | head -c 655360 | dd of=f.raw bs=64k seek=7 conv=notrunc status=none
	seq 1 200000 | head -c 65536 | dd of=f.raw bs=64k seek=60 conv=notrunc status=none
	"$QI" convert -f raw -O qcow2 f.raw a.qcow2
	"$QI" convert -c -f raw -O qcow2 -o cluster_size=4k f.raw z.qcow2
	"$QI" create -q -f qcow2 -b a.qcow2 -F qcow2 o.qcow2 8M
	"$QI" create -q -f qcow2 -o compat=0.10 old.qcow2 3M
	"$QI" create -q -f raw empty.raw 0
}

measured() {
	local options image

	given
	for options in '' '-O qcow2' '-O qcow2 -o compat=0.10' '-O qcow2 -o cluster_size=4k' \
		'-O qcow2 -o cluster_size=2M' '-O qcow2 -o refcount_bits=1' '-O qcow2 -o refcount_bits=64,cluster_size=512' \
		'-O qcow2 -o extended_l2=on' '-O qcow2 -o extended_l2=on,cluster_size=16k' \
		'-O qcow2 -o preallocation=metadata' '-O qcow2 -o preallocation=falloc' \
		'-O qcow2 -o preallocation=full' '-O qcow2 -o backing_file=a,backing_fmt=raw' \
		'-O raw -o preallocation=full'; do
		for image in '--size 0' '--size 1' '--size 1G' '--size 2T' r.raw a.qcow2 o.qcow2 z.qcow2 old.qcow2 empty.raw; do
			# shellcheck disable=SC2086
			t measure $options $image
		done
	done
	t measure --output=json -O qcow2 a.qcow2
	t measure --output json --size 1G
	t measure -U -f qcow2 a.qcow2 -O qcow2
	t measure --image-opts driver=qcow2,file.filename=a.qcow2
	t measure -O raw -o size=5M
	t measure -O qcow2 -o size=1T r.raw
}

refused() {
	given
	t measure
	t measure a b
	t measure --size 1G r.raw
	t measure -f raw --size 1
	t measure -l x --size 1
	t measure -l snapshot.id=1 --size 1
	t measure -l snapshot.foo=1 a.qcow2
	t measure --image-opts --size 1
	t measure --image-opts -f raw r.raw
	t measure -O nope r.raw
	t measure -O qcow2 -o foo=1 r.raw
	t measure -O qcow2 -o help r.raw
	t measure -O qcow2 -o cluster_size=3 r.raw
	t measure -O qcow2 -o cluster_size=x r.raw
	t measure -O qcow2 -o preallocation=foo r.raw
	t measure -O qcow2 -o compat=foo r.raw
	t measure -O qcow2 -o compat=0.10,refcount_bits=8 r.raw
	t measure -O qcow2 -o refcount_bits=7 r.raw
	t measure -O qcow2 -o ,, r.raw
	t measure --size 9E -O qcow2
	t measure --size foo
	t measure --size 7E -O qcow2 -o cluster_size=2M
	t measure nofile
	t measure -O nope nofile
	t measure --output=foo r.raw
	t measure -l nope a.qcow2
	t measure -l nope r.raw
	t measure -f qcow2 r.raw
}

same_as_qemu measure measured
same_as_qemu measure-refused refused

# Enough, and not far too much.
QI=$PLATTER
given
for options in '' cluster_size=4k cluster_size=512,refcount_bits=64 compat=0.10 preallocation=full \
	extended_l2=on,cluster_size=16k; do
	for image in r.raw a.qcow2 o.qcow2 z.qcow2; do
		# shellcheck disable=SC2086
		most=$("$PLATTER" measure -O qcow2 ${options:+-o $options} $image | sed -n 's/^required size: //p')
		# shellcheck disable=SC2086
		"$PLATTER" convert -O qcow2 ${options:+-o $options} $image new
		length=$(stat -c %s new)
		if [ "$length" -le "$most" ]; then
			pass "${options:-defaults}, $image: enough"
		else
			fail "${options:-defaults}, $image: enough" "$length bytes, $most were measured"
		fi
	done
done

fails 1 'a backing file is not opened under --untrusted' "$PLATTER" measure --untrusted o.qcow2
ok '--no-backing does without it' "$PLATTER" measure --no-backing o.qcow2
done_testing
