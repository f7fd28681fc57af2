#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Backing chains of two to four layers: raw and qcow2 bases, shorter and longer than what lies above,
# with an end inside a sector, versions and clusters mixed, each layer made and written by one of the
# two programs.  And large disks, where the same work lies far apart.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io
. "$srcdir/tests/peer/peer.sh"

truncate -s 1049088 data.raw
seq 1 40000 | dd of=data.raw conv=notrunc bs=512 seek=77 status=none
head -c 90000 "$PLATTER" | dd of=data.raw conv=notrunc bs=512 seek=1500 status=none

# layer NAME MAKER WRITER SIZE OPTIONS [BACKING FORMAT]
layer() {
	local name=$1 maker=$2 writer=$3 size=$4 opts=$5

	shift 5
	options=$opts${1:+,backing_file=$1,backing_fmt=$2}
	rm -f "$name"
	if [ "$maker" = us ]; then
		"$PLATTER" create -q -f qcow2 -o "$options" "$name" "$size"
	else
		qemu-img create -q -f qcow2 -o "$options" "$name" "$size"
	fi
	next_seed
	rm -f m.raw
	model_of "$name" m.raw
	if [ "$writer" = us ]; then
		"$WRITER" -f qcow2 -m m.raw "$name" "random 60 $seed" || fail "$name: write" "seed $seed"
		agree "$name" "$name: our writes" m.raw
	else
		"$WRITER" -q "$name" "random 60 $seed" >steps
		by_them "$name" steps >steps.failed || true
		agree "$name" "$name: their writes"
	fi
}

n=0
for base in raw:short raw:long qcow2:short qcow2:long; do
	case $base in *short) size=301568 ;; *) size=1500672 ;; esac
	for mix in compat=0.10:compat=1.1:compat=0.10 compat=1.1:compat=0.10,cluster_size=4k:cluster_size=512 \
		extended_l2=on:cluster_size=2k:extended_l2=on,cluster_size=16k refcount_bits=1:cluster_size=2M:lazy_refcounts=on; do
		sampled || { n=$((n + 1)) && continue; }
		IFS=: read -r o1 o2 o3 <<<"$mix"
		case $base in
		raw:*)
			head -c $size data.raw >base.img
			[ $size -lt 1049088 ] || truncate -s $size base.img
			# An odd end: the last sector is filled up with zeros.
			[ $((n % 2)) = 0 ] || printf 'odd end' >>base.img
			;;
		*) layer base.img them them $size "$o3" ;;
		esac
		makers=(us them)
		layer "one-$n.qcow2" "${makers[n % 2]}" "${makers[n / 2 % 2]}" 1000448 "$o1" base.img ${base%:*}
		layer "two-$n.qcow2" "${makers[(n + 1) % 2]}" "${makers[n / 2 % 2]}" 700416 "$o2" "one-$n.qcow2" qcow2
		layer "three-$n.qcow2" "${makers[n % 2]}" "${makers[(n + 1) / 2 % 2]}" 1600000 "$o3" "two-$n.qcow2" qcow2
		# Copied whole, and as a difference to its base.
		"$PLATTER" convert -O qcow2 "three-$n.qcow2" flat.qcow2
		ok '  flat, the same' qemu-img compare -q "three-$n.qcow2" flat.qcow2
		"$PLATTER" convert -O qcow2 -B "two-$n.qcow2" -F qcow2 "three-$n.qcow2" diff.qcow2
		ok '  the difference, the same' qemu-img compare -q "three-$n.qcow2" diff.qcow2
		rm -f "one-$n.qcow2" "two-$n.qcow2" "three-$n.qcow2" base.img
		n=$((n + 1))
	done
done

# Large ones: the work lies at the start, at the end, and in places between.
for options in '' cluster_size=2M cluster_size=4k extended_l2=on,cluster_size=128k lazy_refcounts=on; do
	sampled || continue
	rm -f t.qcow2 m.raw
	truncate -s 40G m.raw
	"$PLATTER" create -q -f qcow2 ${options:+-o "$options"} t.qcow2 40G
	for turn in us them us; do
		next_seed
		if [ $turn = us ]; then
			ok "40 GiB, ${options:-defaults}: we write" "$WRITER" -f qcow2 -m m.raw t.qcow2 "random 250 $seed"
			out=$(qemu-img compare -f qcow2 -F raw t.qcow2 m.raw 2>&1) || fail 'content' "seed $seed" "$out"
		else
			"$WRITER" -q t.qcow2 "random 250 $seed" >steps
			ok '  they write' by_them t.qcow2 steps
			rm m.raw
			model_of t.qcow2 m.raw
		fi
		ok '  platter sees the same' "$PLATTER" compare -f qcow2 -F raw t.qcow2 m.raw
		is "$(map_of "$PLATTER" -f qcow2 t.qcow2)" "$(map_of qemu-img -f qcow2 t.qcow2)" '  the same map'
		out=$(check_of qemu-img -f qcow2 t.qcow2)
		like "$out" '^0 ' '  in order'
		is "$(check_of "$PLATTER" -f qcow2 t.qcow2)" "$out" '  the same counts'
		ok '  and zeros are zeros' "$WRITER" -r -f qcow2 -m m.raw t.qcow2 status
	done
done
done_testing
