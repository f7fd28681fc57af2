#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# The readers of free-space maps: they give the ranges that the filesystem's own tool gives; they find volumes in partitions and
# in LVM; they leave alone what is dirty, asleep, ambiguous, not theirs or damaged; and bytes that somebody changed lead them
# nowhere: not outside, and where there are checksums to nothing else than the sound map.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
requires python3 mke2fs debugfs dumpe2fs mkswap sfdisk
lab=$builddir/tests/convert/free-lab
seed=${PLT_SEED:-$RANDOM}
echo "# PLT_SEED=$seed"

new() { rm -f "$1"; truncate -s "$2" "$1"; }
have() { command -v "$1" >/dev/null; }
why() { "$lab" "$1" | sed -n "${2:-1}p" | cut -d' ' -f6-; }
volumes() { "$lab" "$1" | grep -v '^ ' | cut -d' ' -f3-; }
left_alone() { # FILE WORDS WHAT
	case $("$lab" "$1" | grep -c '^ ')/$(why "$1") in
	0/*"$2"*) pass "left alone: $3" ;;
	*) fail "left alone: $3" "$("$lab" "$1" | head -n 3)" ;;
	esac
}

# The same ranges as the tool of the filesystem gives.
same_as_dumpe2fs() {
	dumpe2fs "$1" 2>/dev/null >dump
	python3 - <<'EOF2' >want
import re
text = open('dump').read()
bs = int(re.search(r'Block size: +(\d+)', text).group(1))
# with clusters it names the first block of the last one
cluster = re.search(r'Cluster size: +(\d+)', text)
per = int(cluster.group(1)) if cluster else bs
last = None
for line in re.findall(r'^  Free blocks: (.*)$', text, re.M):
    for part in filter(None, line.split(', ')):
        a, b = (part.split('-') * 2)[:2]
        a, b = int(a) * bs, int(b) * bs + per
        if last and last[1] == a:
            last[1] = b
        else:
            if last:
                print(' ', last[0], last[1] - last[0])
            last = [a, b]
if last:
    print(' ', last[0], last[1] - last[0])
EOF2
	"$lab" "$1" | grep '^ ' >got
	[ -s want ] && is_file_equal want got "$2: the ranges of dumpe2fs"
}
mkdir files && for i in 1 2 3 4 5 6 7; do head -c $((i * 77777)) /dev/urandom >files/$i; done
while read -r name size options; do
	new "$name.raw" "$size"
	# shellcheck disable=SC2086
	mke2fs -q -F -d files $options "$name.raw" >/dev/null 2>&1 || { skip "$name" 'this mke2fs cannot make it'; continue; }
	debugfs -w -R 'rm 3' "$name.raw" >/dev/null 2>&1
	debugfs -w -R 'set_super_value free_blocks_count 0' "$name.raw" >/dev/null 2>&1 # (that is not what is believed)
	same_as_dumpe2fs "$name.raw" "$name"
done <<'EOF2'
ext4 300M -t ext4
ext4-1k 20M -t ext4 -b 1024
ext3 40M -t ext3
ext2 9M -t ext2 -b 1024
ext2-rev0 9M -r 0 -t ext2
64bit 50M -t ext4 -O 64bit,^metadata_csum,uninit_bg -E lazy_itable_init=1
meta_bg 90M -t ext4 -b 1024 -O meta_bg,^resize_inode
sparse_super2 40M -t ext4 -b 1024 -O sparse_super2
flat 70M -t ext4 -b 1024 -O ^flex_bg
bigalloc 300M -t ext4 -b 4096 -O bigalloc
EOF2

# Other filesystems as they are made; what they have free is told by sparsify.sh.
new fat16.raw 20M && new fat12.raw 4M && new fat32.raw 40M && new ntfs.raw 24M && new xfs.raw 64M && new swap.raw 4M
mkswap -q swap.raw >/dev/null 2>&1
if have mkfs.vfat; then
	mkfs.vfat -F 16 -n SIXTEEN fat16.raw >/dev/null && mkfs.vfat -F 12 fat12.raw >/dev/null && mkfs.vfat -F 32 -s 1 fat32.raw >/dev/null
fi
have mkfs.ntfs && mkfs.ntfs -q -Q -F ntfs.raw >/dev/null 2>&1
have mkfs.xfs && mkfs.xfs -q -f --unsupported xfs.raw >/dev/null 2>&1

# Bytes changed.
n=400
[ "$SANITIZER" = 1 ] && n=60
for fs in ext4 xfs meta_bg bigalloc ext4-1k; do
	"$lab" "$fs.raw" 2>/dev/null | grep -q '^ ' || continue
	ok "$fs: other bytes lead to the same map or to none" timeout 60 "$lab" --mutate-sums "$seed" $n "$fs.raw"
done
for fs in ext2 64bit fat12 fat16 fat32 ntfs swap; do
	"$lab" "$fs.raw" 2>/dev/null | grep -q '^ ' || continue
	ok "$fs: other bytes lead nowhere" timeout 60 "$lab" --mutate "$seed" $n "$fs.raw"
done

# In partitions, and in LVM.
new pv.raw 64M
python3 -B "$srcdir/tests/convert/pv.py" pv.raw root:10+5,2+4 swap:20+4 base:30+2 snap:33+1:type=snapshot:origin=base \
	mirror:40+1:type=mirror far:45+1:pv=pv1 part:50+1:hidden=1 twice:10+1
python3 - <<'EOF2'
root, swap = open('ext2.raw', 'rb').read(), open('swap.raw', 'rb').read()
M = 1 << 20
with open('pv.raw', 'r+b') as f:
    for at, data in ((11 * M, root[:5 * M]), (3 * M, root[5 * M:]), (21 * M, swap)):
        f.seek(at)
        f.write(data)
EOF2
is "$(volumes pv.raw | sed 's/ext2 [0-9]*/ext2 N/')" "$(printf '%s\n' 'vg/root ext2 N ' 'vg/swap swap 4190208 ' \
	'vg/base ? 0 there is a snapshot of it' 'vg/snap ? 0 it is not made of plain pieces' 'vg/mirror ? 0 it is not made of plain pieces' \
	'vg/far ? 0 a part of it lies on another disk' 'vg/part ? 0 it is a part of another volume' \
	'vg/twice ? 0 it lies where another volume does')" 'logical volumes in plain pieces, and no others'
"$lab" ext2.raw | awk 'NF == 2 { print $1 < 5 * 1048576 ? $1 + 11 * 1048576 : $1 - 2 * 1048576, $2 }' | sort -n >want
"$lab" pv.raw | grep '^ ' | awk '$1 < 21 * 1048576 { print $1, $2 }' | sort -n >got
python3 - <<'EOF2' >joined
v = [list(map(int, line.split())) for line in open('got')]
w = [list(map(int, line.split())) for line in open('want')]
cover = lambda r: {b for at, n in r for b in range(at // 1024, (at + n) // 1024)}
# (a range that crosses the pieces is two)
print(len(cover(v)) == sum(n for at, n in w) // 1024)
EOF2
is "$(cat joined)" True 'each free block where its piece lies'
ok 'LVM: other bytes lead nowhere' timeout 60 "$lab" --mutate "$seed" $n pv.raw
poke pv.raw 4120 x
left_alone pv.raw 'header of its metadata' 'LVM whose metadata is damaged'

new disk.raw 200M
sfdisk -q disk.raw >/dev/null 2>&1 <<'EOF2'
label: gpt
1MiB 100MiB L
110MiB 10MiB S
125MiB 30MiB L
EOF2
for p in ext3:1 swap:110 fat16:125; do
	dd if="${p%:*}.raw" of=disk.raw bs=1M seek="${p#*:}" conv=notrunc status=none
done
is "$(volumes disk.raw | awk '{ print $2, NF }' | tr '\n' ',')" 'ext3 3,swap 3,fat 3,' 'three partitions of a GPT'
poke disk.raw $((110 * 1048576 + 4086)) S1SUSPEND
is "$(volumes disk.raw | grep -c -e 'a system is hibernated on it' -e 'that is hibernated on this disk')/$("$lab" disk.raw | grep -c '^ ')" 3/0 \
	'while a system is hibernated nothing on the disk is touched'
new mbr.raw 64M
echo '2048,40960,L' | sfdisk -q mbr.raw >/dev/null 2>&1
dd if=ext2.raw of=mbr.raw bs=512 seek=2048 conv=notrunc status=none
is "$(volumes mbr.raw | awk '{ print $2, NF }')" 'ext2 3' 'a partition of an MBR'
dd if=ext3.raw of=mbr.raw bs=1024 skip=1 seek=1 count=20 conv=notrunc status=none
left_alone mbr.raw 'in one place' 'a disk with a partition table and a filesystem'
cp ext3.raw two.raw
dd if=xfs.raw of=two.raw bs=512 count=1 conv=notrunc status=none
"$lab" xfs.raw | grep -q '^ ' && left_alone two.raw 'more than one kind' 'a volume with two signatures'

# Not in order.
state() { cp ext4.raw x.raw && debugfs -w -R "$1" x.raw >/dev/null 2>&1; }
state 'set_super_value state 2' && left_alone x.raw 'not unmounted' 'ext4 that is mounted'
state 'set_super_value state 3' && left_alone x.raw 'errors of it' 'ext4 with errors'
state 'set_super_value last_orphan 12' && left_alone x.raw 'to be deleted' 'ext4 with orphans'
state 'feature needs_recovery' && left_alone x.raw 'journal' 'ext4 with a journal to replay'
cp ext4.raw x.raw && poke x.raw $(($(dumpe2fs ext4.raw 2>/dev/null | sed -n 's/.*Block bitmap at \([0-9]*\).*/\1/p' | head -n 1) * 1024 + 1000)) '\1'
left_alone x.raw 'the bitmap' 'ext4 whose bitmap does not verify'
# (as many are free as before: only the checksum tells)
python3 - "$(dumpe2fs ext4.raw 2>/dev/null | sed -n 's/.*Block bitmap at \([0-9]*\).*/\1/p' | head -n 1)" <<'EOF2'
import sys
data = bytearray(open('ext4.raw', 'rb').read())
at = int(sys.argv[1]) * 1024
used, free = (next(i for i in range(at, at + 1024) if data[i] == v) for v in (255, 0))
data[used], data[free] = 254, 1
open('x.raw', 'wb').write(data)
EOF2
left_alone x.raw 'checksum of the bitmap' 'ext4 with another bitmap of the same count'
cp ext2.raw x.raw && debugfs -w -R 'set_bg 0 free_blocks_count 5' x.raw >/dev/null 2>&1
left_alone x.raw 'its descriptor says' 'ext2 whose count is another'
cp ext4.raw x.raw && truncate -s 200M x.raw && left_alone x.raw 'has room for' 'ext4 that is cut'
if "$lab" fat16.raw | grep -q '^ '; then
	cp fat16.raw x.raw && poke x.raw 37 '\001' && left_alone x.raw 'not unmounted' 'FAT that is mounted'
	cp fat32.raw x.raw && poke x.raw 65 '\001' && left_alone x.raw 'not unmounted' 'FAT32 that is mounted'
	cp fat32.raw x.raw && poke x.raw $((32 * 512 + 7)) '\007' && poke x.raw $((32 * 512 + 4)) '\377\377\377' &&
		left_alone x.raw 'differ' 'FAT32 with one table changed'
	cp fat16.raw x.raw && poke x.raw $((4 * 512 + 90)) '\001' && left_alone x.raw 'differ' 'FAT16 whose tables differ'
fi
if "$lab" fat16.raw | grep -q '^ ' && have mcopy; then
	for fs in fat12 fat16 fat32; do
		cp $fs.raw x.raw && mcopy -i x.raw files/1 ::one && mcopy -i x.raw files/2 ::two
		is "$(why x.raw)" '' "$fs with files is in order"
		python3 - <<'EOF2'
import struct
data = bytearray(open('x.raw', 'rb').read())
ss, reserved, n, root = struct.unpack_from('<H', data, 11)[0], struct.unpack_from('<H', data, 14)[0], data[16], struct.unpack_from('<H', data, 17)[0]
size = struct.unpack_from('<H', data, 22)[0] or struct.unpack_from('<I', data, 36)[0]
at = (reserved + n * size) * ss
while data[at:at + 11] != b'TWO        ':
    at += 32
first = struct.unpack_from('<H', data, at + 26)[0]
for k in range(n):
    table = (reserved + k * size) * ss
    if not root: # FAT32
        struct.pack_into('<I', data, table + 4 * first, 0)
    elif size * ss * 8 // 12 < 4085 * 2 and len(data) < 8 << 20:
        old, = struct.unpack_from('<H', data, table + first * 3 // 2)
        struct.pack_into('<H', data, table + first * 3 // 2, old & (0xf if first & 1 else 0xf000))
    else:
        struct.pack_into('<H', data, table + 2 * first, 0)
open('x.raw', 'wb').write(data)
EOF2
		left_alone x.raw 'calls free' "$fs with a file on what is free"
	done
fi
if "$lab" ntfs.raw | grep -q '^ ' && have ntfscp; then
	head -c 40000 /dev/zero >h && cp ntfs.raw x.raw && ntfscp -q x.raw h hiberfil.sys
	is "$(why x.raw)" '' 'NTFS with an empty hiberfil.sys is in order'
	{ printf 'HIBR'; head -c 50000 /dev/zero; } >h && cp ntfs.raw x.raw && ntfscp -q x.raw h hiberfil.sys
	left_alone x.raw hibernated 'NTFS of a Windows that is hibernated'
	cp ntfs.raw x.raw && poke x.raw $((0x1e00)) '\153\207\010\070\166\301\110\116\267\256\004\004\156\154\307\122'
	is "$(why x.raw)" '' 'NTFS that had shadow copies once is in order'
	poke x.raw $((0x1e00 + 50)) '\020' && left_alone x.raw 'shadow copies' 'NTFS with shadow copies'
	python3 - ntfs.raw <<'EOF2'
import struct
import sys
data = bytearray(open(sys.argv[1], 'rb').read())
spc, lcn = data[13], struct.unpack_from('<Q', data, 48)[0]
rec = lcn * spc * 512 + 3 * 1024
at = rec + struct.unpack_from('<H', data, rec + 20)[0]
while struct.unpack_from('<I', data, at)[0] != 0x70:
    at += struct.unpack_from('<I', data, at + 4)[0]
data[at + struct.unpack_from('<H', data, at + 20)[0] + 10] |= 1
open('x.raw', 'wb').write(data)
EOF2
	left_alone x.raw 'is dirty' 'NTFS that is dirty'
fi
if "$lab" xfs.raw | grep -q '^ '; then
	python3 - <<'EOF2'
import struct
data = bytearray(open('xfs.raw', 'rb').read())
bs, = struct.unpack_from('>I', data, 4)
start, = struct.unpack_from('>Q', data, 48)
per, = struct.unpack_from('>I', data, 84)
log = data[124]
at = ((start >> log) * per + (start & (1 << log) - 1)) * bs
assert data[at:at + 4] == b'\xfe\xed\xba\xbe'
data[at + 512 + 9] = 1
open('x.raw', 'wb').write(data)
EOF2
	left_alone x.raw 'log has to be replayed' 'XFS whose log does not end with an unmount'
	cat >xfs.py <<'EOF2'
# xfs.py FILE FIELD BY: in the first record of group 0's tree of free space, of one block: FIELD 0 is its place, 1 its length
import struct
import sys
data = bytearray(open(sys.argv[1], 'rb').read())
bs, = struct.unpack_from('>I', data, 4)
v5 = struct.unpack_from('>H', data, 100)[0] & 15 == 5
root, = struct.unpack_from('>I', data, 512 + 16)
at = root * bs + (56 if v5 else 16) + 4 * int(sys.argv[2])
struct.pack_into('>I', data, at, struct.unpack_from('>I', data, at)[0] + int(sys.argv[3]))
open('x.raw', 'wb').write(data)
EOF2
	python3 xfs.py xfs.raw 0 -1
	left_alone x.raw 'is damaged' 'XFS with a record that the checksum does not know'
	new xfs4.raw 64M
	if mkfs.xfs -q -f --unsupported -m crc=0 xfs4.raw >/dev/null 2>&1; then
		is "$(why xfs4.raw)" '' 'XFS of version 4 is in order'
		python3 xfs.py xfs4.raw 1 -1
		left_alone x.raw 'its header says' 'XFS of version 4 with less free than its header says'
		cp xfs4.raw x.raw && poke x.raw $((512 + 53)) '\001'
		left_alone x.raw 'its header says' 'XFS of version 4 whose header has another sum'
	fi
fi
poke swap.raw 1024 '\002' && left_alone swap.raw version 'swap of another version'
done_testing
