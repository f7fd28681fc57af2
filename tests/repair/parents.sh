#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# The search for a lost backing file.  A guest has written to a disk since a child was made of it; of five candidates (the
# right one, one that was written to since, another child of the right one, another disk, another size), none with the
# name that the child records, and the right one touched last, the right one is first.  Then it is recorded, the child
# shows what it showed, and undo gives the exact bytes back.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires python3 qemu-img mke2fs debugfs mcopy

# Other bytes where the child has none and the disk has some: what a program leaves that writes to the parent.
cat >spoil.py <<'PY'
import random, sys
path, other, child, seed = sys.argv[1:]
rnd = random.Random(int(seed))
d, o, c = (open(p, 'rb').read() for p in (path, other, child))
zero = bytes(4096)
at = [i for i in range(0, len(d), 4096) if d[i:i + 4096] != zero and d[i:i + 4096] == c[i:i + 4096]]
with open(path, 'r+b') as f:
    for i in rnd.sample(at, len(at) // 8):
        f.seek(i)
        f.write(o[i:i + 4096] if o[i:i + 4096] != d[i:i + 4096] else rnd.randbytes(4096))
PY

P=$PLATTER
# What a guest writes that makes OLD into NEW: commands for io.
cat >writes.py <<'PY'
import sys
old, new, pieces = sys.argv[1:]
a, b = (open(p, 'rb').read() for p in (old, new))
n = 0
with open(pieces, 'wb') as f:
    for i in range(0, len(b), 4096):
        if a[i:i + 4096] != b[i:i + 4096]:
            name = '%s.%d' % (pieces, n)
            open(name, 'wb').write(b[i:i + 4096])
            f.write(b'write -q -s %s %d %d\n' % (name.encode(), i, len(b[i:i + 4096])))
            n += 1
PY

# child_of FORMAT PARENT OLD NEW CHILD: PARENT shows OLD, the child NEW
child_of() {
	rm -rf pieces
	mkdir pieces
	python3 writes.py "$3" "$4" pieces/w
	(cd "$(dirname "$5")" && "$P" create -q -f $1 -b "$2" -F $1 "$(basename "$5")")
	"$P" io -f $1 "$5" <pieces/w >/dev/null
}

# first: the name and certainty of the first candidate
first() {
	"$P" chain --output=json --search d child 2>err | python3 -c '
import json, sys
c = json.load(sys.stdin)["candidates"]
print(c[0]["filename"], c[0]["certainty"] if len(sys.argv) > 1 else "", file=sys.stdout)' "$@" | sed 's/ *$//'
}

others=(vfat ntfs:mkntfs xfs:mkfs.xfs)
for fs in ext4 "${others[RANDOM % 3]}"; do
	[[ $fs != *:* ]] || command -v ${fs#*:} >/dev/null || continue
	fs=${fs%:*}
	rm -f ./*.raw ./*.old
	mkdir -p raw
	for seed in 1 2; do
		python3 "$srcdir/tests/fixtures/guest.py" $fs $([ $fs = xfs ] && echo 320 || echo 48) $((seed + RANDOM)) raw/$seed 0 old fill=3 \
			>/dev/null
	done
	cp raw/1.old raw/longer
	truncate -s +8M raw/longer
	for format in qcow2 vpc; do
		o=$([ $format = vpc ] && echo '-o force_size=on')
		rm -rf d child child.platter-undo
		mkdir d
		"$P" convert -f raw -O $format $o raw/1.old d/c3
		child_of $format d/c3 raw/1.old raw/1 child
		cp raw/1.old raw/modified
		if [ $fs = ext4 ]; then # as another guest would
			sleep 1.1
			for command in 'mkdir new' 'write /etc/passwd new/file'; do
				debugfs -w -R "$command" 'raw/modified?offset=1048576' >/dev/null 2>&1
			done
		else
			python3 spoil.py raw/modified raw/2.old raw/1 $RANDOM
		fi
		if [ $format = vpc ]; then # a copy has the same id
			cp d/c3 d/c1
			python3 writes.py raw/1.old raw/modified pieces/m
			"$P" io -f vpc d/c1 <pieces/m >/dev/null
		else
			"$P" convert -f raw -O $format raw/modified d/c1
		fi
		child_of $format c3 raw/1.old raw/modified d/c2
		"$P" convert -f raw -O $format $o raw/2.old d/c4
		"$P" convert -f raw -O $format $o raw/longer d/c5
		touch d/c3
		"$P" rebase -u -f $format -b gone -F $format child
		# (bytes of files, changed by nobody whom the guest knows of, no filesystem tells)
		[ $fs != ext4 ] || is "$(first)" d/c3 "$fs in $format: the right one is first"
		rm d/c1 d/c2
		like "$(first sure)" 'd/c3 (strong|proven)' "$fs in $format: without its likenesses surely"
		cp child before
		"$P" chain repair --dry-run --search d child >out
		is "$? $(grep -c 'is to stand on .d/c3' out)" '0 1' '  a plan'
		is_file_equal child before '  is only shown'
		fails 1 '  without an answer nothing is done' "$P" chain repair --search d child </dev/null
		is_file_equal child before '  nothing'
		ok '  recorded' "$P" chain repair --yes --search d child
		ok '  it shows what it showed' "$P" compare -q -f $format -F raw child raw/1
		ok '  and is sound' "$P" check -q -f $format child
		undone child before '  taken back'
		"$P" chain repair -q --to d/c4 --yes child >out 2>&1
		is $? 0 '  what --to names is recorded, whatever speaks against it'
		if [ $format = qcow2 ]; then
			"$P" chain --search d child >out
			is "$? $(grep -c C-REBASE out)" '2 1' '  the wrong one is known'
		fi
	done
done

# A layer further down; by name alone; what is refused.
mkdir chain
cd chain || exit 99
"$P" create -q -f qcow2 base 1M
"$P" io -f qcow2 -c 'write -P 5 0 1M' base >/dev/null
"$P" create -q -f qcow2 -b base -F qcow2 mid
"$P" create -q -f qcow2 -b mid -F qcow2 top
mkdir away
mv base away/base
fails 2 'the only candidate, by its name' "$P" chain --search away top
"$P" chain repair --yes --search away top >out 2>&1
is "$?" 2 '  is not sure enough'
ok '  unless it is named' "$P" chain repair --yes --to away/base top
like "$("$P" info mid)" "backing file: .*away/base" '  the layer that has lost it records it'
touch -r top mid # (a header that was written later is a layer that was)
ok '  and the chain is sound' "$P" chain top
ok '  taken back' "$P" undo -q mid.platter-undo
fails 2 'nothing that could be it' "$P" chain repair --to top mid
fails 1 'no chain at all' "$P" chain repair away/base
mv away/base .
rmdir away

# A name that was recorded before, and is still in the image: the end of a longer one, a locator that nothing names.
"$P" create -q -f qcow2 first-of-all.img 1M
"$P" create -q -f qcow2 second.img 1M
"$P" create -q -f qcow2 -b first-of-all.img -F qcow2 over
python3 -c '
import struct
with open("over", "r+b") as f:
    at = struct.unpack(">Q", f.read(16)[8:])[0]
    f.seek(16)
    f.write(struct.pack(">I", 3))
    f.seek(at)
    f.write(b"new")'
like "$("$P" chain --search . over)" "1. ./first-of-all.img .*" 'the end of a longer name is behind the recorded one'
is "$("$P" chain --search . over | grep -c 'its name is still in the image')" 1 '  of that one'
"$P" create -q -f vpc one.vhd 8M
"$P" create -q -f vpc two.vhd 8M
"$P" create -q -f vpc -b one.vhd -F vpc over.vhd
"$P" rebase -q -u -b two.vhd -F vpc over.vhd
like "$("$P" chain --search . over.vhd | grep -A1 one.vhd)" 'its name is still in the image' 'a locator of VHD that was given up'
# Where all of the header's cluster is such an end, each candidate is still held against it at once.
mkdir one-name
"$P" create -q -f qcow2 -u -b a -F raw one-name/over 1M
python3 -c '
import struct
with open("one-name/over", "r+b") as f:
    at, n = struct.unpack(">QI", f.read(20)[8:])
    f.seek(at + n)
    f.write(b"a" * (65536 - at - n))'
for i in {1..20}; do truncate -s 1M one-name/x$i-abc.raw; done
prlimit --cpu=4 "$P" chain --search one-name one-name/over >out 2>&1
is $? 2 'a header that is one long name: it is looked at in time'
touch -r top mid
"$P" chain repair top >out
is "$? $(grep -c 'nothing to repair' out)" '0 1' 'a sound chain needs none'
done_testing
