#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# scan over a medium that is put together: what lies on it is found where it lies, what is whole is carved to the same
# disk, what is inside of something is shown so, what chance makes is left out; maps are read and written as ddrescue's;
# nothing is written over.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
requires python3 qemu-img qemu-io mke2fs debugfs jq

# put FILE MIB [SKIP]: FILE, without its first SKIP bytes, at MIB of the medium
put() {
	python3 - "$1" "$2" "${3:-0}" <<'EOF2'
import sys
data = open(sys.argv[1], 'rb').read()[int(sys.argv[3]):]
with open('medium', 'r+b') as f:
    f.seek(int(float(sys.argv[2]) * (1 << 20)))
    f.write(data)
EOF2
}
# at OFFSET JQ: of the object of that kind and place
at() {
	jq -r ".objects[] | select(.offset == $1) | $2" json
}

qemu-img create -q -f qcow2 a.qcow2 64M
qemu-io -c 'write -q -P 3 1M 3M' -c 'write -q -P 4 40M 2M' a.qcow2
qemu-img create -q -f vpc -o force_size=on v.vhd 40M
qemu-io -f vpc -c 'write -q -P 4 3M 9M' v.vhd
qemu-img create -q -f vpc -o subformat=fixed,force_size=on f.vhd 6M
printf '\125\252' | dd of=f.vhd bs=1 seek=510 conv=notrunc status=none
truncate -s 24M fs.img
mke2fs -q -t ext4 fs.img >/dev/null 2>&1
debugfs -w -R 'write a.qcow2 disk.qcow2' fs.img >/dev/null 2>&1
python3 - "$srcdir/tests/fixtures/guest.py" <<'EOF2'
import sys
text = open(sys.argv[1]).read()
ns = {}
exec(text[:text.index('\ndef content')], ns)
with open('d.raw', 'w+b') as f:
    f.truncate(26 << 20)
    ns['gpt'](f, 26 << 20)
    f.seek(1 << 20)
    f.write(open('fs.img', 'rb').read())
EOF2
truncate -s 200M medium
put d.raw 0
put a.qcow2 40
put v.vhd 60.5
put f.vhd 80
put v.vhd 100 2048
put a.qcow2 130 131072
put a.qcow2 150
yes junk | dd of=medium bs=64k seek=$((150 * 16 + 4)) count=1 iflag=fullblock conv=notrunc status=none # its L2 table

cp medium before
"$PLATTER" scan --output=json --carve out --map map medium >json
is $? 2 'something is damaged'
is_file_equal medium before 'nothing is changed'
M=1048576
is "$(at 512 .type)" gpt 'a partition table'
is "$(at $M '[.kind, .type] | join(" ")' | sort | tr '\n' ',')" 'filesystem ext4,partition partition,' 'a partition and its filesystem'
is "$(jq '[.objects[] | select(.offset > 1048576 and .offset < 27262976 and .type == "qcow2" and .inside != null)] | length' json)" 1 \
	'an image that is a file, as such'
is "$(at $((40 * M)) '[.type, ."virtual-size", .errors, .carvable] | join(" ")')" 'qcow2 67108864 0 true' 'a whole qcow2'
is "$(at $((60 * M + M / 2)) '[.type, .errors, .carvable] | join(" ")')" 'vpc 0 true' 'a whole dynamic VHD'
is "$(at $((80 * M)) '[.type, .length, .carvable] | join(" ")')" "vpc $((6 * M + 512)) true" 'a fixed VHD by its footer'
is "$(jq -r '.objects[] | select(.type == "VHD blocks") | .count' json)" 5 'VHD blocks without a table'
is "$(jq '[.objects[] | select(.type == "L2 tables" and .offset > 136314880 and .offset < 157286400)] | length' json)" 1 'orphan L2 tables'
isnt "$(at $((150 * M)) .errors)" 0 'a qcow2 that has lost a table'
ok 'the carved qcow2 is the same' qemu-img compare -q "out/$(printf %016x $((40 * M))).qcow2" a.qcow2
ok '  and sound' qemu-img check -q "out/$(printf %016x $((40 * M))).qcow2"
ok 'the carved VHD is the same' qemu-img compare -q "out/$(printf %016x $((60 * M + M / 2))).vhd" v.vhd
is_file_equal "out/$(printf %016x $((80 * M))).vhd" f.vhd 'so is the fixed one'
ok 'the carved partition has its filesystem' e2fsck -fn "out/$(printf %016x $M).img"
like "$(sed -n '/^0x/p' map | tail -n 1)" '^0x00000000 +0x0C800000 +\+$' 'the map says that all was read'

