#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Every option that changes the layout of an image: what platter writes is read by qemu-img and
# libqcow, what qemu-img and qemu-io write is read by platter, and both take turns on one image.
# After each turn both read the same, show the same map, and find the image in order.

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

# turns DESCRIPTION COUNT SIZE: we make t.qcow2 with the options in $options and write; they write;
# we write again; then the same with an image that they made.
turns() {
	local text=$1 count=$2 size=$3 who

	for who in us them; do
		rm -f t.qcow2 d.raw m.raw
		if [ $who = us ]; then
			"$PLATTER" create -q -f qcow2 ${options:+-o "$options"} t.qcow2 "$size"
		else
			qemu-img create -q -f qcow2 ${options:+-o "$options"} t.qcow2 "$size"
		fi || fail "$text: create"
		next_seed
		model_of t.qcow2 m.raw
		"$WRITER" -f qcow2 -m m.raw t.qcow2 "random $count $seed" || fail "$text: our first turn" "seed $seed"
		[ $who = us ] && agree t.qcow2 "$text: made by us, our first turn" m.raw
		# (qemu-img makes a data file whose length is a multiple of the cluster.)
		case $who,$options in
		us,*data_file_raw*) is_file_equal d.raw m.raw "$text: the data file is the disk" ;;
		esac
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
}

# converted DESCRIPTION: data.raw is copied with $options by both, and by us compressed.
converted() {
	local want=data.raw

	rm -f c.qcow2 d.raw
	ok "$1: convert" "$PLATTER" convert -f raw -O qcow2 ${options:+-o "$options"} $want c.qcow2
	agree c.qcow2 "$1: converted by us" $want
	case $options in
	*data_file_raw*) is_file_equal d.raw $want "$1: the data file is the disk" ;;
	*data_file*) ok "$1: the data file begins with the disk" cmp -n "$(stat -c %s $want)" d.raw $want ;;
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
	sampled 3 || continue
	case $options in
	*512k* | *1M* | *2M*) size=$((10 << 20)) ;;
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
		sampled 3 || continue
		turns "$size bytes, ${options:-defaults}" 12 $size
	done
done

# ---- libqcow -------------------------------------------------------------------------------------

if [ -n "$QCOWMOUNT" ]; then
	for options in compat=0.10 compat=1.1 cluster_size=4k cluster_size=512 cluster_size=2M lazy_refcounts=on; do
		for c in '' -c; do
			sampled || continue
			# shellcheck disable=SC2086
			"$PLATTER" convert $c -f raw -O qcow2 -o $options data.raw l.qcow2
			libqcow l.qcow2 data.raw "libqcow reads $options $c"
		done
	done
	like "$(qcowinfo l.qcow2 2>&1)" 'Media size.*1049088 bytes' 'qcowinfo knows the size'
fi
done_testing
