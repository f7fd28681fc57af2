#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# A chain of ten layers, pieces of 64 KiB to 1 MiB scattered over 16 GiB in each: the top committed into the base, and
# rebased onto a lower layer, onto another image and onto nothing; for clusters of 64 KiB and of 4 KiB.
# shellcheck source=bench/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"

span=${BENCH_SPAN:-16384}   # MiB
pieces=${BENCH_PIECES:-400} # of each layer; 140 to 180 MiB

writes() { # LAYER
	awk -v n="$pieces" -v s="$span" -v l="$1" 'BEGIN {
		srand(l);
		for (i = 0; i < n; i++) {
			len = 64 * (1 + int(rand() * rand() * 16));
			printf "write -P %d %dk %dk\n", 1 + l * 7 % 250 + i % 5, 64 * int(rand() * (s * 16 - 16)), len
		}
	}'
}

make_chain() { # CLUSTER
	local below='' l

	rm -f l*.qcow2 other.qcow2 flat.qcow2
	for l in 0 1 2 3 4 5 6 7 8 9; do
		"$PLATTER" create -q -f qcow2 -o "cluster_size=$1" ${below:+-b "$below" -F qcow2} "l$l.qcow2" "${span}M"
		writes "$l" | "$PLATTER" io -t unsafe "l$l.qcow2" >/dev/null
		below=l$l.qcow2
	done
	"$PLATTER" create -q -f qcow2 -o "cluster_size=$1" other.qcow2 "${span}M"
	writes 10 | "$PLATTER" io -t unsafe other.qcow2 >/dev/null
}

for cs in 64k 4k; do
	make_chain $cs
	reset='rm -rf a b; mkdir a b; for d in a b; do cp --reflink=auto *.qcow2 $d; done'
	row "commit of ten layers into the base, clusters of $cs" "$PLATTER commit -q -b l0.qcow2 a/l9.qcow2" \
		"qemu-img commit -q -b l0.qcow2 b/l9.qcow2" '2 x' "$reset"
	row "  of the top into what it stands on" "$PLATTER commit -q a/l9.qcow2" "qemu-img commit -q b/l9.qcow2" '2 x' "$reset"
	row "rebase of ten layers onto the lowest, clusters of $cs" "$PLATTER rebase -b l0.qcow2 -F qcow2 a/l9.qcow2" \
		"qemu-img rebase -b l0.qcow2 -F qcow2 b/l9.qcow2" '2 x' "$reset"
	row "  onto another image" "$PLATTER rebase -b other.qcow2 -F qcow2 a/l9.qcow2" \
		"qemu-img rebase -b other.qcow2 -F qcow2 b/l9.qcow2" '2 x' "$reset"
	row "  onto nothing" "$PLATTER rebase -b '' a/l9.qcow2" "qemu-img rebase -b '' b/l9.qcow2" '2 x' "$reset"
done
rm -rf a b l*.qcow2 other.qcow2
