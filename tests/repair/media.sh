#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Copies of media that did not read everywhere, with ddrescue's map of them: what was not read is lost, by name, and
# nothing else is; what a table would have said that was not read comes back by evidence, or is lost; nothing is silent.
# The map gets what turns out to be bad on top of it.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
requires python3 qemu-img qemu-io jq mke2fs debugfs dumpe2fs

python3 -B "$srcdir/tests/fixtures/guest.py" ext4 64 "${PLT_SEED:-7}" g.raw >/dev/null || skip_all 'no filesystem can be made'
qemu-img convert -f raw -O qcow2 g.raw g.qcow2
qemu-img convert -f raw -O vpc -o subformat=dynamic,force_size g.raw g.vpc
qemu-img convert -f raw -O vpc -o subformat=fixed,force_size g.raw f.vpc
cp g.raw g.raw.raw

map() { # OFFSET LENGTH...: all but these was read
	python3 - "$@" <<'EOF2'
import sys
v, at = [int(x) for x in sys.argv[1:]], 0
print('# Mapfile. Created by GNU ddrescue version 1.27\n0x0     +               1')
for off, n in zip(v[::2], v[1::2]):
    print('0x%08X  0x%08X  +\n0x%08X  0x%08X  %s' % (at, off - at, off, n, '?' if n > 65536 else '-'))
    at = off + n
print('0x%08X  0x%08X  +' % (at, 1 << 30))
EOF2
}

# What of the result is wrong, and in no list; and what is lost though it is right.  Blocks.
judge() {
	python3 - "$1" <<'EOF2'
import json, sys
a, b = open('g.raw', 'rb').read(), open(sys.argv[1], 'rb').read()
r = json.load(open('report'))
named = [(x['start'], x['start'] + x['length']) for x in r['lost'] + r['inferred']]
bad = [i for i in range(0, len(a), 512) if a[i:i + 512] != b[i:i + 512]]
print(sum(not any(s < i + 512 and e > i for s, e in named) for i in bad), len(bad))
EOF2
}

# shown FILE FORMAT WHAT WRONG: at most WRONG sectors are wrong, all of them named
shown() {
	local r

	cp "$1" before
	"$PLATTER" convert --rescue --map map --report report -f "$2" -O raw "$1" out.raw 2>err
	status=$?
	[ $status = 0 ] || [ $status = 2 ] || diag "$(cat err)"
	r=$(judge out.raw)
	is "${r% *}" 0 "$3: nothing is silently wrong"
	[ "${r#* }" -le "$4" ]
	ok "  ${r#* } sectors are lost" test "${r#* }" -le "$4"
	is_file_equal "$1" before '  the copy is only read'
}

cp g.raw disk.raw
dd if=/dev/zero of=disk.raw bs=512 seek=20000 count=1 conv=notrunc status=none
dd if=/dev/zero of=disk.raw bs=512 seek=24000 count=512 conv=notrunc status=none
map $((20000 * 512)) 512 $((24000 * 512)) $((512 * 512)) >map
shown disk.raw raw 'a raw disk' 513
is $status 2 '  the exit status'
is "$(jq -c '[.lost[] | [.start, .length]]' report)" "[[$((20000 * 512)),512],[$((24000 * 512)),262144]]" \
	'  just that is lost'
is "$(jq -r '.lost[0].reason' report)" 'it cannot be read from the medium' '  and why'
fails 1 '  with --strict' "$PLATTER" convert --rescue --strict --map map -f raw -O raw disk.raw strict.raw
"$PLATTER" map --rescue --map map --output=json -f raw disk.raw >json 2>/dev/null
like "$(tr -d '\n' <json)" "\"start\": $((20000 * 512)), \"length\": 512, \"depth\": 0, [^}]*\"lost\": true" '  map tells it' ||
	diag "$(grep -n $((20000 * 512)) json)"
map 512 512 >map
shown g.raw raw 'the partition table' 0

# Tables.
for what in 0x0:512 0x10000:512 0x20000:65536 0x30000:512 0x40000:4096; do
	map $((${what%:*})) "${what#*:}" >map
	shown g.qcow2 qcow2 "qcow2 at $what" 1200
