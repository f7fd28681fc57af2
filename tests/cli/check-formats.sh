#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# check of the formats that qemu-img has no check for, luks and qcow: an image in order, and each kind of
# damage, made by changing bytes, with its finding and the exit status.  (vhd: tests/vhd/.)

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"

# word FILE OFFSET: the number there, of 8 bytes, big-endian.
word() {
	printf '%d' "0x$(od -An -v -tx1 -j "$2" -N 8 "$1" | tr -d ' \n')"
}

# be LEN NUMBER: for poke
be() {
	local i

	for ((i = $1 - 1; i >= 0; i--)); do printf '\\x%02x' $(($2 >> 8 * i & 255)); done
}

# checks STATUS ID DESCRIPTION [FORMAT]: of the image x; ID '' for no finding at all.
checks() {
	"$PLATTER" check ${4:+-f "$4"} --output=json x >out 2>err
	is $? "$1" "$3: status $1"
	"$PLATTER" check ${4:+-f "$4"} x >out 2>err
	if [ -z "$2" ]; then
		is "$(cat err)" '' "$3: nothing is said"
		like "$(cat out)" '^No errors were found on the image\.' "$3: in order"
	else
		like "$(cat err)" "$2" "$3: $2"
	fi
}

# ---- qcow ----------------------------------------------------------------------------------------

"$PLATTER" create -q -f qcow q 5M
"$PLATTER" io -f qcow -c 'write -P 1 0 16k' -c 'write -P 2 3M 4k' -c 'write -c -P 3 4M 4k' q >/dev/null
t0=$(word q 48) t1=$(word q 56) t2=$(word q 64)
each() { cp q x; }

each; checks 0 '' 'qcow'
like "$(cat out)" '^6/1280 = 0\.47% allocated, .*% fragmented, 16\.67% compressed clusters' 'qcow: what is counted'
each; poke x 4 "$(be 4 2)"; checks 1 'qcow version 2' 'qcow: another version' qcow
each; poke x 0 X; checks 1 'not in qcow format' 'qcow: another format' qcow
each; poke x 32 '\x1f'; checks 2 'header: Cluster size must be' 'qcow: cluster size'
each; poke x 24 "$(be 8 1)"; checks 2 'header: Image size is too small' 'qcow: size'
each; poke x 40 "$(be 8 1000000000)"; checks 2 'header: L1 table .* does not lie' 'qcow: place of the L1 table'
each; poke x 48 "$(be 8 $((t0 + 1)))"; checks 2 'L1 entry 0: .* is not a multiple of' 'qcow: an L1 entry'
each; poke x 48 "$(be 8 $((1 << 40)))"; checks 2 'L1 entry 0: the L2 table .* behind the end of the file' 'qcow: an L2 table behind the end'
each; poke x 56 "$(be 8 "$t0")"; checks 2 'L1 entries 0 and 1 name the same L2 table' 'qcow: a table twice'
each; poke x "$t0" "$(be 8 16)"; checks 2 'L2 entry 0x10 of guest offset 0: 4096 bytes at 0x10 lie on the header' 'qcow: on the header'
each; poke x "$t0" "$(be 8 $((1 << 50)))"; checks 2 'lie behind the end of the file' 'qcow: a cluster behind the end'
each; poke x "$t0" "$(be 8 "$(word q $((t0 + 8)))")"; checks 2 'a cluster at .* and a cluster at .* share bytes' 'qcow: a cluster twice'
each; poke x "$t0" "$(be 8 "$t1")"; checks 2 '(an L2 table|a cluster) at .* and (an L2 table|a cluster) at .* share bytes' 'qcow: a cluster on a table'
each; poke x "$t2" "$(be 8 0)"; checks 0 '' 'qcow: an entry gone is nobody'"'"'s damage'
each; truncate -s $((t2 + 4096)) x; checks 2 'lie behind the end of the file' 'qcow: a file that is cut'
each; poke x 8 "$(be 8 100)$(be 4 2000)"; checks 2 "the backing file's name has 2000 bytes" 'qcow: a long name'
each; poke x 8 "$(be 8 40)$(be 4 20)"; checks 2 "the backing file's name .* lies on the header" 'qcow: a name on the header'
"$PLATTER" create -q -u -f qcow -b base.raw -F raw x 5M
checks 0 '' 'qcow: over a file that is not there'
at=$(word x 8)
poke x $((at + 3)) '\0'
checks 2 'cut by a zero byte' 'qcow: a name that is cut'
poke x "$at" '\0'
checks 2 'is empty' 'qcow: a name that is empty'

# An L1 table of 2 GiB in a hole takes no time, and neither do tables in holes.
"$PLATTER" create -q -f qcow x 2T
truncate -s 8G x
poke x 32 '\x09\x06'
ok 'qcow: a long L1 table in a hole' timeout 2 "$PLATTER" check -q x

# ---- luks ----------------------------------------------------------------------------------------

"$PLATTER" create -q -f luks --object secret,id=s,data=hunter2 -o key-secret=s,iter-time=10 q 1M
slot=$((208 + 48)) # the second
each; checks 0 '' 'luks'
is "$("$PLATTER" check --output=json x | grep -c '"format": "luks"')" 1 'luks: no key is asked for'
each; poke x 6 "$(be 2 2)"; checks 2 'LUKS version 2' 'luks: another version' luks
each; poke x 0 X; checks 2 'not in LUKS format' 'luks: another format' luks
each; poke x 208 "$(be 4 7)"; checks 2 'Keyslot 0 state is corrupted' 'luks: the state of a slot'
each; poke x 208 "$(be 4 $((0xdead)))"; checks 2 'no key slot is active' 'luks: no key'
each; poke x $((208 + 44)) "$(be 4 5)"; checks 2 'Keyslot 0 is corrupted \(stripes 5' 'luks: stripes'
each; poke x $((slot + 40)) "$(be 4 8)"; checks 2 'Keyslots 0 and 1 are overlapping' 'luks: slots that overlap'
each; poke x $((slot + 40)) "$(be 4 4096000)"; checks 2 'Keyslot 1: .* do not fit' 'luks: a slot outside'
each; poke x 104 "$(be 4 4096000)"; checks 2 'the payload is said to begin at' 'luks: the payload'
each; poke x 108 "$(be 4 0)"; checks 2 'the master key has 0 bytes' 'luks: the key'
each; poke x 164 "$(be 4 0)"; checks 2 'LUKS key iteration count is 0' 'luks: iterations'
each; poke x 8 '\1'; checks 2 'the cipher name has the byte 0x1' 'luks: a name that is no text'
each; head -c 512 /dev/zero | dd of=x bs=1 seek=$((4096 + 5120)) conv=notrunc status=none
checks 2 'key slot 0: 1 sectors of its key material \(the first at 9216\)' 'luks: key material written over'
each; head -c 256000 /dev/zero | dd of=x bs=1 seek=262144 conv=notrunc status=none
checks 0 '' 'luks: an inactive slot may hold anything'
each; truncate -s 100000 x; checks 2 'key slot 0: its key material .* behind the end|Keyslot [0-7]: .* do not fit' 'luks: a file that is cut'
"$PLATTER" create -q x.raw 1M
mv x.raw x
fails 63 'raw: nothing to check' "$PLATTER" check x
done_testing
