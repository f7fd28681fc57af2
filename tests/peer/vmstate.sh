#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# The state of a virtual machine, behind the end of the disk: what platter writes there qemu-io reads, and the
# reverse; the disk is not touched, tables grow, an overlay does not take what lies below it for state.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io

for options in cluster_size=64k cluster_size=512 cluster_size=4k,refcount_bits=64 extended_l2=on compat=0.10 \
	lazy_refcounts=on cluster_size=2M; do
	rm -f v.qcow2
	"$PLATTER" create -q -f qcow2 -o $options v.qcow2 3M
	ok "$options: written and read" "$PLATTER" io -c 'write -P 3 0 3M' -c 'write -b -P 7 0 300k' \
		-c 'write -b -P 9 9M 64k' -c 'read -b -P 7 0 300k' -c 'read -b -P 0 300k 5M' -c 'read -b -P 9 9M 64k' \
		-c 'read -P 3 0 3M' v.qcow2
	ok "$options: qemu-img finds nothing" qemu-img check -q v.qcow2
	ok "$options: nor do we" "$PLATTER" check -q v.qcow2
	ok "$options: qemu-io reads it" qemu-io -r -c 'read -q -b -P 7 0 300k' -c 'read -q -b -P 9 9M 64k' \
		-c 'read -q -P 3 0 3M' v.qcow2
	qemu-io -c 'write -q -b -P 5 100k 70k' -c 'write -q -b -P 6 20M 1M' v.qcow2
	ok "$options: and we what it writes" "$PLATTER" io -c 'read -b -P 7 0 100k' -c 'read -b -P 5 100k 70k' \
		-c 'read -b -P 7 170k 130k' -c 'read -b -P 6 20M 1M' v.qcow2
	is "$(qemu-img info --output=json v.qcow2 | jq '."virtual-size"')" 3145728 "$options: the disk has its size"
done

qemu-img create -q -f raw base.raw 40M
qemu-io -f raw -c 'write -q -P 0xbb 0 40M' base.raw
"$PLATTER" create -q -f qcow2 -b base.raw -F raw o.qcow2 1M
"$PLATTER" io -c 'write -b -P 1 0 512' o.qcow2 >/dev/null
ok 'an overlay: state is there' "$PLATTER" io -c 'read -b -P 1 0 512' o.qcow2
ok '  as they read it' qemu-io -r -c 'read -q -b -P 1 0 512' o.qcow2

"$PLATTER" create -q -f raw r.raw 1M
like "$("$PLATTER" io -f raw -c 'read -b 0 512' r.raw 2>&1)" 'read failed: Operation not supported' 'raw has no place for it'
like "$("$PLATTER" io -f raw -c 'write -b 0 512' r.raw 2>&1)" 'write failed: Operation not supported' '  nor to write'
is "$(stat -c %s r.raw)" 1048576 '  and is not written to'
like "$("$PLATTER" io -r -c 'write -b 0 512' o.qcow2 2>&1)" 'read-only' 'a read-only image'
done_testing
