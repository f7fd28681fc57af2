#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# A qcow2 on a device that is larger: what repair adds goes behind the image's end, whatever else is on the device; where
# its counts are lost, and it cannot be told whether that is the image's, nothing is written over, and repair refuses.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
requires python3 qemu-img qemu-io losetup
truncate -s 24M device.img
loop=$(losetup -f --show device.img 2>/dev/null) || skip_all 'no loop device here'
exec 9<"$loop" && losetup -d "$loop" # (which then ends with this script)
size=$((24 << 20))

qemu-img create -q -f qcow2 i.qcow2 32M
qemu-io -f qcow2 -c 'write -P 1 0 2M' -c 'write -P 2 9M 3M' i.qcow2 >/dev/null
qemu-img convert -f qcow2 -O raw i.qcow2 disk.raw
end=$(stat -c %s i.qcow2)

# damaged WHAT BEHIND PYTHON: on the loop device, with what is behind the image's end
damaged() {
	python3 - "$2" "$end" "$size" "$3" <<'EOF2'
import random, struct, sys
behind, end, size, what = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
b = bytearray(open('i.qcow2', 'rb').read())
rnd = random.Random(7)
def at(off):
    return struct.unpack_from('>Q', b, off)[0] & 0x00fffffffffffe00
l2 = at(at(40))
rt = at(48)
exec(what)
open('before', 'wb').write(bytes(b) + (rnd.randbytes(size - end) if behind == 'data' else bytes(size - end)))
EOF2
	dd if=before of="$loop" bs=1M status=none
	"$PLATTER" repair --yes -f qcow2 --undo-file u "$loop" >out 2>&1
	status=$?
}

# nothing behind END is another byte than before
untouched() {
	dd if="$loop" of=after bs=1M status=none
	cmp -i "$1" before after >cmp.out 2>&1
}

undone() {
	ok "$1: undo" "$PLATTER" undo -q u
	ok "  to the very bytes" cmp before "$loop"
	rm -f u
}

# four sectors of an L2 table: what is left of it goes to another place
for behind in zeros data; do
	damaged "$behind" $behind 'b[l2 + 8192:l2 + 10240] = rnd.randbytes(2048)'
	is $status 2 "a damaged table, $behind behind: repaired"
	like "$(qemu-img check -f qcow2 "$loop" 2>&1)" 'No errors were found|leaked clusters' '  qemu-img finds no error'
	ok '  the disk is there' "$PLATTER" compare -q -f qcow2 -F raw "$loop" disk.raw
	ok '  little is written behind its end' untouched $((end + (4 << 20)))
	isnt "$(cmp -s -n $((end + (4 << 20))) before after; echo $?)" 0 '  but something is'
	undone "a damaged table, $behind behind"
done

damaged counts zeros 'b[rt:rt + 65536] = bytes(65536)'
is $status 0 'lost counts, zeros behind: repaired'
like "$(qemu-img check -f qcow2 "$loop" 2>&1)" 'No errors were found' '  qemu-img finds no error'
ok '  the disk is there' "$PLATTER" compare -q -f qcow2 -F raw "$loop" disk.raw
undone 'lost counts, zeros behind'

damaged counts data 'b[rt:rt + 65536] = bytes(65536)'
is $status 1 'lost counts, data behind: refused'
like "$(cat out)" 'there is no room for what the repair writes' '  for want of room'
ok '  the device is as it was' cmp before "$loop"
ok '  there is no journal' [ ! -e u ]
"$PLATTER" repair -q --yes -f qcow2 --output copy.qcow2 "$loop" >out 2>&1
ok '  a repaired copy has it' "$PLATTER" compare -q -f qcow2 -F raw copy.qcow2 disk.raw
done_testing
