#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# 4 KiB random writes that allocate, and random reads with tables larger than the cache.
# shellcheck source=bench/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"

n=${BENCH_IOS:-60000}
bb=$BENCH_BIN/blkbench
rate "4 KiB random allocating writes, depth 32 (IOPS)" \
	"rm -f al.a; qemu-img create -q -f qcow2 al.a 16G; $bb rand al.a qcow2 write 32 $n" \
	"rm -f al.b; qemu-img create -q -f qcow2 al.b 16G; qemu-img bench -w -f qcow2 -t writeback -c $n -d 32 -s 4096 -S \$((4096 * 70001)) al.b | awk '/Run completed/ { print $n / \$4 }'" '2 x'
rate "  share of the same writes to a sparse raw file" \
	"rm -f al.a; qemu-img create -q -f qcow2 al.a 16G; $bb rand al.a qcow2 write 32 $n" \
	"rm -f al.r; truncate -s 16G al.r; $bb rand al.r raw write 32 $n" '-'
[ -f full.qcow2 ] || "$bb" full full.qcow2 1024
rate "4 KiB random reads over 1 TiB mapped, depth 32 (IOPS)" "$bb rand full.qcow2 qcow2 read 32 $n" \
	"qemu-img bench -f qcow2 -t writeback -c $n -d 32 -s 4096 -S 2147479552 full.qcow2 | awk '/Run completed/ { print $n / \$4 }'" '2 x'
rm -f al.*
