#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Every option that changes the layout of an image, and every shape of a backing chain: what platter
# writes is read by qemu-img and libqcow, what qemu-img and qemu-io write is read by platter, and
# both take turns on one image.  After each turn both read the same, show the same map, and find the
# image in order.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io
. "$srcdir/tests/peer/peer.sh"

QCOWMOUNT=
if command -v qcowmount >/dev/null && [ -w /dev/fuse ]; then
	QCOWMOUNT=1
else
	skip 'libqcow reads what platter writes' 'qcowmount, or what it needs, is not there'
fi

# libqcow IMAGE MODEL DESCRIPTION
libqcow() {
	[ -n "$QCOWMOUNT" ] || return 0
	mkdir -p mnt
	if ! qcowmount "$1" mnt >mount.log 2>&1; then
		fail "$3" "$(cat mount.log)"
		return
	fi
	is_file_equal mnt/qcow1 "$2" "$3"
	fusermount -u mnt 2>/dev/null || umount mnt
}

# turns PREPARATION DESCRIPTION: we make t.qcow2 with the options in $options and write; they write;
# we write again; then the same with an image that they made.
turns() {
	local text=$1 count=$2 size=$3 who

	for who in us them; do
		rm -f t.qcow2 d.raw m.raw
		if [ $who = us ]; then
			"$PLATTER" create -q -f qcow2 ${options:+-o "$options"} t.qcow2 $size
		else
			qemu-img create -q -f qcow2 ${options:+-o "$options"} t.qcow2 $size
		fi || fail "$text: create"
		next_seed
		model_of t.qcow2 m.raw
		"$WRITER" -f qcow2 -m m.raw t.qcow2 "random $count $seed" || fail "$text: our first turn" "seed $seed"
		[ $who = us ] && agree t.qcow2 "$text: made by us, our first turn" m.raw
		next_seed
		"$WRITER" -q t.qcow2 "random $count $seed" >steps
		by_them t.qcow2 steps >steps.failed || case $options in
		*0.10*back*) ;; # a discard leaves what lies there, and compressed data cannot go over it
		*) fail "$text: their turn" "seed $seed" "$(head -n 3 steps.failed)" ;;
		esac
		agree t.qcow2 "$text: made by $who, their turn"
		model_of t.qcow2 m.raw
		next_seed
		"$WRITER" -f qcow2 -m m.raw t.qcow2 "random $count $seed" || fail "$text: our second turn" "seed $seed"
		agree t.qcow2 "$text: made by $who, our second turn" m.raw
	done
	case $options in
	*data_file_raw*) is_file_equal d.raw m.raw "$text: the data file is the disk" ;;
	esac
}

# converted DESCRIPTION [SIZE]: m.raw is copied with $options by both, and by us compressed.
converted() {
	local want=data.raw

	rm -f c.qcow2 d.raw
	ok "$1: convert" "$PLATTER" convert -f raw -O qcow2 ${options:+-o "$options"} $want c.qcow2
	agree c.qcow2 "$1: converted by us" $want
	case $options in
	*data_file*) is_file_equal d.raw $want "$1: the data file is the disk" ;;
	*prealloc* | *size=2M,ext*) ;;
	*)
		rm -f c.qcow2
		ok "$1: convert -c" "$PLATTER" convert -c -f raw -O qcow2 ${options:+-o "$options"} $want c.qcow2
		agree c.qcow2 "$1: compressed by us" $want
		rm -f c.qcow2
		qemu-img convert -c -f raw -O qcow2 ${options:+-o "$options"} $want c.qcow2
		agree c.qcow2 "$1: compressed by them" $want
		;;
	esac
	rm -f c.qcow2 d.raw
	qemu-img convert -f raw -O qcow2 ${options:+-o "$options"} $want c.qcow2
	agree c.qcow2 "$1: converted by them" $want
}

# Something to copy: text, zeros that are allocated, holes, and an end beside every boundary.
truncate -s 1049088 data.raw
seq 1 40000 | dd of=data.raw conv=notrunc bs=512 seek=77 status=none
dd if=/dev/zero of=data.raw conv=notrunc bs=64k seek=9 count=2 status=none
head -c 90000 "$PLATTER" | dd of=data.raw conv=notrunc bs=512 seek=1500 status=none
printf 'end' | dd of=data.raw conv=notrunc bs=1 seek=1049085 status=none

# ---- layouts -------------------------------------------------------------------------------------

