#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Images whose data lies in another file, when the name of that is wrong, or lost with the header: the tables say that there
# is such a file, and the guest's metadata which of those beside the image it is.  If several may be, none is taken; nothing
# else is opened than the policy on names allows; the data file is never written; undo gives the very bytes back.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
requires python3 mke2fs debugfs dumpe2fs qemu-img qemu-io

seed=${PLT_SEED:-7}
echo "# PLT_SEED=$seed"
mkdir guest in
python3 "$srcdir/tests/fixtures/guest.py" ext4 48 "$seed" guest/disk.raw >/dev/null || skip_all 'no filesystem can be made'
damage="$srcdir/tests/fixtures/damage.py"

# make OPTIONS: in/sound.qcow2 and in/sound.data, told by its whole name, as QEMU wants it
make() {
	rm -f in/*
	qemu-img create -q -f qcow2 -o "$1,data_file=$PWD/in/sound.data" in/sound.qcow2 48M
	qemu-img convert -n -f raw -O qcow2 guest/disk.raw in/sound.qcow2
	cp in/sound.data data.before
}

# judge CLASS STATUS: break, look through it, repair, undo
judge() {
	local what="$name, $1"

	rm -f in/d.qcow2* got.raw
	cp in/sound.qcow2 in/d.qcow2
	rm in/sound.qcow2
	python3 -B "$damage" "$1" in/d.qcow2 "$seed" >out || fail "$what: no damage"
	cp in/d.qcow2 before
	"$PLATTER" convert --rescue --report report.json -f qcow2 -O raw in/d.qcow2 got.raw >out 2>&1
	is $? 2 "$what: convert --rescue"
	ok '  the disk is what it was' qemu-img compare -q -f raw -F raw got.raw guest/disk.raw
	ok '  and its file is inferred' grep -q '"reason": *"the data file was found' report.json
	is_file_equal in/d.qcow2 before '  nothing is written'
	"$PLATTER" repair -q --yes -f qcow2 in/d.qcow2 >out 2>&1
	is $? 2 '  repair'
	ok '  qemu-img finds no error' sh -c 'qemu-img check -q in/d.qcow2 >/dev/null 2>&1; [ $? -eq 0 -o $? -eq 3 ]'
	like "$("$PLATTER" info in/d.qcow2)" 'data file: .*/in/sound.data' '  its name is recorded'
	ok '  the disk is what it was' "$PLATTER" compare -q -f qcow2 -F raw in/d.qcow2 guest/disk.raw
	undone in/d.qcow2 before '  undo'
	is_file_equal in/sound.data data.before '  the data file is as it was'
	cp in/d.qcow2 kept.qcow2
	mv kept.qcow2 in/broken.qcow2
}
for options in cluster_size=64k cluster_size=4k cluster_size=16k,extended_l2=on; do
	sampled || continue
	name=$options
	for class in Q-EXT-1 Q-HDR-3 Q-2-FRONT Q-2-HDR-L1; do
		make "$options"
		judge $class
	done
done

# Without -f, too.
"$PLATTER" convert --rescue -O raw in/d.qcow2 got.raw >out 2>&1
is $? 2 'without -f: convert --rescue'
ok '  the disk is what it was' qemu-img compare -q -f raw -F raw got.raw guest/disk.raw

# Who must not be followed.
fails 1 '--untrusted opens nothing' "$PLATTER" convert --rescue --untrusted -f qcow2 -O raw in/d.qcow2 got.raw
fails 1 'nor does a policy that allows another folder' "$PLATTER" convert --rescue --allow-dir guest -f qcow2 -O raw in/d.qcow2 got.raw
mv in/sound.data guest/
fails 1 'what lies elsewhere is not looked for' "$PLATTER" convert --rescue -f qcow2 -O raw in/d.qcow2 got.raw
ln -s ../guest/sound.data in/link.data
fails 1 'and no link is followed' "$PLATTER" convert --rescue -f qcow2 -O raw in/d.qcow2 got.raw
rm in/link.data
# Another disk of the same length, and a file that ends too early.
python3 "$srcdir/tests/fixtures/guest.py" ext4 48 $((seed + 1)) in/other.raw >/dev/null
dd if=in/other.raw of=in/swapped.raw bs=1M status=none
dd if=/dev/urandom of=in/swapped.raw bs=1M count=40 seek=2 conv=notrunc status=none
head -c 1M guest/sound.data >in/short.data
rm in/other.raw
fails 1 'what does not fit is not taken' "$PLATTER" convert --rescue -f qcow2 -O raw in/d.qcow2 got.raw
mv guest/sound.data in/
ok 'beside such the right one is' sh -c '"$1" convert --rescue -f qcow2 -O raw in/d.qcow2 got.raw >out 2>&1; [ $? -eq 2 ]' - "$PLATTER"
ok '  the disk is what it was' qemu-img compare -q -f raw -F raw got.raw guest/disk.raw
# Two that fit: nobody knows.
cp in/sound.data in/copy.data
"$PLATTER" repair -q --yes -f qcow2 in/d.qcow2 >out 2>&1
is $? 2 'of two that fit none is taken'
like "$("$PLATTER" repair --dry-run -f qcow2 in/d.qcow2 2>&1)" 'Beside the image 2 files have content that fits' '  it is said'
rm -f in/d.qcow2.*
# But one with the name that the image records is it: the folder has moved.
make cluster_size=64k
mv in moved
cp moved/sound.data moved/copy.data
"$PLATTER" convert --rescue -f qcow2 -O raw moved/sound.qcow2 got.raw >out 2>&1
is $? 2 'a folder that has moved: the file of the recorded name'
ok '  the disk is what it was' qemu-img compare -q -f raw -F raw got.raw guest/disk.raw
cp moved/sound.qcow2 before
ok '  check -r all leaves it to a person' sh -c '"$1" check -q -r all moved/sound.qcow2 >out 2>&1; cmp -s moved/sound.qcow2 before' - "$PLATTER"
done_testing
