#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Undo journals in the places where they come to lie: nobody reads one who could not read the image, it is found by
# whatever name the image is opened, names need not be UTF-8, a volume without room costs nothing, what an
# interrupted repair has lost is said when it is finished, and what is no journal of the image changes nothing.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io python3

# state JOURNAL N: as it is in that state (2: complete)
state() {
	PYTHONPATH=$srcdir/tests/repair python3 -B -c 'import sys, cuts
j = open(sys.argv[1], "r+b"); b = j.read(); j.seek(0); j.write(cuts.in_state(b, int(sys.argv[2])))' "$1" "$2"
}
# described JOURNAL PYTHON: change the description d, or the records r (bytes), and put the sums right
described() {
	PYTHONPATH=$srcdir/tests/repair python3 -B -c 'import sys, json, struct, cuts
b = bytearray(open(sys.argv[1], "rb").read())
at, n, rat, rn = struct.unpack_from("<4Q", b, 32)
d, r = json.loads(b[at:at + n]), b[rat:rat + rn]
count = struct.unpack_from("<I", b, 64)[0]
exec(sys.argv[2])
t = json.dumps(d).encode()
struct.pack_into("<4Q2I", b, 32, 512 + len(r), len(t), 512, len(r), count, cuts.crc32c(t))
b[508:512] = struct.pack("<I", cuts.crc32c(b[:508]))
open(sys.argv[1], "wb").write(b[:512] + r + t)' "$1" "$2"
}
mode() {
	stat -c %a "$1"
}

