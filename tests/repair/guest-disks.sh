#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Raw disks whose partition table or superblocks are gone: what repair -f raw writes is what was there, byte for byte
# where a copy says so; a table made from the volumes names them all, as blkid reads it; the filesystem's own checker
# is content; undo gives the very bytes back; and sound disks of many kinds have no finding.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
requires python3 mke2fs debugfs e2fsck mkfs.fat mcopy mmd blkid

seed=${PLT_SEED:-7}
guest=$srcdir/tests/fixtures/guest.py

# wrap IMAGE DISK: a disk with a GPT and IMAGE in its one partition
wrap() {
	python3 - "$guest" "$1" "$2" <<'EOF2'
import os, sys
text = open(sys.argv[1]).read()
ns = {}
exec(text[:text.index('\ndef content')], ns)
size = os.path.getsize(sys.argv[2]) + (4 << 20)
with open(sys.argv[3], 'w+b') as f:
    f.truncate(size)
    ns['gpt'](f, size)
    with open(sys.argv[2], 'rb') as p:
        at = 1 << 20
        while True:
            b = p.read(1 << 20)
            if not b:
                break
            if b.strip(b'\0'):
                f.seek(at)
                f.write(b)
            at += len(b)
EOF2
}

zero() { # FIRST COUNT
	dd if=/dev/zero of=d.raw bs=512 seek="$1" count="$2" conv=notrunc status=none
}

# the filesystem in the first partition is sound, to its own checker
checked() { # NAME WHAT
	dd if=d.raw of=part bs=1M skip=1 status=none
	case $1 in
	ext*) ok "$2: e2fsck" sh -c 'e2fsck -fy part >/dev/null 2>&1; [ $? -le 1 ] && e2fsck -fn part >/dev/null' ;;
	one*)
		ok "$2: e2fsck" e2fsck -fn part
		ok "$2: its files are there" sh -c 'debugfs -R "cat sub/guest.py" part 2>/dev/null | cmp - "$1"' sh "$guest"
		;;
	fat*) ok "$2: fsck.fat" fsck.fat -n part ;;
	xfs) ok "$2: xfs_repair" sh -c 'xfs_repair -f part && xfs_repair -n -f part' ;;
	ntfs)
		truncate -s 40M part
		ok "$2: ntfsfix" ntfsfix -n part
		;;
	esac
	rm -f part
}

# damaged NAME WHAT same|fs|table ID
damaged() {
	local what="$1: $2" ids

	cp d.raw before
	"$PLATTER" repair -f raw --yes d.raw >out 2>&1
	status=$?
	case $4 in R-PT-1) is $status 0 "$what" ;; *) is $status 2 "$what: rests on less than proof" ;; esac
	ids=$(grep -o '^to repair.*\[R-[A-Z0-9-]*\]$' out | grep -o 'R-[A-Z0-9-]*' | sort -u | tr '\n' ' ')
	is "$ids" "$4 " "$what: as $4"
	case $3 in
	same) is_file_equal d.raw "$1.raw" "$what: the very bytes" ;;
	fs) checked "$1" "$what" ;;
	table)
		is "$(blkid -p -o value -s PTTYPE d.raw)" "${5:-gpt}" "$what: a table to blkid"
		checked "$1" "$what"
		"$PLATTER" repair -f raw --dry-run d.raw >out 2>&1
		is $? 0 "$what: is sound then"
		;;
	esac
	undone d.raw before "$what: undo"
	rm -f d.raw*
}

python3 "$guest" ext4 96 "$seed" ext4.raw 1024 >/dev/null || skip_all 'no filesystem can be made'
truncate -s 80M part && mkfs.fat -F 32 part >/dev/null && mcopy -i part "$guest" ::guest.py && wrap part fat32.raw
disks='ext4 fat32'
# FAT16 and FAT12, which keep no copy of their boot sector
for bits in 16 12; do
	rm -f part
	truncate -s $((bits * 2 - 20))M part && mkfs.fat -F $bits -n LABEL$bits part >/dev/null
	for d in a b c; do
		mmd -i part ::$d ::$d/sub && mcopy -i part "$guest" ::$d/sub/guest.py
	done
	wrap part fat$bits.raw
done
if command -v mkfs.xfs >/dev/null; then
	truncate -s 320M part2 && mkfs.xfs -q -f part2 && wrap part2 xfs.raw && disks="$disks xfs"
fi
if command -v mkntfs >/dev/null; then
	truncate -s 40M part3 && mkntfs -qFf part3 >/dev/null 2>&1 && wrap part3 ntfs.raw && disks="$disks ntfs"
