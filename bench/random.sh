#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# 4 KiB random I/O through the library, against qemu-img bench and fio on the raw file.
# shellcheck source=bench/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"

n=${BENCH_IOS:-200000}
g=${BENCH_RAND_GIB:-4}
bb=$BENCH_BIN/blkbench
[ -f rand.qcow2 ] || { qemu-img create -q -f qcow2 -o preallocation=falloc rand.qcow2 "${g}G" &&
	fallocate -l "${g}G" rand.raw && "$BENCH_BIN/gen" rand.tmp "$g" &&
	qemu-img convert -n -t unsafe -O qcow2 -S 0 rand.tmp rand.qcow2 && mv rand.tmp rand.raw; }
qbench() { # read|write depth cache [file]: qemu-img bench's own count, as a rate
	local w=''
	[ "$1" = write ] && w=-w
	echo "t=\$(qemu-img bench -q $w -f qcow2 -c $n -d $2 -s 4096 -S \$((4096 * 7919)) -t $3 -i io_uring ${4:-rand.qcow2} 2>/dev/null || qemu-img bench $w -f qcow2 -c $n -d $2 -s 4096 -S \$((4096 * 7919)) -t $3 ${4:-rand.qcow2}); echo \"\$t\" | awk '/Run completed/ { print $n / \$4 }'"
}
fiorate() {
	echo "fio --name=x --filename=rand.raw --rw=rand$1 --bs=4k --ioengine=io_uring --iodepth=$2 --direct=$3 --number_ios=$n --size=${g}G --output-format=json 2>/dev/null | jq '.jobs[0].$1.iops'"
}
for op in read write; do
	for d in 1 32; do
		rate "4 KiB random $op, depth $d, cached (IOPS)" "$bb rand rand.qcow2 qcow2 $op $d $n" \
			"$(qbench $op $d writeback)" '1 x'
		command -v fio >/dev/null && rate "  the same, peer fio on raw" "$bb rand rand.qcow2 qcow2 $op $d $n" \
			"$(fiorate $op $d 0)" '0.9 x'
		rate "4 KiB random $op, depth $d, direct (IOPS)" "$bb rand rand.qcow2 qcow2 $op $d $n direct" \
			"$(qbench $op $d none)" '1 x'
		command -v fio >/dev/null && rate "  the same, peer fio on raw" "$bb rand rand.qcow2 qcow2 $op $d $n direct" \
			"$(fiorate $op $d 1)" '0.9 x'
	done
done
