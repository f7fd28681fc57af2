#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# raw to qcow2 and back, uncompressed: against qemu-img's defaults, its best flags, and nbdcopy.
# shellcheck source=bench/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"

standard
out='rm -f out.*'
qemu-img convert -t unsafe -m 16 -W -O qcow2 std.raw std.qcow2
for t in unsafe writeback; do
	row "raw -> qcow2 -t $t" "$PLATTER convert -t $t -O qcow2 std.raw out.a" \
		"qemu-img convert -t $t -O qcow2 std.raw out.b" '2 x defaults' "$out"
	row "raw -> qcow2 -t $t, peer -m 16 -W" "$PLATTER convert -t $t -O qcow2 std.raw out.a" \
		"qemu-img convert -t $t -m 16 -W -O qcow2 std.raw out.b" '1 x best flags' "$out"
	row "qcow2 -> raw -t $t" "$PLATTER convert -t $t -O raw std.qcow2 out.a" \
		"qemu-img convert -t $t -O raw std.qcow2 out.b" '2 x defaults' "$out"
	row "qcow2 -> raw -t $t, peer -m 16 -W" "$PLATTER convert -t $t -O raw std.qcow2 out.a" \
		"qemu-img convert -t $t -m 16 -W -O raw std.qcow2 out.b" '1 x best flags' "$out"
done
if command -v nbdcopy >/dev/null && command -v nbdkit >/dev/null; then
	row "raw -> raw -t unsafe, peer nbdcopy" "$PLATTER convert -t unsafe -O raw std.raw out.a" \
		"nbdcopy std.raw out.b" '1 x' "$out; truncate -s \$(stat -c %s std.raw) out.b"
fi
rm -f out.*
