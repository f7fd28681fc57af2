#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# The free space of a guest's filesystem given back: against the way that there is without it, a pass over all data with zeros
# looked for (which first wants the guest to have written them). Half of what is stored is free.
# shellcheck source=bench/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"
PATH=$PATH:/usr/sbin:/sbin

mib=${BENCH_SPARSE_MIB:-2048}
for fs in ext4 xfs; do
	command -v mkfs.$fs >/dev/null || continue
	rm -f sp.raw sp.qcow2
	yes 'what has been deleted' | head -c $((mib << 20)) >sp.raw
	case $fs in
	ext4) mke2fs -q -F -t ext4 -E nodiscard sp.raw ;;
	xfs) mkfs.xfs -q -f -K sp.raw ;;
	esac
	qemu-img convert -t unsafe -S 0 -O qcow2 sp.raw sp.qcow2
	row "$mib MiB of $fs, full of what was deleted: dry run, against reading for zeros" \
		"$PLATTER sparsify -q --dry-run sp.qcow2" "qemu-img convert -t unsafe -O qcow2 sp.qcow2 sp.out" '-' 'rm -f sp.out'
	row "  in place, against a pass that finds zeros" "$PLATTER sparsify -q a/sp.qcow2" \
		"qemu-img convert -t unsafe -O qcow2 b/sp.qcow2 sp.out" '-' \
		'rm -rf a b sp.out; mkdir a b; for d in a b; do cp sp.qcow2 $d; done; sync a b'
done
rm -rf sp.raw sp.qcow2 sp.out a b
