#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# convert --salvage: what can be read is in the target, what cannot is zeros and is named, and nothing
# else is.
# shellcheck source=tests/lib.sh
. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img

seq 1 3000000 | head -c 16M > src.raw

# check DESCRIPTION IMAGE: against the ranges that the run names on stderr
check() {
	local text=$1 image=$2 off len lost=0

	"$PLATTER" convert --salvage -f qcow2 -O raw "$image" out.raw 2> err.log
	is $? 0 "$text"
	cp src.raw want.raw
	while read -r off len; do
		dd if=/dev/zero of=want.raw bs=512 seek=$((off / 512)) count=$((len / 512)) conv=notrunc status=none
		lost=$((lost + len))
	done < <(sed -n 's/.*error while reading offset \([0-9]*\): .*(\([0-9]*\) bytes are zeros.*/\1 \2/p' err.log)
	is_file_equal out.raw want.raw '  zeros where it says, all else as it was'
	[ $lost -gt 0 ] && [ $lost -le "$3" ]
	is $? 0 "  $lost bytes are lost, no more than $3"
	fails 1 '  without --salvage it fails' "$PLATTER" convert -f qcow2 -O raw "$image" none.raw
	[ ! -e none.raw ]
	is $? 0 '  and makes nothing'
}

# a compressed cluster whose stream is none
qemu-img convert -c -f raw -O qcow2 src.raw comp.qcow2
printf '\377\377\377\377\377\377\377\377' | dd of=comp.qcow2 bs=1 seek=327680 conv=notrunc status=none
check 'a compressed cluster is damaged' comp.qcow2 65536

# an entry of the L2 table (cluster 4 in what qemu-img makes) that is not aligned
qemu-img convert -f raw -O qcow2 src.raw l2.qcow2
printf '\200\000\000\000\000\005\002\000' | dd of=l2.qcow2 bs=1 seek=$((4 * 65536 + 8 * 7)) conv=notrunc status=none
check 'an L2 entry is damaged' l2.qcow2 16777216

qemu-img convert -f raw -O qcow2 src.raw whole.qcow2
"$PLATTER" convert --salvage -f qcow2 -O raw whole.qcow2 out.raw 2> err.log
is_file_equal out.raw src.raw 'of a whole image everything'
is "$(cat err.log)" '' '  without a word'
done_testing