done
for what in 0x0:512 0x200:1024 0x600:512 0x800:512; do
	map $((${what%:*})) "${what#*:}" >map
	shown g.vpc vpc "vpc at $what" 40
done
map $(($(stat -c %s f.vpc) - 512)) 512 >map
shown f.vpc vpc 'the footer of a fixed vpc' 0

# A table of a snapshot, of which nothing else tells.
qemu-img create -q -f qcow2 s.qcow2 8M
qemu-io -c 'write -q -P 1 0 1M' s.qcow2 >/dev/null
qemu-img snapshot -c a s.qcow2
qemu-io -c 'write -q -P 2 0 4M' s.qcow2 >/dev/null
map "$(python3 -c "
import struct
b = open('s.qcow2', 'rb').read()
table = struct.unpack('>Q', b[64:72])[0]
l1 = struct.unpack('>Q', b[table:table + 8])[0]
print(struct.unpack('>Q', b[l1:l1 + 8])[0] & 0xfffffffffffe00)")" 512 >map
"$PLATTER" convert --rescue --map map --report report -f qcow2 -l a -O raw s.qcow2 out.raw 2>err
is $? 2 'the table of a snapshot'
is "$(jq -r '.lost[0] | "\(.start) \(.reason)"' report)" '0 the table that says what is here cannot be read from the medium' \
	'  what it would have said is lost'

# A map knows what its medium does not read; the medium may know of more.
bad() { echo "driver=raw,file.driver=blkdebug,file.image.driver=file,file.image.filename=$1,file.inject-error.0.event=none,file.inject-error.0.iotype=read,file.inject-error.0.sector=$2"; }
map $((20000 * 512)) 512 >map
"$PLATTER" convert --rescue --map map --report report --image-opts -O raw "$(bad g.raw 30000)" out.raw 2>err
is $? 2 'a medium that does not read, either'
is "$(jq -c '[.lost[] | [.start, .length]]' report)" "[[$((20000 * 512)),512],[$((30000 * 512)),512]]" '  both are lost'
like "$(cat map)" "0x00EA6000  0x00000200  -" '  and both in the map now'
like "$(cat map)" "0x009C4000  0x00000200  -" '  the old one too'
if command -v ddrescuelog >/dev/null; then
	ok '  which ddrescue reads' ddrescuelog -t map
else
	skip '  which ddrescue reads' 'no ddrescuelog'
fi
"$PLATTER" convert --rescue --report report --image-opts -O raw \
	"$(bad g.qcow2 512 | sed 's/^driver=raw/driver=qcow2/')" out.raw 2>err
is $? 2 'a table that does not read, and no map'
r=$(judge out.raw)
is "${r% *}" 0 '  nothing is silently wrong'

# What is no map is not followed.
rm -f none
like "$("$PLATTER" convert --rescue --map none -f raw -O raw g.raw o.raw 2>&1)" 'none: No such file or directory' 'no map'
printf '0x0 +\n0x1000 0x1000 +\n0x800 0x100 -\n' >map
like "$("$PLATTER" convert --rescue --map map -f raw -O raw g.raw o.raw 2>&1)" \
	"line 3 begins at 0x800, within what the line before it speaks of" 'a map that is not in order'
printf '0x0 +\n0x0 0x1000 +\0\n0x1000 0x1000 -\n' >map
like "$("$PLATTER" convert --rescue --map map -f raw -O raw g.raw o.raw 2>&1)" 'line 2 is too long for a map, or no text' \
	'a map with a zero in a line, which would hide the next'
printf '# a\0\n0x0 +\n0x0 0x1000 +\n' >map
like "$("$PLATTER" convert --rescue --map map -f raw -O raw g.raw o.raw 2>&1)" 'line 1 is too long for a map, or no text' \
	'  or in a comment'
printf '0x0 +\n0x0 0x1000 +\n0x1000%300s0x1000 -\n' '' >map
like "$("$PLATTER" convert --rescue --map map -f raw -O raw g.raw o.raw 2>&1)" 'line 3 is too long for a map' \
	'a line of a map that is longer than any is'
like "$("$PLATTER" convert --map map -f raw -O raw g.raw o.raw 2>&1)" 'map is said of a disk that is opened with --rescue' \
	'a map without --rescue'
ok '  nothing was written' test ! -e o.raw
done_testing
