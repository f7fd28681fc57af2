#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# create: what is said, what is refused, and what qemu-img finds in the result.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
. "$srcdir/tests/cli/transcript.sh"

created() {
	t create r.raw 1M
	t create -f raw r2.raw 47926476
	t create -f foo -f qcow2 a.qcow2 128M
	t info a.qcow2
	t create -f qcow2 -o cluster_size=4k -o lazy_refcounts=on -o cluster_size=8k b.qcow2 1.5G
	t info b.qcow2
	t create -f qcow2 -o compat=0.10 c.qcow2 262144K
	t info --output=json c.qcow2
	t create -f qcow2 -o compat=1.1,lazy_refcounts d.qcow2 0x100000
	t create -f qcow2 -o nolazy_refcounts,refcount_bits=0x8 d.qcow2 1M
	t create -f qcow2 -o extended_l2=on,cluster_size=128k e.qcow2 10M
	t info e.qcow2
	t create -f qcow2 -o compression_type=zstd z.qcow2 10M
	t info z.qcow2
	t create -f qcow2 f.qcow2 47926476
	t info f.qcow2
	t create g.qcow2 -f qcow2 -o size=3M
	t create -q -f qcow2 h.qcow2 1M
	t create -f qcow2 -b a.qcow2 -F qcow2 top.qcow2
	t info top.qcow2
	t create -f qcow2 -o backing_file=r.raw,backing_fmt=raw top2.qcow2 2M
	t info --output=json top2.qcow2
	t create -f qcow2 -u -b not-there.qcow2 -F qcow2 top3.qcow2 1M
	t create -f qcow2 -o preallocation=metadata m.qcow2 4M
}

refused() {
	t create x
	t create -f nosuch x 1M
	t create -f qcow2 -o foo=1 x 1M
	t create -f qcow2 -o =3 x 1M
	t create -f qcow2 -o lazy_refcounts=foo x 1M
	t create -f qcow2 -o cluster_size=foo x 1M
	t create -f qcow2 -o cluster_size=1.5 x 1M
	t create -f qcow2 -o cluster_size=99E x 1M
	t create -f qcow2 -o cluster_size=-1 x 1M
	t create -f qcow2 -o cluster_size=3k x 1M
	t create -f qcow2 -o cluster_size=4M x 1M
	t create -f qcow2 -o refcount_bits=foo x 1M
	t create -f qcow2 -o refcount_bits=1k x 1M
	t create -f qcow2 -o refcount_bits=7 x 1M
	t create -f qcow2 -o compat=0.10,refcount_bits=8 x 1M
	t create -f qcow2 -o compat=0.10,lazy_refcounts=on x 1M
	t create -f qcow2 -o compat=7 x 1M
	t create -f qcow2 -o preallocation=1234 x 1M
	t create -f qcow2 -o compression_type=lzma x 1M
	t create -f qcow2 -o extended_l2=on,cluster_size=8k x 1M
	t create -f qcow2 -o size=1M x 2M
	t create -f qcow2 -b nofile -F qcow2 x
	t create -f qcow2 -b nofile x 1M
	"$QI" create -q -f raw base.raw 1M
	t create -f qcow2 -b base.raw -F nosuch x 1M
	t create -f qcow2 -b base.raw -F nosuch -u x 1M
	t create -f raw -b base.raw x 1M
	t create -f raw -F raw x 1M
	t create -f raw -o preallocation=metadata x 1M
	t create -f raw -o preallocation=some x 1M
	t create -f qcow2 -F qcow2 x 1M
	t create -f qcow2 -b x -F qcow2 x
	t create -f raw -b nofile -F raw x 1M
	t create -f qcow2 nodir/x 1M
	ls
}

option_help() {
	t create -f raw -o help
	t create -f raw -o help x
	t create -f qcow2 -o help
	t create -f nosuch -o help
	t create -o help
	t create -f raw -o size=4k,help x 1M
	t create -f raw -o help,size=4k x 1M
	t create -f raw -o '?' x 1M
	t create -f raw -o size=4k -o '?' x 1M
	t convert -O raw -o help
	t convert -o help a b
	t convert -O nosuch -o help a b
	ls
}

same_as_qemu create created
same_as_qemu create-refused refused
same_as_qemu create-help option_help

# A name that looks like help is none.
ok 'a backing file named ",help"' "$PLATTER" create -q -f qcow2 -u -o 'backing_file=t,,help' -F raw x 1M
like "$("$PLATTER" info x)" '^backing file: t,help' 'the name is kept'

if command -v qemu-img >/dev/null; then
	"$PLATTER" create -q -f qcow2 base.qcow2 10M
	"$PLATTER" create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2
	is "$(qemu-img check top.qcow2 2>&1)" "$("$QEMU_IMG_LINK" check top.qcow2 2>&1)" 'both find the same sound'
	for f in base top; do
		qemu-img info --output=json $f.qcow2 >theirs
		"$QEMU_IMG_LINK" info --output=json $f.qcow2 >ours
		is_output ours theirs "info of $f is the same"
	done
else
	skip 'what qemu-img finds' 'qemu-img is not installed'
fi
done_testing
