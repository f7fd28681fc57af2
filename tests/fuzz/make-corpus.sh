#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Makes tests/fuzz/corpus anew, from nothing: small sound images of many kinds (made by platter, and by
# qemu-img where it is installed), the images of make-images.c that fit, and texts.  What libFuzzer
# found is named found-* and is kept.
#
#	abs_builddir=build bash tests/fuzz/make-corpus.sh

set -eu
srcdir=$(cd "$(dirname "$0")/../.." && pwd)
builddir=$(cd "${abs_builddir:-$srcdir/build}" && pwd)
platter=$builddir/platter
make_images=$builddir/tests/fuzz/make-images
corpus=$srcdir/tests/fuzz/corpus
most=8192 # bytes of one input

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$corpus/image" "$corpus/guest" "$corpus/name" "$corpus/option"
find "$corpus" -type f ! -name 'found-*' -delete

# add NAME FILE: an image, unless it is too large packed
add() {
	"$make_images" --pack "$2" >"$scratch/packed"
	if [ "$(stat -c %s "$scratch/packed")" -le $most ]; then
		cp "$scratch/packed" "$corpus/image/$1"
	fi
}

# A little of everything: text, zeros, what does not compress.
{
	printf 'A%.0s' {1..1000}
	head -c 40000 /dev/zero
	for i in {1..150}; do printf '%d %x ' $((i * i * 7919 % 10007)) $((i * 104729)); done
} >"$scratch/source"
truncate -s 98304 "$scratch/source"

# image NAME OPTIONS CONVERT-ARGUMENTS...
image() {
	local name=$1 options=$2

	shift 2
	rm -f "$scratch/image"
	"$platter" convert -f raw -O qcow2 -o "$options" "$@" "$scratch/source" "$scratch/image"
	add "platter-$name" "$scratch/image"
	if command -v qemu-img >/dev/null; then
		rm -f "$scratch/image"
		qemu-img convert -f raw -O qcow2 -o "$options" "$@" "$scratch/source" "$scratch/image"
		add "qemu-$name" "$scratch/image"
		case $options in *refcount_bits=1) return ;; esac
		qemu-img snapshot -c one "$scratch/image"
		qemu-img snapshot -c two "$scratch/image"
		add "qemu-$name-snapshots" "$scratch/image"
		case $options in *compat=0.10*) return ;; esac
		qemu-img bitmap --add "$scratch/image" bitmap && add "qemu-$name-bitmap" "$scratch/image"
	fi
}

image small cluster_size=512
image rb1 cluster_size=512,refcount_bits=1
image rb64 cluster_size=1024,refcount_bits=64
image v2 cluster_size=1024,compat=0.10
image lazy cluster_size=512,lazy_refcounts=on
image preallocated cluster_size=512,preallocation=metadata
image extended cluster_size=16k,extended_l2=on
image deflate cluster_size=512 -c
image zstd cluster_size=2k,compression_type=zstd -c
image large cluster_size=2M
head -c 700 "$scratch/source" >"$corpus/image/raw"

# Other formats, and what is encrypted; of LUKS the header, for key material has no redundancy.
S="--object secret,id=s,data=fuzz"
head -c 2500 "$scratch/source" >"$scratch/tiny"
truncate -s 65536 "$scratch/tiny"
for o in '' -c "$S -o encrypt.format=aes,encrypt.key-secret=s"; do
	rm -f "$scratch/image"
	# shellcheck disable=SC2086
	"$platter" convert -f raw -O qcow $o "$scratch/tiny" "$scratch/image"
	case $o in *aes*) name=-aes ;; *) name=${o:+-deflate} ;; esac
	add "platter-qcow1$name" "$scratch/image"
done
rm -f "$scratch/image"
"$platter" create -q -f qcow -b base -F raw -u "$scratch/image" 1M
add platter-qcow1-backing "$scratch/image"
"$platter" convert -f raw -O qcow2 $S -o encryption=on,encrypt.key-secret=s,cluster_size=512 "$scratch/tiny" "$scratch/image"
add platter-aes "$scratch/image"
for o in "-f luks -o key-secret=s,iter-time=1" "-f luks -o key-secret=s,iter-time=1,cipher-mode=cbc,ivgen-alg=essiv" \
	"-f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1"; do
	rm -f "$scratch/image"
	# shellcheck disable=SC2086
	"$platter" create -q $S $o "$scratch/image" 64k
	at=$("$platter" info "$scratch/image" | sed -n '/0\]:/,/key offset/s/.*key offset: //p')
	case $o in *qcow2*) at=$((at + 4 * 65536)) name=platter-luks-qcow2 ;; *essiv*) name=platter-luks-essiv ;; *) name=platter-luks ;; esac
	fallocate -p -o "$at" -l 256000 "$scratch/image"
	add $name "$scratch/image"
done

