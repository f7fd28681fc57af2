#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# A resize of a VHD by XenServer's vhd-util that was cut short: its journal, written here from its layout, takes the image
# back, by --rescue and in place; one of another image, or a torn one, changes nothing; and without it nothing is written.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires python3

"$PLATTER" create -q -f vpc -o force_size=on sound.vhd 24M
"$PLATTER" io -f vpc -c 'write -q -P 5 0 3M' -c 'write -q -P 6 9M 64k' -c 'write -q -P 7 20M 100k' sound.vhd
"$PLATTER" create -q -f vpc -o subformat=fixed,force_size=on fixed.vhd 2M
"$PLATTER" io -f vpc -c 'write -q -P 8 0 1M' fixed.vhd
for name in sound fixed; do
	"$PLATTER" convert -f vpc -O raw $name.vhd $name.raw
done
cat >journal.py <<'EOF2'
"""journal.py IMAGE JOURNAL STATE: the image in the midst of a resize, and its journal."""
import random, struct, sys
image, journal, state = sys.argv[1:]
data = bytearray(open(image, 'rb').read())
foot = len(data) - 512
dynamic = data[:8] == b'conectix'
end = bytes(data[foot:])
def total(b):
    return sum(b) & 0xffffffff
def entry(kind, off, body):
    head = struct.pack('>QIIQII', 0xaaaa12344321aaaa, kind, len(body), off, 0, 0x01020304)
    return head[:24] + struct.pack('>I', ~(total(head) + total(body)) & 0xffffffff) + head[28:] + body
entries = [entry(1, foot, end)]
if dynamic:
    at, n = struct.unpack('>QxxxxI', data[528:544])
    table = (n * 4 + 511) // 512 * 512
    entries += [entry(2, 0, bytes(data[:512])), entry(3, 512, bytes(data[512:1536])), entry(5, at, bytes(data[at:at + table]))]
meta = len(entries)
if dynamic: # blocks that were in the way
    first = min(e for e in struct.unpack('>%dI' % n, data[at:at + 4 * n]) if e != 0xffffffff) * 512
    entries += [entry(8, first, bytes(data[first:first + 512])), entry(8, first + 512, bytes(data[first + 512:first + 512 + (2 << 20)]))]
if state == 'finished':
    entries, meta = [], 0
    poisoned = bytearray(data)
else: # half of the way: a larger table over the first block, which has moved to the end
    rnd = random.Random(3)
    poisoned = bytearray(data)
    if dynamic:
        poisoned[at:at + table] = rnd.randbytes(table)
        poisoned[first:first + 4096] = b'\xff' * 4096
        poisoned += data[first:first + (1 << 20)]
id = end[68:84] if state != 'other' else bytes(16)
body = b''.join(entries)
header = b'vjournal' + id + struct.pack('>QIIQQ', foot, len(entries) - meta, meta, 512, 512) + struct.pack('<Q', 512 + len(body))
with open(journal, 'wb') as f:
    f.write(header.ljust(512, b'\0') + (body if state != 'torn' else body[:-1000] + bytes([body[-1000] ^ 1]) + body[-999:]))
if state != 'idle':
    tail = bytearray(b'v_poison' + end[8:64] + bytes(4) + end[68:])
    tail[64:68] = struct.pack('>I', ~total(tail) & 0xffffffff)
    if state == 'no-mark':
        tail = bytes(512)
    poisoned[foot:foot + 512] = tail
    if dynamic and len(poisoned) > foot + 512: # the mark moves with the end
        poisoned[foot:foot + 512] = data[:512]
        poisoned += bytes(tail)
open(image, 'wb').write(poisoned)
EOF2

# reverted NAME STATE JOURNAL: taken back by what lies beside it
reverted() {
	cp $1.vhd d.vhd
	python3 journal.py d.vhd "$3" "$2"
	cp d.vhd before
	"$PLATTER" check -q -f vpc d.vhd >out 2>&1
	isnt $? 0 "$1, $2: check"
	"$PLATTER" io -f vpc -c 'write 0 512' d.vhd >out 2>&1
	is_file_equal d.vhd before '  nothing is written to such an image'
	"$PLATTER" convert --rescue -f vpc -O raw d.vhd got >out 2>&1
	is $? 0 "$1, $2: --rescue"
	is_file_equal got $1.raw '  shows the disk as it was'
	is_file_equal d.vhd before '  and writes nothing'
	"$PLATTER" repair --yes -f vpc d.vhd >out 2>&1
	is $? 0 "$1, $2: repair"
	like "$(cat out)" 'V-JRN' '  says what it was'
	ok '  the disk is what it was' "$PLATTER" compare -q -f vpc -F raw d.vhd $1.raw
	ok '  and sound' "$PLATTER" check -q -f vpc d.vhd
	undone d.vhd before '  taken back'
	rm -f d.vhd* d.journal
}

reverted sound half d.vhd.vjournal
reverted sound half d.journal
reverted sound no-mark d.vhd.jrn
reverted sound finished d.vhd.vjournal
reverted fixed half d.vhd.vjournal

# what says nothing, or cannot be trusted
for state in other torn; do
	cp sound.vhd d.vhd
	python3 journal.py d.vhd d.vhd.vjournal $state
	cp d.vhd before
	"$PLATTER" repair --yes -f vpc d.vhd >out 2>&1
	isnt $? 0 "$state: repair"
	is_file_equal d.vhd before '  writes nothing'
	[ $state = torn ] && like "$(cat out)" 'its checksum is wrong' '  says why'
	rm -f d.vhd*
done
cp sound.vhd d.vhd
python3 journal.py d.vhd d.vhd.vjournal half
rm d.vhd.vjournal
"$PLATTER" convert --rescue --report r.json -f vpc -O raw d.vhd got >out 2>&1
is $? 2 'without its journal: --rescue'
is "$(python3 -c 'import json; print(sum(r["length"] for r in json.load(open("r.json"))["inferred"] +
	json.load(open("r.json"))["lost"]))')" 25165824 '  all of the disk is in doubt'
rm -f d.vhd*

# a journal that has been left beside a sound image is no reason to take anything back
cp sound.vhd d.vhd
python3 journal.py d.vhd d.vhd.vjournal idle
cp sound.vhd d.vhd
"$PLATTER" io -f vpc -c 'write -q -P 9 0 1M' d.vhd
cp d.vhd before
"$PLATTER" repair --yes -f vpc d.vhd >out 2>&1
is $? 0 'a journal beside a sound image'
is_file_equal d.vhd before '  is left alone'
done_testing
