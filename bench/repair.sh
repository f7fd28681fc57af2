#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Repair and scan.  All counts gone of 120,000 clusters scattered over 1 TiB; and an image on a real disk whose header is
# gone, against reading that file once (dd, both from the medium where the caches can be dropped).
# shellcheck source=bench/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"

# every refcount block of FILE becomes zeros
lose_counts() {
	python3 - "$1" <<-'PYTHON'
		import struct, sys

		f = open(sys.argv[1], 'r+b')
		header = f.read(112)
		bits, = struct.unpack('>I', header[20:24])
		table, clusters = struct.unpack('>QI', header[48:60])
		f.seek(table)
		for block, in struct.iter_unpack('>Q', f.read(clusters << bits)):
		    if block:
		        f.seek(block)
		        f.write(bytes(1 << bits))
	PYTHON
}

scattered
cp --sparse=always scattered.qcow2 lost.qcow2
lose_counts lost.qcow2
row "check -r all, 120,000 clusters, all counts gone" "$PLATTER check -r all lost.a" "qemu-img check -r all lost.b" '2 x' \
	'cp --sparse=always lost.qcow2 lost.a; cp --sparse=always lost.qcow2 lost.b'
rm -f lost.*

disk=$(mktemp -d "${BENCH_DISK:-/var/tmp}/platter-bench.XXXXXX") || exit 1
trap 'rm -rf "$disk"' EXIT
standard
"$PLATTER" convert -f raw -O qcow2 std.raw "$disk/headless.qcow2"
dd if=/dev/zero of="$disk/headless.qcow2" bs=512 count=1 conv=notrunc status=none
drop='sync; echo 3 >/proc/sys/vm/drop_caches'
row "info --rescue without a header (peer: dd)" "$PLATTER info --rescue --trust likely $disk/headless.qcow2" \
	"dd if=$disk/headless.qcow2 of=/dev/null bs=1M" '0.7 x' "$drop"
row "scan of it (peer: dd)" "$PLATTER scan $disk/headless.qcow2" "dd if=$disk/headless.qcow2 of=/dev/null bs=1M" '0.7 x' "$drop"