# Of version 2, which no mark keeps other programs from; an L2 entry leads behind the end.
qemu-img create -q -f qcow2 -o compat=0.10,cluster_size=4k sound.qcow2 8M
qemu-io -c 'write -q -P 1 0 1M' -c 'write -q -P 2 4M 1M' sound.qcow2
l1=$((16#$(od -An -tx1 -j 40 -N 8 sound.qcow2 | tr -d ' \n')))
l2=$((16#$(od -An -tx1 -j "$l1" -N 8 sound.qcow2 | tr -d ' \n') & 0xfffffffffffe00))
cp sound.qcow2 damaged.qcow2
printf '\x80\0\0\0\x10\0\0\0' | dd of=damaged.qcow2 bs=1 seek="$l2" conv=notrunc status=none

for m in 600 640 664 444; do
	cp damaged.qcow2 d.qcow2
	chmod $m d.qcow2
	"$PLATTER" repair -q --yes --output n.qcow2 d.qcow2 2>err
	"$PLATTER" repair -q --yes d.qcow2 2>err
	w=$m
	[ $m != 444 ] || w=644 # (as root: others could not have repaired it)
	[ -e d.qcow2.platter-undo ] || { [ $m = 444 ] && [ "$(id -u)" != 0 ]; }
	is $? 0 "mode $m: it is repaired"
	[ ! -e d.qcow2.platter-undo ] || is "$(mode d.qcow2.platter-undo)" $w 'the journal has the mode of the image'
	is "$(mode n.qcow2)" $w 'the repaired copy, too'
	rm -f d.qcow2* n.qcow2
done
if [ "$(id -u)" = 0 ]; then
	cp damaged.qcow2 d.qcow2
	chown 1:2 d.qcow2
	chmod 660 d.qcow2
	"$PLATTER" repair -q --yes d.qcow2 2>err
	is "$(stat -c %u:%g:%a d.qcow2.platter-undo)" 1:2:660 'and the owner of the image'
	rm -f d.qcow2*
else
	skip 'only root gives files away'
fi

# By another name.
mkdir links
cp damaged.qcow2 d.qcow2
ln -s ../d.qcow2 links/l
"$PLATTER" repair -q --yes links/l 2>err
is "$(cd links && echo l*)$(echo d.qcow2*)" 'ld.qcow2 d.qcow2.platter-undo' 'the journal is beside the file, not beside a link to it'
state d.qcow2.platter-undo 2
for name in d.qcow2 links/l; do
	fails 1 "unfinished: '$name' is not written" "$PLATTER" io -f qcow2 -c 'write -q 2M 4k' $name
	like "$("$PLATTER" io -f qcow2 -c 'write 2M 4k' $name 2>&1)" 'repair .* was interrupted' 'and it is said why'
done
like "$("$PLATTER" map d.qcow2 2>&1)" "a repair of 'd.qcow2' was interrupted, and what is read" 'who reads it is told'
fails 0 'and may' "$PLATTER" map d.qcow2
mv d.qcow2 other.qcow2
"$PLATTER" create -q -f qcow2 d.qcow2 1M
for command in 'repair --yes' 'check -r all'; do
	# shellcheck disable=SC2086 # a command and its options
	like "$("$PLATTER" $command d.qcow2 2>&1)" "not what the repair left.*; if .* remove the journal 'd.qcow2.platter-undo'" \
		"another image of that name, $command: the way out is said"
done
mv other.qcow2 d.qcow2
ln -s ../d.qcow2.platter-undo links/j
ok 'undo by a link to the journal' "$PLATTER" undo -q links/j
is_file_equal d.qcow2 damaged.qcow2 'the very bytes'
is "$(echo d.qcow2*)" d.qcow2 'the journal is gone'
ln -s d.qcow2.elsewhere d.qcow2.platter-undo
: >d.qcow2.elsewhere
fails 1 'a link where the journal would be' "$PLATTER" repair -q --yes d.qcow2
is "$(stat -c %s d.qcow2.elsewhere)" 0 'is not written through'
rm -f d.qcow2*
name=$(printf 'd\351\n .qcow2')
cp damaged.qcow2 "$name"
"$PLATTER" repair -q --yes "$name" 2>err
is $? 2 'a name that is not UTF-8'
undone "$name" damaged.qcow2 'undo'
rm -f "$name"

# One that is too long for a journal beside it.
name=$(printf 'x%.0s' $(seq 250))
cp damaged.qcow2 "$name"
like "$("$PLATTER" repair -q --yes "$name" 2>&1)" 'no place for an undo journal beside the image [(]--undo-file names' 'a name too long for a journal beside it'
"$PLATTER" repair -q --yes --undo-file j "$name" 2>err
is $? 2 'another place is named'
mv "$name" moved
"$PLATTER" io -f qcow2 -c 'write -q 4M 4k' moved
printf junk | dd of=moved bs=1 seek="$l1" conv=notrunc status=none
like "$("$PLATTER" undo j moved 2>&1)" "'moved' is not what the repair left" 'undo says of which file'
rm -f moved j

# What the interrupted one has lost.
cp damaged.qcow2 d.qcow2
"$PLATTER" repair -q --yes d.qcow2 2>err
is $? 2 'something is lost'
state d.qcow2.platter-undo 2
"$PLATTER" repair --yes d.qcow2 >log 2>err
is $? 2 'when it is finished that is not forgotten'
like "$(cat err)" 'left 4096 bytes lost' 'and is said'
state d.qcow2.platter-undo 2
"$PLATTER" check -q -r all d.qcow2 2>err
is $? 2 'by check -r neither'
ok 'undo' "$PLATTER" undo -q d.qcow2.platter-undo

# One beside it is finished before another, which is named, is begun.
"$PLATTER" repair -q --yes d.qcow2 2>err
state d.qcow2.platter-undo 2
"$PLATTER" repair --yes --undo-file other d.qcow2 >log 2>err
like "$(cat err)" 'interrupted has been finished' 'the one beside it counts, whatever is named'
undone d.qcow2 damaged.qcow2 'undo'
for report in nowhere/r .; do
	fails 1 "no place for the report '$report'" "$PLATTER" repair --yes --report $report d.qcow2
	is_file_equal d.qcow2 damaged.qcow2 'and nothing is changed'
done
fails 1 'a copy has no journal' "$PLATTER" repair --yes --output n --undo-file u d.qcow2
is "$(echo [nu])" '[nu]' 'nothing is made'
fails 0 'of a sound image' "$PLATTER" repair --output n sound.qcow2
is_file_equal n sound.qcow2 'there is a copy, too'
fails 1 'which is not written over' "$PLATTER" repair --output n sound.qcow2
rm n

# What is no journal of this image.
"$PLATTER" repair -q --yes d.qcow2 2>err
cp d.qcow2 repaired
cp d.qcow2.platter-undo journal
size=$(stat -c %s d.qcow2)
# refused TEXT PYTHON WHAT
refused() {
	cp journal d.qcow2.platter-undo
	described d.qcow2.platter-undo "$2"
	fails 1 "$3" "$PLATTER" undo -q d.qcow2.platter-undo
	like "$("$PLATTER" undo d.qcow2.platter-undo 2>&1)" "$1" 'and it is said why'
	is_file_equal d.qcow2 repaired 'nothing has changed'
}
refused 'not as many records' 'count += 1' 'a record less than it says'
refused 'bytes at .* that are not from it' 'd["stores"][0]["size-before"] = 0; r = b""; count = 0' 'a length that no record proves'
refused 'goes back' 'r = r + r; count *= 2' 'records that overlap'
refused 'a change of length' "d['stores'][0]['size-before'] = d['stores'][0]['size-after'] = 1000" 'a shorter image'
refused 'a change of length' "d['stores'][0]['size-before'] = d['stores'][0]['size-after'] = $size + 1" 'a longer image'
refused 'stores' 'd["stores"] = []' 'no image'
for n in 0 100 511 600 $(($(stat -c %s journal) - 1)); do
	head -c "$n" journal >d.qcow2.platter-undo
	"$PLATTER" undo -q d.qcow2.platter-undo 2>err
	is $? 1 "cut off after $n bytes: refused"
	is_file_equal d.qcow2 repaired 'nothing has changed'
	[ "$n" != 0 ] || like "$(cat err)" 'before it changed anything' 'and what it is'
done

# No room: what is written lies in a hole, and what grows lies behind the end.
cat >full.sh <<'EOF'
mount -t tmpfs -o size=600k none full || exit 77
cp sparse.qcow2 full/d.qcow2
dd if=/dev/zero of=full/rest bs=4k 2>/dev/null
"$PLATTER" repair -q --yes --undo-file journal full/d.qcow2 2>err
echo "$?" >status
cmp full/d.qcow2 sparse.qcow2 || echo 'it has changed' >>status
"$PLATTER" repair -q --yes full/d.qcow2 2>>err
echo "$?" >>status
cmp full/d.qcow2 sparse.qcow2 || echo 'it has changed' >>status
(cd full && ls) >>status
rm full/rest
"$PLATTER" repair -q --yes full/d.qcow2 2>>err
echo "$?" >>status
EOF
mkdir full
rm -f journal
qemu-img create -q -f qcow2 -o compat=0.10,cluster_size=64k sparse.qcow2 8M
qemu-io -c 'write -q -P 1 0 100k' sparse.qcow2
qemu-img snapshot -c s sparse.qcow2
l1=$((16#$(od -An -tx1 -j 40 -N 8 sparse.qcow2 | tr -d ' \n')))
fallocate -p -o "$l1" -l 65536 sparse.qcow2
export PLATTER
unshare -rm bash full.sh >log 2>&1
case $? in
0)
	is "$(tr '\n' ' ' <status)" '1 1 d.qcow2 rest 0 ' 'no room in a hole: refused, nothing has changed; with room it is repaired'
	like "$(cat err)" 'no room for what the repair writes' 'and it is said why'
	is "$(echo journal*)" 'journal*' 'no journal is left'
	;;
*) skip 'no volume of its own can be mounted here' ;;
esac

done_testing
