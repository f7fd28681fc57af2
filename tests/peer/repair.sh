#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# check -r, repair and undo on images that qemu-img has made and that were damaged: afterwards qemu-img finds
# nothing and the disk is what it was; what may be lost data is not given free; undo gives the very bytes
# back; nothing is left that was not asked for, and a damaged image is never made worse.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io

# u64 FILE OFFSET
u64() {
	echo $((16#$(od -An -tx1 -j "$2" -N 8 "$1" | tr -d ' \n')))
}
# junk FILE OFFSET LENGTH
junk() {
	yes 'junk' | dd of="$1" bs=512 seek=$(($2 / 512)) count=$(($3 / 512)) iflag=fullblock conv=notrunc status=none
}

mask=$((0x00fffffffffffe00))

# The image that is damaged: 64 KiB clusters, an L2 table of zeros among them, data in three runs.
qemu-img create -q -f qcow2 sound.qcow2 600M
qemu-io -c 'write -q -P 1 0 8M' -c 'write -q -P 2 20M 3M' -c 'write -q -P 3 530M 2M' sound.qcow2
l1=$(u64 sound.qcow2 40)
reftable=$(u64 sound.qcow2 48)
refblock=$(u64 sound.qcow2 "$reftable")
l2=$(($(u64 sound.qcow2 "$l1") & mask))
data=$(($(u64 sound.qcow2 $((l2 + 80))) & mask))

# right DESCRIPTION COMMAND...: nothing wrong is left; what rests on less than proof is said.
right() {
	local text=$1

	shift
	"$@" >out 2>&1
	is "$(settled $? out)" 0 "$text"
}

# repaired NAME: check -r all, and what the peers say of it.
repaired() {
	cp d.qcow2 before
	"$PLATTER" check -r all d.qcow2 >out 2>&1
	is $? 0 "$1: check -r all"
	ok "$1: qemu-img finds nothing" qemu-img check -q d.qcow2
	ok "$1: the disk is what it was" qemu-img compare -q d.qcow2 sound.qcow2
	! grep -q 'rest on less than proof' out || rm d.qcow2.platter-undo # (then it is kept)
	is "$(echo d.qcow2*)" d.qcow2 "$1: no journal is left"
	cp before d.qcow2
	right "$1: repair" "$PLATTER" repair -q --yes d.qcow2
	ok "$1: qemu-img finds nothing" qemu-img check -q d.qcow2
	undone d.qcow2 before "$1: undo"
	is "$(echo d.qcow2*)" d.qcow2 "$1: the journal is gone"
	right "$1: a repaired copy" "$PLATTER" repair -q --yes --output copy.qcow2 d.qcow2
	ok "$1: qemu-img finds nothing in it" qemu-img check -q copy.qcow2
	is_file_equal d.qcow2 before "$1: the image itself is untouched"
	rm -f copy.qcow2
}

cp sound.qcow2 d.qcow2
poke d.qcow2 $((refblock + 20)) '\0\3\0\0\0\5'
poke d.qcow2 $((refblock + 2 * 900)) '\0\1'
repaired 'counts too high and too low'

cp sound.qcow2 d.qcow2
zero d.qcow2 "$reftable" 65536
repaired 'the refcount table is zero'

cp sound.qcow2 d.qcow2
junk d.qcow2 "$reftable" 65536
repaired 'the refcount table is garbage'

cp sound.qcow2 d.qcow2
zero d.qcow2 "$refblock" 65536
repaired 'a refcount block is zero'

cp sound.qcow2 d.qcow2
poke d.qcow2 "$reftable" "$(printf '%016x' "$data" | sed 's/../\\x&/g')"
repaired 'a refcount block lies on data'

cp sound.qcow2 d.qcow2
poke d.qcow2 48 '\0\0\0\0\0\0\0\0'
repaired 'the header has a wrong refcount table'

cp sound.qcow2 d.qcow2
poke d.qcow2 "$l2" '\0'
poke d.qcow2 $((l2 + 8)) '\0'
poke d.qcow2 "$l1" '\0'
repaired 'COPIED is missing'

cp sound.qcow2 d.qcow2
poke d.qcow2 79 '\3'
poke d.qcow2 $((refblock + 2 * 900)) '\0\1'
repaired 'marked as dirty and corrupt'

cp sound.qcow2 d.qcow2
poke d.qcow2 "$l1" '\0\0\0\0\0\0\0\0'
repaired 'an L1 entry is zero'

cp sound.qcow2 d.qcow2
poke d.qcow2 "$l1" 'garbage!'
repaired 'an L1 entry is garbage'

cp sound.qcow2 sound2.qcow2

# Snapshots know where tables belong.
qemu-img create -q -f qcow2 -o cluster_size=4k sound.qcow2 40M
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
	qemu-io -c "write -q -P $i $((i * 2300))k 1900k" sound.qcow2
done
qemu-img snapshot -c one sound.qcow2
for i in 2 5 11; do
	qemu-io -c "write -q -P 99 $((i * 2300 + 160))k 300k" sound.qcow2
done
l1=$(u64 sound.qcow2 40)
cp sound.qcow2 d.qcow2
zero d.qcow2 "$l1" 512
repaired 'the L1 table is zero, with a snapshot'

cp sound2.qcow2 sound.qcow2
l1=$(u64 sound.qcow2 40)

# What may be lost data.  kept NAME STATUS...: nothing is given free, nothing of the disk changes.
kept() {
	local name=$1 leaks
	shift
	cp d.qcow2 before
	leaks=$(qemu-img check --output=json d.qcow2 2>/dev/null | jq '.leaks // 0')
	for how in leaks all; do
		"$PLATTER" check -r $how d.qcow2 >out 2>&1
		status=$?
		is "$(for s; do [ "$s" = $status ] && echo yes; done)" yes "$name: check -r $how says so"
		is "$(qemu-img check --output=json d.qcow2 2>/dev/null | jq '.leaks // 0')" "$leaks" "$name: all counts stay"
		is "$(qemu-io -f raw -c "read -vP 0 $data 64k" d.qcow2 2>&1 | grep -c 'Pattern verification failed')" 1 \
			"$name: the data is there"
		cp before d.qcow2
	done
}

cp sound.qcow2 d.qcow2
zero d.qcow2 "$l1" 512
kept 'the L1 table is zero' 2 3
cp sound.qcow2 d.qcow2
zero d.qcow2 "$l2" 65536
kept 'an L2 table is zero' 2 3
cp sound.qcow2 d.qcow2
zero d.qcow2 "$l2" 512
kept 'a sector of an L2 table is zero' 2 3
cp sound.qcow2 d.qcow2
junk d.qcow2 "$l2" 65536
"$PLATTER" check -r all d.qcow2 >out 2>&1
like $? '^[23]$' 'an L2 table is garbage: check -r all'

# Counts that stay too high, for orphans are nobody's to free, do not keep COPIED from being taken away.
qemu-img create -q -f qcow2 -o cluster_size=4k d.qcow2 100M
qemu-io -c 'write -q -P 4 0 40M' d.qcow2
qemu-img snapshot -c one d.qcow2
zero d.qcow2 $(($(u64 d.qcow2 "$(u64 d.qcow2 40)") & mask)) 4096
third=$(u64 d.qcow2 $(($(u64 d.qcow2 40) + 16)))
poke d.qcow2 $(($(u64 d.qcow2 40) + 16)) '\200'
poke d.qcow2 $(($(u64 d.qcow2 "$(u64 d.qcow2 48)") + third / 4096 * 2)) '\0\3'
"$PLATTER" check -r all d.qcow2 >out 2>&1
is $? 2 'a table with a count and COPIED that are wrong, beside one that is lost'
is "$(qemu-img check d.qcow2 2>&1 | grep -c ERROR)" 0 '  COPIED is right afterwards'

# A large image whose map is lost says so in plain words.
qemu-img create -q -f qcow2 -o cluster_size=4k big.qcow2 200M
qemu-io -c 'write -q -P 4 0 80M' big.qcow2
zero big.qcow2 $(($(u64 big.qcow2 $(($(u64 big.qcow2 40) + 16))) & mask)) 4096
"$PLATTER" check big.qcow2 >out 2>&1
is $? 2 'a table of many is lost: check'
ok '  in words' grep -q 'part of the map is lost' out
"$PLATTER" check -r leaks big.qcow2 >/dev/null 2>&1
is $? 2 '  and -r leaks frees nothing'

# ---- a program that was stopped ----------------------------------------------------------------

qemu-img create -q -f qcow2 stopped.qcow2 1G
qemu-io -c 'write -q -P 1 0 40M' stopped.qcow2
bash -c "qemu-io -t writeback -c 'write -q -P 5 100M 30M' -c abort stopped.qcow2" >/dev/null 2>&1
ok 'what a killed qemu-io leaves' "$PLATTER" check -q -r all stopped.qcow2
ok '  and qemu-img finds nothing' qemu-img check -q stopped.qcow2

# ---- places for journals ------------------------------------------------------------------------

rm -f d.qcow2.platter-undo* # (of what was lost above they are kept)
cp sound.qcow2 d.qcow2
poke d.qcow2 $((refblock + 20)) '\0\3\0\0\0\5'
cp d.qcow2 before
ok 'repair --undo-file' "$PLATTER" repair -q --yes --undo-file elsewhere d.qcow2
mv d.qcow2 moved.qcow2
fails 1 'undo cannot know where the image is now' "$PLATTER" undo elsewhere
ok '  unless it is told' "$PLATTER" undo -q elsewhere moved.qcow2
is_file_equal moved.qcow2 before '  the very bytes'
mv moved.qcow2 d.qcow2
ok 'a journal that is in the way' touch d.qcow2.platter-undo
ok '  and empty does not matter' "$PLATTER" repair -q --yes d.qcow2
"$PLATTER" undo -q d.qcow2.platter-undo
echo 'my own notes, longer than nothing' >d.qcow2.platter-undo
fails 1 '  but what is none is not written over' "$PLATTER" repair -q --yes d.qcow2
is "$(cat d.qcow2.platter-undo)" 'my own notes, longer than nothing' '  and stays'
is_file_equal d.qcow2 before '  as the image does'
rm d.qcow2.platter-undo

# Two repairs: the newest is undone first.
"$PLATTER" repair -q --yes d.qcow2
cp d.qcow2 first
poke d.qcow2 $((refblock + 30)) '\0\7'
cp d.qcow2 second
"$PLATTER" repair -q --yes d.qcow2
ok 'a second repair has a journal of its own' test -e d.qcow2.platter-undo.2
fails 1 '  the first cannot be undone before it' "$PLATTER" undo d.qcow2.platter-undo
ok '  the second' "$PLATTER" undo -q d.qcow2.platter-undo.2
is_file_equal d.qcow2 second '  gives its bytes back'
fails 1 '  the first sees that the image has changed since' "$PLATTER" undo d.qcow2.platter-undo
is_file_equal d.qcow2 second '  and writes nothing'
cp first d.qcow2
undone d.qcow2 before '  put back, it is undone'

# ---- a header and entries that point at tables --------------------------------------------------

# An L1 table that lies on the header: nothing is put into it.
cp sound.qcow2 d.qcow2
poke d.qcow2 40 '\0\0\0\0\0\0\0\0'
head -c 40 d.qcow2 >before
"$PLATTER" check -r all d.qcow2 >/dev/null 2>&1
is "$(head -c 40 d.qcow2 | cmp - before && echo same)" same 'an L1 table on the header: the header stays'

# An L1 entry that names the refcount block: its counts are not taken for entries.
cp sound.qcow2 d.qcow2
poke d.qcow2 $((l1 + 8)) "\\x80$(printf '%014x' "$refblock" | sed 's/../\\x&/g')"
cp d.qcow2 before
"$PLATTER" check -r all d.qcow2 >/dev/null 2>&1
is $? 0 'an L1 entry that names a refcount block gets its own table back'
ok '  the disk is what it was' qemu-img compare -q d.qcow2 sound.qcow2
is_file_equal <(dd if=d.qcow2 bs=65536 skip=$((refblock / 65536)) count=1 status=none) \
	<(dd if=before bs=65536 skip=$((refblock / 65536)) count=1 status=none) '  whose bytes stay'
ok '  and the data with them' qemu-io -r -c 'read -q -P 1 0 8M' -c 'read -q -P 2 20M 3M' d.qcow2

# ---- no place for a journal ---------------------------------------------------------------------

if [ "$(id -u)" -eq 0 ] && loop=$(losetup -f --show sound.qcow2 2>/dev/null); then
	losetup -d "$loop"
	cp sound.qcow2 d.qcow2
	poke d.qcow2 $((refblock + 20)) '\0\3\0\0\0\5'
	cp d.qcow2 before
	loop=$(losetup -f --show d.qcow2)
	fails 1 'a device: repair wants --undo-file' "$PLATTER" repair -q --yes -f qcow2 "$loop"
	ok '  check -r corrects counts without' "$PLATTER" check -q -r all -f qcow2 "$loop"
	losetup -d "$loop"
	ok '  and qemu-img finds nothing' qemu-img check -q d.qcow2
	cp sound.qcow2 d.qcow2
	poke d.qcow2 "$l1" '\0\0\0\0\0\0\0\0'
	cp d.qcow2 before
	loop=$(losetup -f --show d.qcow2)
	fails 2 '  more than counts is refused' "$PLATTER" check -q -r all -f qcow2 "$loop"
	losetup -d "$loop"
	is_file_equal d.qcow2 before '  with nothing changed'
fi

# Other formats: VHD, whose footer was cut off (tests/repair/lost-blocks.sh has the rest), and those that are only looked at.
"$PLATTER" create -q -f vpc v.vhd 1M
ok 'check -r of a sound vpc' "$PLATTER" check -q -r all -f vpc v.vhd
cp v.vhd whole.vhd
truncate -s -512 v.vhd
ok '  of a damaged one' "$PLATTER" check -q -r all -f vpc v.vhd
is_file_equal v.vhd whole.vhd '  which is what it was'
"$PLATTER" create -q -f qcow q.qcow 1M
like "$("$PLATTER" repair --yes -f qcow q.qcow 2>&1)" 'qcow cannot be repaired' 'qcow is looked at only'

rm -f d.qcow2.platter-undo*
# ---- usage --------------------------------------------------------------------------------------

"$PLATTER" repair --dry-run d.qcow2 >out
like $? '^[02]$' '--dry-run'
ok '  shows the plan' grep -q '^Plan: ' out
is_file_equal d.qcow2 before '  and changes nothing'
fails 1 'without --yes and a terminal nothing is done' "$PLATTER" repair -q d.qcow2 </dev/null
is_file_equal d.qcow2 before '  nothing at all'
is "$(echo d.qcow2*)" d.qcow2 '  and no journal is left'
fails 1 'no such image' "$PLATTER" repair --yes nowhere.qcow2
fails 1 'no such journal' "$PLATTER" undo nowhere
fails 1 'not a journal' "$PLATTER" undo d.qcow2
"$PLATTER" repair -q --yes sound.qcow2
is $? 0 'a sound image'
is "$(echo sound.qcow2*)" sound.qcow2 '  needs no journal'

done_testing