fi
rm -f part part2 part3

for d in $disks; do
	n=$(($(stat -c %s $d.raw) / 512))
	cp $d.raw d.raw
	"$PLATTER" repair -f raw --yes d.raw >out 2>&1
	is $? 0 "$d: a sound disk"
	is_file_equal d.raw $d.raw '  stays what it is'
	is "$(ls d.raw*)" d.raw '  and needs no journal'
	zero 1 33
	damaged $d 'the table at the start is gone' same R-PT-1
	cp $d.raw d.raw
	zero $((n - 33)) 33
	damaged $d 'the table at the end is gone' same R-PT-1
	cp $d.raw d.raw
	zero 0 34
	damaged $d 'the first 34 sectors are gone' same R-PT-1
	cp $d.raw d.raw
	zero 0 34
	zero $((n - 33)) 33
	damaged $d 'both tables are gone' table R-PT-2
done

cp ext4.raw d.raw
zero 0 34
zero $(($(stat -c %s d.raw) / 512 - 33)) 33
cp d.raw before
"$PLATTER" repair --yes d.raw >out 2>&1
is $? 2 'of what nobody calls a disk nothing is changed'
like "$(tail -n 1 out)" 'with -f raw it is repaired' '  and it is said how it would be'
is_file_equal d.raw before '  the very bytes'
cp ext4.raw d.raw
zero 2048 8
damaged ext4 'the superblock is gone' fs R-SB
# FAT16 without a folder: what there was is said, and nothing is made up
rm -f part
truncate -s 12M part && mkfs.fat -F 16 part >/dev/null && mcopy -i part "$guest" ::guest.py
wrap part d.raw
zero 2048 1
cp d.raw before
"$PLATTER" repair -f raw --yes d.raw >out 2>&1
is $? 2 'fat16 without folders, the boot sector is gone: said'
like "$(cat out)" 'two tables of .* are there, and no directories' '  for what it is'
is_file_equal d.raw before '  and left'

# ext of one block group, which has no copy of its superblock; whether there are checksums or not
mkdir -p top/sub && cp "$guest" top/sub
one() { # SIZE OPTION...
	local what="ext, one group of $*"

	truncate -s "$1" part
	shift
	mke2fs -q -F -d top "$@" part 2>/dev/null
	wrap part one.raw
	cp one.raw d.raw
	zero 2050 2
	damaged one "$what" fs R-SB
}
one 30M -t ext4 -b 4096
one 16M -t ext4 -b 2048 -O ^metadata_csum,^64bit,^resize_inode
one 6M -t ext2 -b 1024 -I 128
# nothing is made up where the bitmap is another's
cp one.raw d.raw
zero 2050 2
dd if=/dev/urandom of=d.raw bs=1024 seek=$((1024 + $(dumpe2fs 'one.raw?offset=1048576' 2>/dev/null | sed -n 's/.*Block bitmap at \([0-9]*\).*/\1/p'))) count=1 conv=notrunc status=none
cp d.raw before
"$PLATTER" repair -q -f raw --yes d.raw >out 2>&1
is_file_equal d.raw before 'one group, and its bitmap is damaged: nothing is made up'
rm -rf d.raw* top

cp fat32.raw d.raw
zero 2048 1
damaged fat32 'the boot sector is gone' same R-SB
for bits in 16 12; do
	cp fat$bits.raw d.raw
	zero 2048 1
	damaged fat$bits 'the boot sector is gone, and there is no copy' fs R-SB
	cp fat$bits.raw d.raw
	zero 2048 1
	"$PLATTER" repair -q -f raw --yes d.raw >out 2>&1
	dd if=d.raw of=part bs=1M skip=1 status=none
	ok "fat$bits: its files are there" sh -c 'mcopy -i part ::b/sub/guest.py - | cmp - "$1"' sh "$guest"
	# with one of its tables damaged nothing is made up
	cp fat$bits.raw d.raw
	zero 2048 1
	printf x | dd of=d.raw bs=1 seek=$((2048 * 512 + 4 * 512 + 300)) conv=notrunc status=none
	cp d.raw before
	"$PLATTER" repair -q -f raw --yes d.raw >out 2>&1
	is_file_equal d.raw before "fat$bits: tables that differ say nothing"
	rm -f d.raw*
done
if [ -e xfs.raw ]; then
	cp xfs.raw d.raw
	zero 2048 1
	damaged xfs 'the superblock is gone' fs R-SB