# VHD: every kind and creator that reads differently.
vhd() {
	local name=$1 size=$2

	shift 2
	rm -f "$scratch/image"
	# shellcheck disable=SC2086
	"$platter" create -q -f vpc "$@" "$scratch/image" $size
	case $* in *fixed*) set -- -f vpc ;; *) set -- ;; esac
	"$platter" io "$@" -c 'write -P 1 100 700' -c 'write -P 2 5k 1k' "$scratch/image" >/dev/null
	add "platter-vhd-$name" "$scratch/image"
}
: >"$scratch/base"
truncate -s 64k "$scratch/base"
vhd dynamic 20k -o force_size,block_size=512
vhd dynamic-4k 64k -o force_size,block_size=4k
vhd dynamic-2m 5M -o force_size
vhd fixed 6k -o force_size,subformat=fixed
(cd "$scratch" && vhd child '' -o block_size=4k -b base -F raw)
vhd tap 16k -o force_size,block_size=1k
# the creator and its version; the sums are made right by who reads the input
for end in 0 $(($(stat -c %s "$scratch/image") - 512)); do
	printf 'tap\0\0\1\0\3' | dd of="$scratch/image" bs=1 seek=$((end + 28)) conv=notrunc status=none
done
add platter-vhd-tap "$scratch/image"
mkdir "$scratch/vhd"
"$builddir/tests/fuzz/make-vhd" "$scratch/vhd" | while read -r name; do
	case $name in *sparse* | *2g | *256m) ;; *) add "$name" "$scratch/vhd/$name" ;; esac
done

mkdir "$scratch/nasty"
"$make_images" "$scratch/nasty" | while read -r name; do
	case $name in # too much work for a replay; tests/fuzz/hostile.sh has them
	disk-2e* | bitmap-table-sparse) ;;
	*) add "$name" "$scratch/nasty/$name" ;;
	esac
done

# Disks of guests, for the readers of free-space maps.
# guest NAME SIZE COMMAND...: the command gets the file
guest() {
	local name=$1 size=$2

	shift 2
	rm -f "$scratch/guest"
	truncate -s "$size" "$scratch/guest"
	if "$@" "$scratch/guest" >/dev/null 2>&1; then
		"$make_images" --pack "$scratch/guest" >"$corpus/guest/$name"
	fi
}
pv() { python3 -B "$srcdir/tests/convert/pv.py" "$1" root:1+2,4+1 swap:3+1 s:5+1:origin=root; }
guest fat12 1M mkfs.vfat -F 12
guest ext2 2M mke2fs -q -F -t ext2 -b 1024 -N 16 -O ^resize_inode
guest ext4 4M mke2fs -q -F -t ext4 -b 1024 -N 16 -O ^resize_inode,^has_journal
guest xfs 64M mkfs.xfs -q -f --unsupported
guest swap 1M mkswap -q
guest lvm 9M pv

# text KIND NAME TEXT
text() {
	printf '%b' "$3" >"$corpus/$1/$2"
}

text name path '/images/a.qcow2'
text name relative 'dir/a b.img'
text name file 'file:a:b.qcow2'
text name nbd 'nbd://host/x'
text name null 'null-co://'
text name empty ''
text name bytes '\xff\xfe:\x80'
text name json 'json:{"driver":"qcow2","file":{"driver":"file","filename":"a"}}'
text name json-dotted 'json:{"driver":"qcow2","file.driver":"file","file.filename":"a","backing":null}'
text name json-quotes "json:{'driver':'raw','file':{'filename':'it\\\\'s'}}"
text name json-not 'json:[1,2]'
text name json-double 'json:{"file":{"filename":"a"},"file.filename":"b"}'
text name json-escape 'json:{"file":{"filename":"\\u0000\\ud800"}}'
text name json-number 'json:{"driver":"null-co","size":1e400}'
text name list 'driver=qcow2,file.driver=file,file.filename=a,,b,backing.driver=raw,backing.file.filename=/x'
text name list-flags 'file.filename=a,read-only,nocache'
text name list-data 'driver=qcow2,file.filename=a,data-file.filename=b,lazy-refcounts=on'
text name json-deep "json:$(printf '{"file":%.0s' {1..900})"
text name json-brackets "json:$(printf '[%.0s' {1..8000})"
text name dots "$(printf 'a.%.0s' {1..2000})b=1"
text name long "$(printf 'x%.0s' {1..5000})"

text option sizes 'cluster_size=64k,preallocation=metadata'
text option all 'compat=1.1,cluster_size=4096,lazy_refcounts=on,refcount_bits=1,extended_l2=off,compression_type=zstd'
text option extended 'extended_l2=on,cluster_size=16k'
text option flags 'lazy_refcounts,noextended_l2'
text option commas 'compat=1.1,,x,cluster_size=512'
text option odd 'cluster_size=513'
text option huge 'cluster_size=99999999999999999999E'
text option fraction '1.5k'
text option hex '0x10000'
text option negative '-1'
text option word 'on'
text option full 'preallocation=full'
text option falloc 'preallocation=falloc,cluster_size=512'
text option old 'compat=0.10,refcount_bits=8'
text option wide 'refcount_bits=64,cluster_size=512'
text option size 'size=1G'
text option help 'help'
text option unknown 'nonsense=1'

du -sh --apparent-size "$corpus"
