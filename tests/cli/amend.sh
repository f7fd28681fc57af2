#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# amend: what is said and what is refused; and after each change the same image and the same content
# as qemu-img makes of it, in order by both.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
. "$srcdir/tests/cli/transcript.sh"

# (Made by qemu-img where it is there: snapshots, zeros and a data file.)
given() {
	rm -f ./*.raw ./*.qcow2
	truncate -s 1M r.raw
	seq 1 20000 | dd of=r.raw bs=64k seek=3 conv=notrunc status=none
	"$QI" convert -f raw -O qcow2 r.raw a.qcow2
	"$QI" create -q -f qcow2 -o compat=0.10 -b r.raw -F raw old.qcow2
	"$QI" create -q -f qcow2 -b a.qcow2 -F qcow2 over.qcow2
	"$QI" create -q -f qcow2 -o data_file=d.raw,data_file_raw=on data.qcow2 1M
	"$QI" convert -c -O qcow2 -o compression_type=zstd r.raw zstd.qcow2
	"$QI" create -q -f qcow2 -o compression_type=zstd zstd0.qcow2 1M
	"$QI" create -q -f qcow2 -o extended_l2=on el2.qcow2 1M
	"$QI" create -q -f qcow2 -o lazy_refcounts=on lazy.qcow2 1M
}

# a IMAGE ARGUMENTS: with fresh images, and what that one is then.
a() {
	local image=$1

	given
	shift
	t amend "$@"
	"$QI" info "$image" 2>&1
	"$QI" convert -O raw "$image" sum.raw 2>/dev/null && cksum <sum.raw
	"$QI" check -q "$image" 2>&1
}

amended() {
	local bits

	for bits in 1 2 4 8 16 32 64; do
		a a.qcow2 -o refcount_bits=$bits a.qcow2
	done
	a zstd.qcow2 -o refcount_bits=8 zstd.qcow2
	a a.qcow2 -o compat=0.10 a.qcow2
	a a.qcow2 -o compat=v2,lazy_refcounts=off -f qcow2 a.qcow2
	a over.qcow2 -q -o compat=0.10 over.qcow2
	a old.qcow2 -o compat=1.1 old.qcow2
	a old.qcow2 -o compat=v3,lazy_refcounts=on -o refcount_bits=8 old.qcow2
	a old.qcow2 -o size=3M,compat=1.1 old.qcow2
	a zstd0.qcow2 -o compat=0.10 zstd0.qcow2
	a lazy.qcow2 -o compat=0.10 lazy.qcow2
	a lazy.qcow2 -o lazy_refcounts=off lazy.qcow2
	a a.qcow2 -p -o lazy_refcounts=on a.qcow2
	a a.qcow2 -p -q -t none -o lazy_refcounts=on a.qcow2
	a a.qcow2 -o size=3M a.qcow2
	a over.qcow2 -o backing_file=a.qcow2,backing_fmt=qcow2 over.qcow2
	a data.qcow2 -o data_file_raw=off data.qcow2
	a data.qcow2 -o data_file_raw=on data.qcow2
	given
	mv d.raw e.raw
	truncate -s 1M d.raw
	t amend -o data_file=e.raw data.qcow2
	"$QI" info data.qcow2
	t amend --image-opts -o lazy_refcounts=on driver=qcow2,file.filename=a.qcow2
}

refused() {
	given
	t amend
	t amend a.qcow2
	t amend -o compat=0.10
	t amend -o compat=0.10 a b
	t amend -o compat=0.10 nofile
	t amend -f qcow2 -o help
	t amend -o help a.qcow2
	t amend -o '?' -f qcow2
	t amend -o help -f raw
	t amend -o help -f nope
	t amend -o compat=0.10 -f raw r.raw
	t amend -o foo=1 a.qcow2
	t amend -o cluster_size=4k a.qcow2
	t amend -o compression_type=zstd a.qcow2
	t amend -o compat=7 a.qcow2
	t amend -o lazy_refcounts=maybe a.qcow2
	t amend -o refcount_bits=x a.qcow2
	t amend -o refcount_bits=3 a.qcow2
	t amend -o refcount_bits=128 a.qcow2
	t amend -o refcount_bits=8 old.qcow2
	t amend -o compat=0.10,refcount_bits=1 a.qcow2
	t amend -o lazy_refcounts=on old.qcow2
	t amend -o compat=0.10,lazy_refcounts=on a.qcow2
	t amend -o compat=0.10 data.qcow2
	t amend -o compat=0.10 zstd.qcow2
	t amend -o compat=0.10 el2.qcow2
	t amend -o data_file=x a.qcow2
	t amend -o data_file_raw=on a.qcow2
	t amend -o backing_file=x a.qcow2
	t amend -o backing_fmt=x over.qcow2
	t amend -o backing_file=a.qcow2 over.qcow2
	t amend -o backing_file= over.qcow2
	t amend -o encrypt.state=active a.qcow2
	t amend -o size=1048577 a.qcow2
	t amend -t foo -o size=3M a.qcow2
	t amend -o , a.qcow2
	t amend -U -o size=3M a.qcow2
	cksum <a.qcow2 >after
	"$QI" convert -f raw -O qcow2 r.raw a.qcow2
	cksum <a.qcow2 | cmp - after
}

same_as_qemu amend amended
same_as_qemu amend-refused refused

# ---- what a guest has written, by any who have been there ----------------------------------------

QI=$PLATTER
given
is "$("$PLATTER" amend -o size=512k a.qcow2 2>&1)" "platter: The disk would become smaller, and what lies beyond its \
new end would be lost: use --force if that is meant" 'a smaller size is asked for'
ok '--force: it is meant' "$PLATTER" amend --force -o size=512k a.qcow2
fails 1 '--untrusted refuses a backing file' "$PLATTER" amend --untrusted -o compat=0.10 over.qcow2
if ! command -v qemu-io >/dev/null || ! is_qemu_7; then
	skip 'zero clusters, snapshots and bitmaps' 'qemu-img 7.2 and qemu-io are not installed'
	done_testing
	exit
fi
for image in a.qcow2 over.qcow2; do
	given
	cat >io <<-EOF
		write -P 3 0 200k
		write -z 0 128k
		write -z -u 256k 64k
		write -z 900k 64k
	EOF
	qemu-io $image <io >/dev/null
	qemu-img convert -O raw $image want.raw
	ok "$image with zeros, to version 2" "$PLATTER" amend -o compat=0.10 $image
	qemu-img convert -O raw $image got.raw
	is_file_equal got.raw want.raw '  holds what it held'
	ok '  in order, they say' qemu-img check -q $image
	ok '  and we' "$PLATTER" check -q $image
	ok '  back, and other counts' "$PLATTER" amend -o compat=1.1,refcount_bits=32,lazy_refcounts=on $image
	qemu-io -c 'write -P 9 300k 300k' $image >/dev/null
	ok '  they write to it' qemu-img check -q $image
	ok '  and without a backing file being opened' "$PLATTER" amend --no-backing -o lazy_refcounts=off,refcount_bits=16,compat=0.10 $image
	ok '  in order, they say' qemu-img check -q $image
done
given
qemu-img snapshot -c s a.qcow2
is "$("$PLATTER" amend -o refcount_bits=1 a.qcow2 2>&1)" "$(qemu-img amend -o refcount_bits=1 a.qcow2 2>&1 |
	sed 's/^qemu-img/platter/')" 'counts that one bit does not hold'
ok 'a snapshot: two bits hold it' "$PLATTER" amend -o refcount_bits=2 a.qcow2
ok '  in order' qemu-img check -q a.qcow2
qemu-img convert -l s -O raw a.qcow2 got.raw
is_file_equal got.raw r.raw '  with its content'
qemu-img bitmap --add over.qcow2 b
like "$("$PLATTER" amend -o compat=0.10 over.qcow2 2>&1)" 'persistent bitmaps' 'bitmaps are not thrown away'
ok '  and live through other changes' "$PLATTER" amend -o refcount_bits=64,lazy_refcounts=on over.qcow2
like "$(qemu-img info over.qcow2)" 'name: b' '  usable'
unlike "$(qemu-img info over.qcow2)" 'in-use' '  and not in use'
done_testing