extra=(0 512 1536 700 65535)
i=0
for options in '' compat=0.10 compat=1.1 \
	cluster_size={512,1k,2k,4k,8k,16k,32k,128k,256k,512k,1M,2M} \
	compat=0.10,cluster_size={512,4k,2M} \
	refcount_bits={1,2,4,8,32,64} cluster_size=512,refcount_bits={1,64} \
	extended_l2=on extended_l2=on,cluster_size={16k,128k,2M} extended_l2=on,refcount_bits=1,cluster_size=16k \
	compression_type=zstd compression_type=zstd,cluster_size=512 compression_type=zstd,extended_l2=on \
	lazy_refcounts=on lazy_refcounts=on,cluster_size=512 \
	preallocation={metadata,falloc,full} preallocation=metadata,cluster_size=512,compat=0.10 \
	preallocation=metadata,extended_l2=on \
	data_file=d.raw data_file=d.raw,data_file_raw=on data_file=d.raw,extended_l2=on \
	data_file=d.raw,data_file_raw=on,cluster_size=2M; do
	case $options in
	*512k* | *1M* | *2M*) size=$((24 << 20)) ;;
	*512*) size=300000 ;;
	*) size=$((3 << 20)) ;;
	esac
	size=$((size + extra[i++ % ${#extra[@]}]))
	turns "${options:-defaults}" 120 $size
	converted "${options:-defaults}"
done

# Tiny disks.
for size in 0 1 512 1000 65536 65537; do
	for options in '' cluster_size=512 extended_l2=on compat=0.10 data_file=d.raw,data_file_raw=on preallocation=metadata; do
		turns "$size bytes, ${options:-defaults}" 12 $size
	done
done

# Large ones: the work lies at the start, at the end, and in places between.
for options in '' cluster_size=2M cluster_size=4k extended_l2=on,cluster_size=128k lazy_refcounts=on; do
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
		is "$(check_of "$PLATTER" -f qcow2 t.qcow2)" "$(check_of qemu-img -f qcow2 t.qcow2)" '  the same counts'
		like "$(check_of qemu-img -f qcow2 t.qcow2)" '^0 ' '  in order'
		ok '  and zeros are zeros' "$WRITER" -r -f qcow2 -m m.raw t.qcow2 status
	done
done

# ---- every operation on every part of two clusters in every state --------------------------------

cells=5292
rm -f m.raw
head -c $((cells * 1024)) /dev/zero | tr '\0' 'b' >back.raw
for options in cluster_size=512 cluster_size=512,compat=0.10 cluster_size=512,refcount_bits=1 \
	cluster_size=512,compression_type=zstd cluster_size=512,lazy_refcounts=on \
	cluster_size=512,backing_file=back.raw,backing_fmt=raw \
	cluster_size=512,compat=0.10,backing_file=back.raw,backing_fmt=raw; do
	for who in us them; do
		next_seed
		qemu-img create -q -f qcow2 -o $options cells.qcow2 $((cells * 1024))
		if [ $who = us ]; then # they prepare, we act; and the other way round
			"$WRITER" -q cells.qcow2 "cells prepare $seed 1" >steps
			by_them cells.qcow2 steps >steps.failed || true
			model_of cells.qcow2 m.raw
			ok "cells, $options: all acts" "$WRITER" -f qcow2 -m m.raw cells.qcow2 "cells act $seed 1"
			agree cells.qcow2 '  on what they have prepared' m.raw
		else
			model_of cells.qcow2 m.raw
			"$WRITER" -f qcow2 -m m.raw cells.qcow2 "cells prepare $seed 1"
			agree cells.qcow2 "cells, $options: prepared by us" m.raw
			"$WRITER" -q cells.qcow2 "cells act $seed 1" >steps
			by_them cells.qcow2 steps >steps.failed || true
			agree cells.qcow2 '  they act on it'
		fi
	done
done
# Subclusters: a share of the cells, a different one each time.
for options in extended_l2=on,cluster_size=16k extended_l2=on,cluster_size=16k,backing_file=back.raw,backing_fmt=raw; do
	next_seed
	qemu-img create -q -f qcow2 -o $options cells.qcow2 16M
	"$WRITER" -q cells.qcow2 "cells prepare $seed 11" >steps
	by_them cells.qcow2 steps >steps.failed || true
	model_of cells.qcow2 m.raw
	ok "cells, $options: acts" "$WRITER" -f qcow2 -m m.raw cells.qcow2 "cells act $seed 11"
	agree cells.qcow2 '  on what they have prepared' m.raw
	"$WRITER" -q cells.qcow2 "cells act $((seed + 5)) 11" >steps
	by_them cells.qcow2 steps >steps.failed || true
	agree cells.qcow2 '  and they on that'
done

# ---- chains --------------------------------------------------------------------------------------

# layer NAME MAKER WRITER SIZE OPTIONS [BACKING FORMAT]
layer() {
	local name=$1 maker=$2 writer=$3 size=$4 opts=$5

	shift 5
	options=$opts${1:+,backing_file=$1,backing_fmt=$2}
	rm -f "$name"
	if [ "$maker" = us ]; then
		"$PLATTER" create -q -f qcow2 -o "$options" "$name" $size
	else
		qemu-img create -q -f qcow2 -o "$options" "$name" $size
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
		layer "one-$n.qcow2" ${makers[n % 2]} ${makers[n / 2 % 2]} 1000448 "$o1" base.img ${base%:*}
		layer "two-$n.qcow2" ${makers[(n + 1) % 2]} ${makers[n / 2 % 2]} 700416 "$o2" "one-$n.qcow2" qcow2
		layer "three-$n.qcow2" ${makers[n % 2]} ${makers[(n + 1) / 2 % 2]} 1600000 "$o3" "two-$n.qcow2" qcow2
		# Copied whole, and as a difference to its base.
		"$PLATTER" convert -O qcow2 "three-$n.qcow2" flat.qcow2
		ok '  flat, the same' qemu-img compare -q "three-$n.qcow2" flat.qcow2
		"$PLATTER" convert -O qcow2 -B "two-$n.qcow2" -F qcow2 "three-$n.qcow2" diff.qcow2
		ok '  the difference, the same' qemu-img compare -q "three-$n.qcow2" diff.qcow2
		rm -f "one-$n.qcow2" "two-$n.qcow2" "three-$n.qcow2" base.img
		n=$((n + 1))
	done
done

# ---- libqcow -------------------------------------------------------------------------------------

if [ -n "$QCOWMOUNT" ]; then
	for options in compat=0.10 compat=1.1 cluster_size=4k cluster_size=512 cluster_size=2M lazy_refcounts=on; do
		for c in '' -c; do
			# shellcheck disable=SC2086
			"$PLATTER" convert $c -f raw -O qcow2 -o $options data.raw l.qcow2
			libqcow l.qcow2 data.raw "libqcow reads $options $c"
		done
	done
	like "$(qcowinfo l.qcow2 2>&1)" 'Media size.*1049088 bytes' 'qcowinfo knows the size'
fi
done_testing
