#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# VHD to qcow2 and back against qemu-img's defaults, and a disk of 2040 GiB with 1 GiB in it.
# shellcheck source=bench/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"

standard
out='rm -f out.*'
qemu-img convert -t unsafe -m 16 -W -O qcow2 std.raw std.qcow2
qemu-img convert -t unsafe -m 16 -W -O vpc -o force_size std.raw std.vhd
for t in unsafe writeback; do
	row "vhd -> qcow2 -t $t" "$PLATTER convert -t $t -O qcow2 std.vhd out.a" \
		"qemu-img convert -t $t -O qcow2 std.vhd out.b" '2 x defaults' "$out"
	row "qcow2 -> vhd -t $t" "$PLATTER convert -t $t -O vpc std.qcow2 out.a" \
		"qemu-img convert -t $t -O vpc std.qcow2 out.b" '2 x defaults' "$out"
	row "qcow2 -> fixed vhd -t $t" "$PLATTER convert -t $t -O vpc -o subformat=fixed std.qcow2 out.a" \
		"qemu-img convert -t $t -O vpc -o subformat=fixed std.qcow2 out.b" '2 x defaults' "$out"
done
sparse
if [ ! -f sparse.vhd ]; then
	"$PLATTER" convert -t unsafe -O vpc -o force_size sparse.raw sparse.vhd
	"$PLATTER" resize -q -f vpc sparse.vhd 2040G
fi
row "2040 GiB with 1 GiB, vhd -> qcow2" "$PLATTER convert -t unsafe -O qcow2 sparse.vhd out.a" \
	"qemu-img convert -t unsafe -m 16 -W -O qcow2 sparse.vhd out.b" 'the time of 1 GiB' "$out"
row "2040 GiB with 1 GiB, map" "$PLATTER map --output=json sparse.vhd" "qemu-img map --output=json sparse.vhd" -
rm -f out.*
