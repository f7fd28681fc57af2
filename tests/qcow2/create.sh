#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# qcow2 create: the same bytes as qemu-img for whatever is not preallocated, and with preallocation
# an image that qemu-img finds sound and reads alike.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img

truncate -s 10M base.raw

# both OPTIONS SIZE: makes q.qcow2 and p.qcow2; their texts and statuses must agree.
both() {
	local qs ps

	rm -f q.qcow2 p.qcow2
	qemu-img create -q -f qcow2 ${1:+-o "$1"} q.qcow2 "$2" >q.txt 2>&1
	qs=$?
	"$PLATTER" create -q -f qcow2 ${1:+-o "$1"} p.qcow2 "$2" >p.txt 2>&1
	ps=$?
	[ "$qs" -eq "$ps" ] || echo "statuses $qs and $ps for '$1' $2: $(cat q.txt p.txt)"
	return "$qs"
}

# The option sets whose bytes agree; with 512-byte clusters up to where the refcount table grows.
for options in '' compat=v2 cluster_size=512 cluster_size=1k cluster_size=4k cluster_size=8k \
	cluster_size=2M extended_l2=on extended_l2=on,cluster_size=16k compression_type=zstd \
	refcount_bits=1 refcount_bits=2 refcount_bits=4 refcount_bits=8 refcount_bits=32 \
	refcount_bits=64 lazy_refcounts=on cluster_size=512,refcount_bits=64 \
	cluster_size=1k,refcount_bits=64 cluster_size=512,refcount_bits=1 \
	compat=v2,cluster_size=512 backing_file=base.raw,backing_fmt=raw \
	extended_l2=on,backing_file=base.raw,backing_fmt=raw; do
	differs=
	for size in 0 1 513 1M 10M 1G 100G; do
		case $options,$size in *size=512*,100G) continue ;; esac
		sampled || continue
		text=$(both "$options" "$size") && ! cmp -s q.qcow2 p.qcow2 && text="$text bytes differ for $size"
		differs=$differs$text
	done
	is "$differs" '' "same bytes: ${options:-defaults}"
done

for bad in refcount_bits=3 refcount_bits=128 cluster_size=1000 cluster_size=4M cluster_size=256 \
	extended_l2=on,cluster_size=4k extended_l2=on,compat=v2 compression_type=zstd,compat=0.10 \
	compression_type=lz4 compat=0.10,refcount_bits=8 data_file_raw=on data_file=d.raw,compat=v2 \
	backing_fmt=raw refcount_bits=0 compat=0.42 compat=v2,lazy_refcounts=on preallocation=foo; do
	qemu-img create -q -f qcow2 -o "$bad" x.qcow2 1M >q.txt 2>&1
	"$QEMU_IMG_LINK" create -q -f qcow2 -o "$bad" x.qcow2 1M >p.txt 2>&1
	is_output p.txt q.txt "refused alike: $bad"
done

for mode in metadata falloc full; do
	for options in '' cluster_size=512 cluster_size=4k extended_l2=on refcount_bits=1 \
		refcount_bits=64,cluster_size=512 compat=v2 data_file=d.raw \
		data_file=d.raw,data_file_raw=on extended_l2=on,backing_file=base.raw,backing_fmt=raw; do
		wrong=
		for size in 0 1 70000 9437184; do
			sampled || continue
			rm -f p.qcow2
			"$PLATTER" create -q -f qcow2 -o "preallocation=$mode${options:+,$options}" p.qcow2 $size ||
				wrong="$wrong $size:create"
			qemu-img check -q p.qcow2 >p.txt 2>&1 || wrong="$wrong $size:$(cat p.txt)"
			case $options in *backing*) continue ;; esac
			truncate -s $(((size + 511) / 512 * 512)) zero.raw
			qemu-img compare -q p.qcow2 zero.raw || wrong="$wrong $size:content"
		done
		is "$wrong" '' "preallocation=$mode ${options:-defaults}"
	done
done

# The space is there: what falloc and full promise.
"$PLATTER" create -q -f qcow2 -o preallocation=full f.qcow2 4M
blocks=$(stat -c %b f.qcow2)
[ "$blocks" -ge 8192 ] && pass 'full takes its space' || fail 'full takes its space' "$blocks blocks"

# A whole terabyte mapped: refcount blocks for all, checked by both.
"$PLATTER" create -q -f qcow2 -o preallocation=metadata t.qcow2 1T
ok 'a preallocated terabyte is sound' qemu-img check -q t.qcow2
ok 'and so says platter' "$PLATTER" check -q t.qcow2

done_testing