fi
if [ -e ntfs.raw ]; then
	cp ntfs.raw d.raw
	zero 2048 16
	damaged ntfs 'the boot sector is gone' same R-SB
fi

# Sound disks that are something else.
truncate -s 10M empty.raw
mke2fs -q -t ext4 whole.raw 8M >/dev/null 2>&1
head -c 3M /dev/urandom >noise.raw
for d in empty whole; do
	ok "$d.raw: no finding" "$PLATTER" repair -q -f raw --yes $d.raw
	is "$(ls $d.raw*)" $d.raw '  and no journal'
done
ok 'a disk of noise is not repaired' "$PLATTER" repair -q -f raw --yes noise.raw

# A disk that does not begin where the file does is told, not moved.
{ head -c 2M /dev/zero | tr '\0' 'x'; cat fat32.raw; } >d.raw
"$PLATTER" repair -f raw --dry-run d.raw >out 2>&1
is $? 2 'a disk behind a prefix'
like "$(cat out)" 'the disk begins 2097152 bytes into the file' '  says where'
cp d.raw before
ok '  a copy' "$PLATTER" repair -q -f raw --yes --output new.raw d.raw
is_file_equal new.raw fat32.raw '  begins where the disk does'
zeros=$((2048 + 2097152 / 512))
dd if=/dev/zero of=d.raw bs=512 seek=$zeros count=1 conv=notrunc status=none
rm new.raw
"$PLATTER" repair -q -f raw --yes --output new.raw d.raw >out 2>&1
is $? 2 '  what is damaged in it, too'
is_file_equal new.raw fat32.raw '  is repaired in the copy'
fails 1 '  a plan of that is none for a file' "$PLATTER" repair -q -f raw --dry-run --plan p --output n2.raw d.raw
rm -f d.raw before new.raw

# The end of a disk is missing: the table stays, and says so.
head -c 40M ext4.raw >d.raw
"$PLATTER" repair -f raw --dry-run d.raw >out 2>&1
is $? 2 'a disk that was cut short'
like "$(cat out)" 'the disk was cut short' '  says so'

# A disk that stands behind something else is shown from where it begins, and nothing is written.
python3 - ext4.raw mbr.raw <<'EOF2'
import struct, sys
data = bytearray(open(sys.argv[1], 'rb').read())
data[446:462] = struct.pack('<B3sB3sII', 0, b'', 0x83, b'', 2048, len(data) // 512 - 4096)
data[512:1024] = data[-512:] = bytes(512)
open(sys.argv[2], 'wb').write(data)
EOF2
for disk in ext4.raw mbr.raw; do
	for n in 512 $((1 << 20)); do
		{ head -c "$n" /dev/zero; cat "$disk"; } >d.raw
		cp d.raw before
		"$PLATTER" convert --rescue -f raw -O raw d.raw got.raw >out 2>&1
		is $? 0 "$disk: $n bytes in front"
		like "$(cat out)" '1 error is put right in what is shown' '  says so'
		is_file_equal got.raw "$disk" '  it is shown from there'
		is_file_equal d.raw before '  and nothing is written'
	done
done
{ head -c 1048576 /dev/urandom; head -c 8M /dev/zero; } >d.raw
"$PLATTER" convert --rescue -f raw -O raw d.raw got.raw >out 2>&1
is_file_equal got.raw d.raw 'what is no disk is shown as it is'

# LVM: what stands at the beginning of a physical volume, from its own metadata; older ones where the newest are damaged.
truncate -s 12M part && mke2fs -q -t ext4 part
cat >lvm-case.py <<'EOF2'
import os, re, struct, sys
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import lvm
START = 1 << 20
what, name = sys.argv[2:4]
content = open('part', 'rb').read()
if what in ('make', 'make-grown'):
    with open(name, 'wb') as f:
        f.write(lvm.make(content, 5, 512 * 2031, what == 'make-grown'))
    sys.exit()
d = bytearray(open(name, 'rb').read())
start = 0 if d[512:520] == b'LABELONE' or what.endswith('-whole') else START
if what == 'read': # prints the number of the text, if the volume is what it was
    v = lvm.Volume(d[start:])
    assert v.read(d[start:], 'root')[:len(content)] == content
    print(re.search(r'seqno = (\d+)', v.text).group(1))
    sys.exit()
v = lvm.Volume(d[start:])
ring = start + lvm.META + 512
if what == 'label':
    d[start + 512:start + 1024] = bytes(512)
elif what == 'header':
    d[ring - 512:ring] = os.urandom(512)
elif what == 'both':
    d[start:ring] = bytes(4096 + 512)
elif what == 'text':
    d[start + v.place + 512:start + v.place + 1024] = bytes(512)
elif what == 'bit':
    d[start + v.place + 700] ^= 4
elif what == 'groups': # one that was there before, and has seen more changes
    t = v.text.replace('seqno = 4', 'seqno = 90').replace('creation_time = 17', 'creation_time = 16')
    t = re.sub(r'id = "......-', 'id = "AAAAAA-', t, count=1).encode() + bytes(1)
    d[ring + (512 << 10):ring + (512 << 10) + len(t)] = t
    d[ring - 512:ring] = bytes(512)
elif what == 'endless':
    t = b'vg0 {\nid = "' + b'a' * 38 + b'"\nseqno = 7\n'
    d[ring:ring + lvm.AREA - 512] = t.ljust(512, b'x') * (lvm.AREA // 512 - 1)
    d[ring - 512:ring] = bytes(512)
elif what == 'name': # of a group, as long as the largest ring
    n = 15 << 20
    d[ring - 512:ring] = lvm.sealed(bytes(4) + lvm.MAGIC + struct.pack('<IQQQQII', 1, lvm.META, n, 512, 100, 1, 0), 0)
    d[ring:ring + n - 512] = b'a' * (n - 512)
with open(name, 'r+b') as f:
    f.write(d)
EOF2
lvm() { python3 lvm-case.py "$srcdir/tests/fixtures" "$@"; }
lvm make whole-pv.raw
wrap whole-pv.raw pv.raw
is "$(blkid -p -o value -s TYPE whole-pv.raw)" LVM2_member 'a physical volume'
if command -v pvck >/dev/null; then
	like "$(pvck --dump metadata whole-pv.raw 2>/dev/null)" 'seqno = 4' '  with metadata, to LVM itself'
else
	skip '  with metadata, to LVM itself' 'no pvck'
fi
for d in whole-pv pv; do
	cp $d.raw d.raw
	ok "$d: is sound" "$PLATTER" repair -q -f raw --yes d.raw
	is "$(ls d.raw*)" d.raw '  and needs no journal'
	case $d in pv) kinds='label header' ;; *) kinds=both ;; esac
	for what in $kinds; do
		cp $d.raw d.raw
		lvm $what d.raw
		damaged $d "the $what of an LVM volume is gone" same R-LVM
	done
