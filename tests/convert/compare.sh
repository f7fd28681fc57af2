#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# compare: says word for word what qemu-img says, with the same exit code, for the same pairs.
# shellcheck source=tests/lib.sh
. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io

# alike DESCRIPTION STATUS ARGUMENT...
alike() {
	local text=$1 want=$2 ours theirs status

	shift 2
	theirs=$(qemu-img compare "$@" 2>&1; echo "status $?")
	ours=$("$QEMU_IMG_LINK" compare "$@" 2>&1; echo "status $?")
	status=${ours##*status }
	if [ "$ours" != "$theirs" ]; then
		fail "$text" 'got:' "$ours" 'qemu-img:' "$theirs"
	elif [ "$status" != "$want" ]; then
		fail "$text" "status $status, expected $want"
	else
		pass "$text"
	fi
}

truncate -s 24M a.raw
seq 1 900000 | dd of=a.raw conv=notrunc bs=4096 seek=10 status=none
for f in qcow2 'qcow2 -c' 'qcow2 -o cluster_size=512'; do
	# shellcheck disable=SC2086
	qemu-img convert -f raw -O $f a.raw a.qcow2
	alike "the same, $f" 0 -f raw -F qcow2 a.raw a.qcow2
done
alike 'quietly' 0 -q -f raw -F qcow2 a.raw a.qcow2

# one byte, at many places: the first, the last, beside the borders of sectors and of pieces of work
for at in 0 1 511 512 40959 40960 1048575 1048576 1048577 2097151 3145728 6000001 20000000 25165823; do
	cp --sparse=always a.raw b.raw
	printf '\377' | dd of=b.raw bs=1 seek=$at conv=notrunc status=none
	alike "a difference at $at" 1 -f raw -F raw a.raw b.raw
	qemu-img convert -f raw -O qcow2 b.raw b.qcow2
	alike "  against a qcow2 image" 1 -f raw -F qcow2 a.raw b.qcow2
	alike "  the other way round" 1 -f qcow2 -F raw b.qcow2 a.raw
done
printf '\377' | dd of=b.raw bs=1 seek=50000 conv=notrunc status=none
alike 'the first of several differences' 1 -f raw -F raw a.raw b.raw
alike 'quietly' 1 -q -f raw -F raw a.raw b.raw

# sizes
cp --sparse=always a.raw long.raw
truncate -s 30M long.raw
alike 'longer by zeros' 0 -f raw -F raw a.raw long.raw
alike 'shorter by zeros' 0 -f raw -F raw long.raw a.raw
alike 'longer by zeros, strict' 1 -s -f raw -F raw a.raw long.raw
printf x | dd of=long.raw bs=1 seek=29000000 conv=notrunc status=none
alike 'longer by data' 1 -f raw -F raw a.raw long.raw
alike 'shorter by data' 1 -f raw -F raw long.raw a.raw
qemu-img convert -f raw -O qcow2 long.raw long.qcow2
alike 'longer by data, qcow2' 1 -f raw -F qcow2 a.raw long.qcow2

# strict: what is allocated counts
qemu-img create -q -f qcow2 s1.qcow2 8M
qemu-img create -q -f qcow2 s2.qcow2 8M
alike 'strict, two empty images' 0 -s s1.qcow2 s2.qcow2
qemu-io -c 'write -P 0 3M 64k' s2.qcow2 > io.log
alike 'zeros that are allocated' 0 s1.qcow2 s2.qcow2
# (qemu-img names 0 there: to it an extent that reaches the end is of another kind.)
out=$("$PLATTER" compare -s s1.qcow2 s2.qcow2)
is $? 1 'zeros that are allocated, strict'
is "$out" 'Strict mode: Offset 3145728 block status mismatch!' '  says where'
qemu-io -c 'write -z 3M 64k' s1.qcow2 >> io.log
out=$("$PLATTER" compare -s s1.qcow2 s2.qcow2)
is $? 1 'zeros of two kinds, strict'

# through a backing file
qemu-img create -q -f qcow2 -b a.raw -F raw top.qcow2
alike 'an overlay and its base' 0 -f raw -F qcow2 a.raw top.qcow2
qemu-io -c 'write -P 1 7M 512' top.qcow2 >> io.log
alike 'an overlay that differs' 1 -f raw -F qcow2 a.raw top.qcow2

# errors
alike 'an image that is not there' 2 a.raw nowhere.raw
qemu-img convert -c -f raw -O qcow2 a.raw bad.qcow2
printf '\377\377\377\377\377\377\377\377' | dd of=bad.qcow2 bs=1 seek=327680 conv=notrunc status=none
alike 'data that cannot be read' 4 -f raw -F qcow2 a.raw bad.qcow2
alike '  on the other side' 4 -f qcow2 -F raw bad.qcow2 a.raw

# without reading what is not there
truncate -s 2T one.raw 2>/dev/null && truncate -s 2T two.raw && {
	printf x | dd of=one.raw bs=1 seek=1500000000000 conv=notrunc status=none
	out=$(timeout 60 "$PLATTER" compare -f raw -F raw one.raw two.raw)
	is "$out" "Content mismatch at offset $((1500000000000 / 512 * 512))!" 'one byte in 2 TiB'
}
done_testing
