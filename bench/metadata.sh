#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Metadata: 120,000 clusters scattered over 1 TiB, and a full 1 TiB.
# shellcheck source=bench/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"

scattered
[ -f full.qcow2 ] || "$BENCH_BIN/blkbench" full full.qcow2 1024
row "map of 120,000 scattered clusters" "$PLATTER map --output=json scattered.qcow2" \
	"qemu-img map --output=json scattered.qcow2" '3 x'
row "convert of 120,000 scattered clusters" "$PLATTER convert -t unsafe -O qcow2 scattered.qcow2 out.a" \
	"qemu-img convert -t unsafe -O qcow2 scattered.qcow2 out.b" '3 x (metadata)' 'rm -f out.*'
row "check, 120,000 scattered clusters" "$PLATTER check scattered.qcow2" "qemu-img check scattered.qcow2" '1.5 x'
row "check, 16.7 million clusters" "$PLATTER check full.qcow2" "qemu-img check full.qcow2" '1.5 x'
# A copy each, which is not timed.
cp --sparse=always scattered.qcow2 snap.a
cp --sparse=always scattered.qcow2 snap.b
gone='qemu-img snapshot -d s snap.a; qemu-img snapshot -d s snap.b; true'
there='qemu-img snapshot -l snap.a | grep -q s || qemu-img snapshot -c s snap.a; qemu-img snapshot -l snap.b |
	grep -q s || qemu-img snapshot -c s snap.b'
row "snapshot -c of it" "$PLATTER snapshot -c s snap.a" "qemu-img snapshot -c s snap.b" '5 x' "$gone"
row "snapshot -a" "$PLATTER snapshot -a s snap.a" "qemu-img snapshot -a s snap.b" '2 x' "$there"
row "snapshot -d" "$PLATTER snapshot -d s snap.a" "qemu-img snapshot -d s snap.b" '2 x' "$there"
rm -f snap.a snap.b
mem() { /usr/bin/time -f %M "$@" 2>&1 >/dev/null | tail -1; }
if [ -x /usr/bin/time ]; then
	printf '%-52s %9d %9d\n' "  memory, 16.7 million clusters (KiB)" \
		"$(mem "$PLATTER" check full.qcow2)" "$(mem qemu-img check full.qcow2)"
fi
rm -f out.*