echo mine >"out/$(printf %016x $((40 * M))).qcow2"
"$PLATTER" scan --carve out medium >text
is "$(cat "out/$(printf %016x $((40 * M))).qcow2")" mine 'no file is written over'
like "$(cat text)" 'not carved: the file exists' '  and that is said'
(ulimit -f 8192; trap '' XFSZ; "$PLATTER" scan --carve small d.raw >text 2>err)
is $? 2 'what cannot be written is not carved'
like "$(cat text)" 'partition.*not carved: File too large' '  which is said of it in the list'
is "$(ls small)" '' '  and leaves nothing behind'
echo mine >file
fails 1 'the folder is a file' "$PLATTER" scan --carve file medium

# Maps: what is bad is not read, what is nonsense is refused, and the map stays.
cat >map <<'EOF2'
# a comment
0x00000000     ?               1
0x00000000  0x02800000  +
0x02800000  0x00100000  -
0x02900000  0x0BF00000  ?
EOF2
{ printf '# Command line: ddrescue'; printf ' %s' {1..200}; echo; cat map; } >long && mv long map # (longer than any buffer)
"$PLATTER" scan --output=json --map map medium >json
is $? 2 'a bad range'
is "$(jq .bad json)" $M '  is counted'
is "$(at $((40 * M)) .type)" '' '  and not looked at'
like "$(cat map)" '^0x02800000 +0x00100000 +-$' '  and stays bad'
echo '0x0 - nonsense' >map
echo '0x0 0x10 + 1' >>map
echo 'x y z' >>map
cp map map.before
fails 1 'what is no map' "$PLATTER" scan -q --map map medium
is_file_equal map map.before '  is left alone'
echo mine >notes
fails 1 'what has no line of a status' "$PLATTER" scan -q --map notes medium
is "$(cat notes)" mine '  is left alone'
like "$("$PLATTER" scan --map nowhere/map d.raw 2>&1)" '^platter: nowhere/map[^ ]*: No such file or directory$' 'where no map can be written nothing is read'

# Sectors that cannot be read.
opts="driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename=a.qcow2,file.inject-error.0.event=none,file.inject-error.0.iotype=read,file.inject-error.0.sector=8"
"$PLATTER" scan --output=json --image-opts "$opts" >json 2>err
if [ -s json ]; then
	is "$(jq '.bad > 0' json)" true 'a bad sector is passed over'
	is "$(jq '.bad <= 65536' json)" true '  and few beside it'
else
	skip 'a bad sector is passed over' "$(head -n 1 err)"
fi

# Damage is found by copies.
cp fs.img whole.img
truncate -s 140M big.img
mke2fs -q -t ext4 -b 1024 big.img >/dev/null 2>&1
dd if=/dev/zero of=big.img bs=1024 count=4 conv=notrunc status=none
"$PLATTER" scan --output=json big.img >json
is $? 2 'a filesystem without its beginning'
is "$(at 0 '[.type, ."by-copy", .length] | join(" ")')" "ext4 true $((140 * M))" '  is found by a copy'
ok 'a sound disk' "$PLATTER" scan -q d.raw
ok 'an empty one' sh -c 'truncate -s 100G e.raw && "$0" scan e.raw' "$PLATTER"
ok 'the disk in an image' sh -c '"$0" convert -O qcow2 d.raw d.qcow2 && "$0" scan -f qcow2 d.qcow2 | grep -q ext4' "$PLATTER"
head -c 20M /dev/urandom >noise
is "$("$PLATTER" scan noise)" '' 'noise has nothing in it'
like "$("$PLATTER" scan . 2>&1)" 'split or striped' 'a folder is refused by name'
fails 1 'no such file' "$PLATTER" scan nowhere
done_testing
