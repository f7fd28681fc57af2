#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# hash: the digest of blkhash, and the flat one, of the same content in any format.
# shellcheck source=tests/lib.sh
. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img python3

digest() { "$PLATTER" hash "$@" | cut -d' ' -f1; }

# The construction by hand: digests of all blocks, then the length.  FILE BLOCK DIGEST
by_hand() {
	python3 -c 'import hashlib, sys
data, block = open(sys.argv[1], "rb").read(), int(sys.argv[2])
parts = [data[i:i + block] for i in range(0, len(data), block)]
all = b"".join(hashlib.new(sys.argv[3], p).digest() for p in parts)
print(hashlib.new(sys.argv[3], all + len(data).to_bytes(8, "little")).hexdigest())' "$@"
}

: > empty.raw
is "$(digest -f raw empty.raw)" af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc 'an empty disk'
is "$(digest -f raw --flat empty.raw)" "$(sha256sum < empty.raw | cut -d' ' -f1)" '  flat'

truncate -s 3000832 a.raw
seq 1 60000 | dd of=a.raw conv=notrunc bs=4096 seek=33 status=none
printf 'far' | dd of=a.raw conv=notrunc bs=1 seek=2990000 status=none
is "$(digest -f raw a.raw)" "$(by_hand a.raw 65536 sha256)" 'blocks of 64 KiB'
is "$(digest -f raw --digest sha256/512 a.raw)" "$(by_hand a.raw 512 sha256)" 'blocks of 512 bytes'
is "$(digest -f raw --digest md5/1M a.raw)" "$(by_hand a.raw 1048576 md5)" 'MD5, blocks of 1 MiB'
is "$(digest -f raw --digest sha512/100000 a.raw)" "$(by_hand a.raw 100000 sha512)" 'SHA-512, an odd block'
is "$(digest -f raw --flat a.raw)" "$(sha256sum < a.raw | cut -d' ' -f1)" 'flat'
is "$(digest -f raw --flat --digest md5 a.raw)" "$(md5sum < a.raw | cut -d' ' -f1)" 'flat, MD5'
fails 1 'a digest that does not exist' "$PLATTER" hash --digest nosuch a.raw

seq 1 4000000 | head -c 30M > full.raw
truncate -s 70M full.raw
seq 1 900000 | dd of=full.raw conv=notrunc bs=1M seek=63 status=none
want=$(digest -f raw full.raw)
flat=$(sha256sum < full.raw | cut -d' ' -f1)
is "$(digest -f raw --flat full.raw)" "$flat" 'flat, with holes'
for f in qcow2 'qcow2 -c' 'qcow2 -o cluster_size=2M' 'qcow2 -S 0'; do
	# shellcheck disable=SC2086
	qemu-img convert -f raw -O $f full.raw full.img
	is "$(digest full.img)" "$want" "the same content as $f"
	is "$(digest --flat full.img)" "$flat" '  flat'
done
if command -v nbdcopy >/dev/null && command -v nbdkit >/dev/null && nbdcopy --help 2>&1 | grep -q blkhash; then
	out=$(nbdcopy --blkhash=sha256 -- [ nbdkit file full.raw ] null: 2>/dev/null | cut -d' ' -f1)
	is "$want" "$out" 'what nbdcopy --blkhash says'
else
	skip 'what nbdcopy --blkhash says' 'this nbdcopy cannot'
fi
truncate -s 8T huge.raw 2>/dev/null && {
	ok 'zeros are hashed, not read' timeout 120 "$PLATTER" hash -f raw --digest sha256/1G huge.raw
}
done_testing
