#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# A differencing VHD over its parent, with a real filesystem: lost tables, headers, bitmaps and the parent's identity come
# back by what the parent has, and what the disk then shows is what it was.  A disk that is not the parent is not taken
# for it, whatever its name.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
requires python3 mke2fs debugfs dumpe2fs qemu-img qemu-io

seed=${PLT_SEED:-7}
export PLATTER
python3 -B "$srcdir/tests/fixtures/guest.py" ext4 32 "$seed" g.raw 0 old fill=12 >/dev/null || skip_all 'no filesystem can be made'
ok 'a child is made' python3 -B "$srcdir/tests/fixtures/image.py" v-child g.raw "$seed" child.img
size=$(stat -c %s g.raw)

# damaged CLASS: whole again, by --rescue and in place, and undone
damaged() {
	local class=$1

	cp --sparse=always child.img d.img
	python3 -B "$srcdir/tests/fixtures/damage.py" "$class" d.img "$seed" >said || { diag "$(cat said)"; return; }
	cp --sparse=always d.img before
	"$PLATTER" convert --rescue --report r.json -f vpc -O raw d.img out.raw >out 2>&1
	is $? 2 "$class: --rescue says that it is not proven"
	is_file_equal out.raw g.raw "$class: --rescue shows the disk"
	is_file_equal d.img before "$class: and has written nothing"
	"$PLATTER" repair -q --yes -f vpc d.img >out 2>&1
	ok "$class: repaired, the disk is what it was" "$PLATTER" compare -q -f vpc -F raw d.img g.raw
	"$PLATTER" check -q -f vpc d.img >out 2>&1
	is $? 0 "$class: check finds nothing any more"
	undone d.img before "$class: undo"
	rm -f d.img*
}

for class in V-BAT-1 V-BAT-2 V-BAT-3 V-BAT-5 V-BAT-8 V-HDR-2 V-BMP-3 V-PARENT; do
	damaged $class
done

# A medium on which the table does not read: what the parent says of it is not called lost again for that.
printf '0x0 ? 1\n0x0 0x600 +\n0x600 0x200 -\n0x800 %#x +\n' $(($(stat -c %s child.img) - 2048)) >map
"$PLATTER" convert --rescue --map map --report r.json -f vpc -O raw child.img out.raw >out 2>&1
is $? 2 'a table that does not read: --rescue says that it is not proven'
is_file_equal out.raw g.raw 'a table that does not read: --rescue shows the disk'
is "$(python3 -c 'import json; print(json.load(open("r.json"))["lost"])')" '[]' 'a table that does not read: nothing is lost'

# A block with nothing in common with what lies below it, the last in the file: it holds a directory, which names its owner.
cp --sparse=always g.raw new.raw
debugfs -w -R 'mkdir another' 'new.raw?offset=1048576' >out 2>&1
at=$((1048576 + 4096 * $(debugfs -R 'blocks /' 'g.raw?offset=1048576' 2>/dev/null)))
dd if=new.raw of=page bs=4096 skip=$((at / 4096)) count=1 status=none
"$PLATTER" create -q -f vpc -b g.raw -F raw d.img
"$PLATTER" io -f vpc -c 'write -P 7 20M 4k' -c "write -s page $at 4k" d.img >/dev/null
"$PLATTER" convert -f vpc -O raw d.img sound.raw
table=$((16#$(od -An -tx1 -j 528 -N 8 d.img | tr -d ' \n')))
printf '\377\377\377\377' | dd of=d.img bs=1 seek=$((table + at / 2097152 * 4)) conv=notrunc status=none
"$PLATTER" convert --rescue -f vpc -O raw d.img out.raw >out 2>&1
is_file_equal out.raw sound.raw 'a cleared entry: what its block says of itself is held against the disk with all that lies below'
ok '  repaired' "$PLATTER" repair -q --yes -f vpc d.img
"$PLATTER" convert -f vpc -O raw d.img out.raw
is_file_equal out.raw sound.raw '  to the same'
rm -f d.img* ./sound.raw new.raw page

# Blocks that were cut off with the end of the file: which sectors were the child's nobody knows; the parent's are a guess.
cp --sparse=always child.img d.img
python3 -B "$srcdir/tests/fixtures/damage.py" V-TRUNC-4 d.img "$seed" >said
"$PLATTER" convert --rescue --report r.json -f vpc -O raw d.img out.raw >out 2>&1
is $? 2 'cut in half: --rescue says so'
"$PLATTER" convert -f vpc -O raw child.img.base base.raw
is "$(python3 - <<'PY'
import json
r = json.load(open('r.json'))
g, out, base = (open(n, 'rb').read() for n in ('g.raw', 'out.raw', 'base.raw'))
said = bytearray(len(g))
below = [d for d in r['inferred'] if d['certainty'] == 'guess' and 'parent' in d['reason']]
for d in r['lost'] + r['inferred']:
    said[d['start']:d['start'] + d['length']] = b'\1' * d['length']
silent = sum(g[i:i + 512] != out[i:i + 512] and not said[i] for i in range(0, len(g), 512))
same = all(out[d['start']:d['start'] + d['length']] == base[d['start']:d['start'] + d['length']] for d in below)
print(silent, same, sum(d['length'] for d in below) > 0)
PY
)" '0 True True' "cut in half: shown is what the parent has, and it is listed"
rm -f d.img* base.raw

# The parent's id is wrong by as much as a block of another length would make up for: the sum of bytes says nothing against it.
for more in 30 31; do
	cp --sparse=always child.img d.img
	python3 - $more <<'PY'
import struct, sys
more = int(sys.argv[1])
with open('d.img', 'r+b') as f:
    f.seek(16)
    at = struct.unpack('>Q', f.read(8))[0] + 40
    f.seek(at)
    v = bytearray(f.read(16))
    for i in range(16):
        n = min(more, 255 - v[i])
        v[i] += n
        more -= n
    f.seek(at)
    f.write(v)
PY
	"$PLATTER" convert -q --rescue -f vpc -O raw d.img out.raw 2>/dev/null
	ok "the parent's id is wrong, and the sum is a longer block's ($more): --rescue shows the disk" cmp -n "$size" out.raw g.raw
done
rm -f d.img

# a parent by name that is another disk: of the same size with another guest, and of another size
python3 -B "$srcdir/tests/fixtures/guest.py" ext4 32 99 other.raw 0 fill=12 >/dev/null
mkdir away
for other in same larger; do
	cp --sparse=always child.img d.img
	[ $other = same ] && cp --sparse=always other.raw o.raw
	[ $other = larger ] && { cp --sparse=always g.raw o.raw; truncate -s $((size + 4194304)) o.raw; }
	mv child.img.base away/right.base
	qemu-img convert -f raw -O vpc -o force_size=on o.raw child.img.base
	"$PLATTER" repair --yes -f vpc d.img >out 2>&1
	ok "$other: another disk is not taken for the parent" cmp d.img child.img
	"$PLATTER" convert --rescue --report r.json -f vpc -O raw d.img out.raw >out 2>&1
	is $? 2 "$other: --rescue names what is not there"
	is "$(python3 -c 'import json; print(sum(r["length"] for r in json.load(open("r.json"))["lost"]) > 0)')" True \
		"$other: what lies in the parent is lost"
	mv away/right.base right.base
	"$PLATTER" convert --rescue --report r.json -f vpc -O raw d.img out.raw >out 2>&1
	is_file_equal out.raw g.raw "$other: the right one beside is known by its id, whatever its name"
	like "$(cat r.json)" "right.base' is taken for it [(]proven[)]" '  that is said'
	mv right.base child.img.base
	rm -f d.img*
done
done_testing
