#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# A header that says that the disk is smaller than it was: what the guest has written tells, through encryption, through
# compression, over a backing file and in a data file; the disk is again what it was, and undo gives the very bytes back.
# The state of a VM behind the disk is no part of it, whoever has made it, and neither is anything raised that is right.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
requires python3 mke2fs debugfs qemu-img qemu-io

secret=(--object 'secret,id=s,data=abc')
luks=encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10
python3 "$srcdir/tests/fixtures/guest.py" ext4 48 "${PLT_SEED:-7}" disk.raw >/dev/null || skip_all 'no filesystem can be made'
size=$(stat -c %s disk.raw)

# of IMAGE: how it is named
names() {
	how=(-f qcow2 "$1")
	encrypt=
	case $name in luks*)
		encrypt=encrypt.format=luks,encrypt.key-secret=s,
		how=("${secret[@]}" --image-opts "driver=qcow2,${encrypt}file.filename=$1")
		;;
	esac
}

# says IMAGE BYTES: the header
says() {
	python3 -c 'import sys; f = open(sys.argv[1], "r+b"); f.seek(24); f.write(int(sys.argv[2]).to_bytes(8, "big"))' "$1" "$2"
}

# small STATUS [OPTION]: d.qcow2, whose header says half of it, ends with STATUS as disk.raw
small() {
	says d.qcow2 $((size / 2))
	cp d.qcow2 before
	names d.qcow2
	"$PLATTER" check -q --deep "${how[@]}" >out 2>&1
	is $? 2 "$name: check --deep sees it"
	"$PLATTER" convert --rescue ${2:+"${@:2}"} -O raw "${how[@]}" got.raw >out 2>&1
	is $? "$1" "$name: rescue"
	is_file_equal got.raw disk.raw "$name: shows all of the disk"
	"$PLATTER" repair -q --yes ${2:+"${@:2}"} "${how[@]}" >out 2>&1
	is $? "$1" "$name: repair"
	ok "$name: for qemu-img, too, the disk is what it was" qemu-img convert "${secret[@]}" -O raw --image-opts \
		"driver=qcow2,${encrypt}file.filename=d.qcow2" got.raw
	is_file_equal got.raw disk.raw "$name: to the byte"
	"$PLATTER" undo -q d.qcow2.platter-undo
	is_file_equal d.qcow2 before "$name: undo"
}
# sound WHAT: s.qcow2 has no finding and stays
sound() {
	cp s.qcow2 before
	names s.qcow2
	"$PLATTER" check -q --deep "${how[@]}" >out 2>&1
	is $? 0 "$1: nothing is wrong"
	"$PLATTER" repair --yes "${how[@]}" >out 2>&1
	is $? 0 '  nor mended'
	is_file_equal s.qcow2 before '  the very bytes'
	"$PLATTER" convert --rescue -O raw "${how[@]}" got.raw >out 2>&1
	is "$?:$(stat -c %s got.raw)" "0:${2:-$size}" '  rescue shows what is there'
}

name=luks
"$PLATTER" convert "${secret[@]}" -O qcow2 -o $luks,cluster_size=4k disk.raw d.qcow2
cp d.qcow2 s.qcow2
small 0
"$PLATTER" io -c 'write -b -P 7 0 3M' "${how[@]/d.qcow2/s.qcow2}" >out 2>&1
like "$("$PLATTER" repair --dry-run "${how[@]/d.qcow2/s.qcow2}")" Q-VMSTATE \
	'luks: behind the disk lies a state'
sound 'luks, and the state of a VM'
cp s.qcow2 d.qcow2
name='luks, with a state'
small 0

# A header that was made anew knows no size: of an encrypted disk, too, the guest says it.
name='luks, without header and L1 table'
"$PLATTER" convert "${secret[@]}" -O qcow2 -o $luks,cluster_size=16k disk.raw d.qcow2
python3 "$srcdir/tests/fixtures/damage.py" Q-2-HDR-L1 d.qcow2 "${PLT_SEED:-7}" >out 2>&1 || diag "$(cat out)"
names d.qcow2
"$PLATTER" repair -q --yes "${how[@]}" >out 2>&1
like $? '^[02]$' "$name: repair"
"$PLATTER" convert "${how[@]}" -O raw got.raw
is_file_equal got.raw disk.raw "$name: the disk is what it was, and as large"
rm -f d.qcow2.*

name=compressed
qemu-img convert -c -O qcow2 -o cluster_size=64k disk.raw d.qcow2
small 0
name='over a backing file that is longer'
"$PLATTER" create -q -f qcow2 -b disk.raw -F raw d.qcow2
small 2
name='in a data file'
"$PLATTER" convert -O qcow2 -o data_file=d.data disk.raw d.qcow2
small 0

# Of a guest that nobody knows.
head -c $((size / 2 + 65536)) /dev/urandom >disk.raw
truncate -s "$size" disk.raw
name='unknown'
qemu-img convert -O qcow2 -o cluster_size=64k disk.raw d.qcow2
size=$((size / 2))
qemu-img convert -O qcow2 -o cluster_size=4k disk.raw e.qcow2
says d.qcow2 $size
says e.qcow2 $size
for f in d e; do
	"$PLATTER" repair -q --yes -f qcow2 $f.qcow2 >out 2>&1
	is "$?:$(qemu-img info --output=json $f.qcow2 | jq '."virtual-size"')" 2:$size 'what is mapped alone raises no size, but is said'
	"$PLATTER" check -q --deep -f qcow2 $f.qcow2 >out 2>&1
	is $? 2 '  by check --deep, too'
	"$PLATTER" repair -q --yes --trust likely -f qcow2 $f.qcow2 >out 2>&1
	is $? 2 '  with less trust it does'
	"$PLATTER" convert -f qcow2 -O raw $f.qcow2 got.raw
	ok '  and all is there' cmp -n $((size + 65536)) got.raw disk.raw
done
truncate -s "$size" disk.raw
qemu-img convert -O qcow2 -o cluster_size=4k disk.raw s.qcow2
{ printf QEVM; head -c 99996 /dev/urandom; } >state
qemu-io -c 'write -q -b -s state 0 98304' s.qcow2
sound 'unknown, and the state of a VM'
# a filesystem that ends before the disk does, under an image that ends between
mke2fs -q -t ext4 -b 1024 base.raw 4M
truncate -s $((2 * size)) base.raw
"$PLATTER" create -q -f qcow2 -b base.raw -F raw s.qcow2 $size
sound 'an overlay that is smaller than what it stands on'
done_testing