done
cp pv.raw d.raw
lvm bit d.raw
ok 'a wrong bit in the metadata' "$PLATTER" repair -q -f raw --yes d.raw
is_file_equal d.raw pv.raw '  is found by their checksum'
rm -f d.raw*
cp pv.raw d.raw
lvm groups d.raw
"$PLATTER" repair -q -f raw --yes d.raw >out 2>&1
is "$(lvm read d.raw)" 4 'of two groups the one that was there last'
rm -f d.raw*
cp pv.raw d.raw
lvm text d.raw
"$PLATTER" repair -f raw --yes d.raw >out 2>&1
is $? 2 'the newest metadata are damaged: rests on less than proof'
like "$(cat out)" 'as of change 3 they are there, and filesystems begin where these say' '  says what counts now'
is "$(lvm read d.raw)" 3 '  the volume is where it was'
rm -f d.raw*
lvm make-grown part2
wrap part2 d.raw
lvm text d.raw
cp d.raw before
"$PLATTER" repair -f raw --yes d.raw >out 2>&1
is $? 2 'older metadata that cannot be right'
like "$(cat out)" 'a filesystem is larger than its volume was then' '  are named'
is_file_equal d.raw before '  and not taken'
rm -f d.raw*
cp pv.raw d.raw
lvm endless d.raw
"$PLATTER" repair -f raw --yes d.raw >out 2>&1
is $? 2 'a ring of beginnings'
like "$(cat out)" 'no text in its metadata tells what it was' '  says nothing'
cp pv.raw d.raw
lvm name d.raw
timeout 60 "$PLATTER" repair -f raw --dry-run d.raw >out 2>&1
is $? 2 'a ring that is one name is looked through in time'
rm -f d.raw* part part2

# As with qemu-img, whose callers give -r to any disk, check touches no guest.
cp pv.raw d.raw
zero 1 33
cp d.raw before
for args in '-r all -f raw' '-r leaks -f raw' '-r all'; do
	# shellcheck disable=SC2086 # words
	fails 63 "check $args" "$PLATTER" check $args d.raw
	is_file_equal d.raw before '  changes nothing'
done
done_testing
