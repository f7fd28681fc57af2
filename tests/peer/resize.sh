#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Disks that platter gives another size, judged by qemu-img: random writes between random sizes, the
# content held against a model, every layout that changes the tables; and the reverse, images that
# qemu-img has resized.  Backing files longer than their overlays, data files, preallocation, bitmaps,
# snapshots.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io
. "$srcdir/tests/peer/peer.sh"

qemu-img create -q -f raw base.raw 12M
qemu-io -f raw -c 'write -q -P 0xb5 0 12M' base.raw

sizes=(3145728 512 8388608 1049088 9000448 4194304 4196352 11534336 65536)

# A random walk over sizes and contents.
for options in '' cluster_size=512 cluster_size=4k,refcount_bits=64 cluster_size=2M extended_l2=on \
	compat=0.10 lazy_refcounts=on refcount_bits=1,cluster_size=1k \
	data_file=d.raw data_file=d.raw,data_file_raw=on; do
	sampled || continue
	for below in none backed; do
		[[ $below == backed && $options == *raw=on ]] && continue
		text="${options:-defaults}, $below"
		rm -f r.qcow2 d.raw model
		if [ $below = backed ]; then
			"$PLATTER" create -q -f qcow2 ${options:+-o $options} -b base.raw -F raw r.qcow2 5M
			head -c 5M base.raw >model
		else
			"$PLATTER" create -q -f qcow2 ${options:+-o $options} r.qcow2 5M
			truncate -s 5M model
		fi
		for size in "${sizes[@]}"; do
			next_seed
			"$WRITER" -f qcow2 -m model r.qcow2 "random 8 $seed" "resize $size" "random 4 $seed" ||
				echo "# at $size"
		done
		agree r.qcow2 "$text: after resizes" model
		is "$(qemu-img info --output=json r.qcow2 | jq '."virtual-size"')" 65536 "$text: the size"
		[[ $options == data_file* ]] && is "$(stat -c %s d.raw)" 65536 "$text: the data file is as long"
		[[ $options == *raw=on ]] && ok "$text: the data file is the disk" cmp d.raw model
		# What qemu-img does to it we read.
		qemu-img resize -q -f qcow2 r.qcow2 7M && truncate -s 7M model
		agree r.qcow2 "$text: grown by qemu-img" model
	done
done

# Tables longer than what one block of counts covers: no row of clusters lies between two such blocks.
for options in cluster_size=512 cluster_size=512,refcount_bits=64 cluster_size=1k,refcount_bits=64; do
	"$PLATTER" create -q -f qcow2 -o $options long.qcow2 1M
	ok "$options: to 4 GiB" timeout 60 "$PLATTER" resize -q long.qcow2 4G
	ok "$options: writes at the new end" "$PLATTER" io -f qcow2 -c 'write -q -P 5 4095M 1M' \
		-c 'write -q -b 0 512k' long.qcow2
	ok "$options: qemu-img finds no fault" qemu-img check -q -f qcow2 long.qcow2
	is "$(qemu-io -r -f qcow2 -c 'read -P 5 4095M 1M' -c 'read -P 0 0 4095M' long.qcow2 | grep -c verif)" 0 \
		"$options: content"
done

# Preallocation of what is new.
for mode in off metadata falloc full; do
	for options in '' cluster_size=4k extended_l2=on data_file=d.raw; do
		sampled || continue
		rm -f p.qcow2 d.raw model
		"$PLATTER" create -q -f qcow2 ${options:+-o $options} p.qcow2 1M
		truncate -s 1M model
		ok "$mode, ${options:-defaults}: grows" "$WRITER" -f qcow2 -m model p.qcow2 'write 7 1000 2000' \
			"resize 5243392 $mode"
		agree p.qcow2 "$mode, ${options:-defaults}" model
		mapped=$(qemu-img check --output=json p.qcow2 | jq '."allocated-clusters" // 0')
		total=$(qemu-img check --output=json p.qcow2 | jq '."total-clusters"')
		if [ $mode = off ]; then
			is "$mapped" 1 "$mode, ${options:-defaults}: nothing is mapped"
		else
			ok "$mode, ${options:-defaults}: all that is new is mapped ($mapped of $total)" \
				test $((mapped * 10)) -ge $((total * 7))
		fi
	done
done
# Full means written, not reserved: no extent of the host is "unwritten" (where a filesystem can tell).
"$PLATTER" create -q full.raw 1M
"$PLATTER" resize -q -f raw --preallocation=falloc full.raw +1M
if filefrag -v full.raw 2>/dev/null | grep -q unwritten; then
	"$PLATTER" create -q -f qcow2 -o data_file=full.data full.qcow2 1M
	"$PLATTER" create -q -f luks --object secret,id=s,data=a -o key-secret=s,iter-time=1 full.luks 1M
	rm full.raw
	"$PLATTER" create -q full.raw 1M
	for options in '-f raw full.raw' '-f qcow2 full.qcow2' \
		'--object secret,id=s,data=a --image-opts driver=luks,key-secret=s,file.filename=full.luks'; do
		# shellcheck disable=SC2086
		"$PLATTER" resize -q --preallocation=full $options 3M
	done
	is "$(filefrag -v full.raw full.data full.luks | grep -c unwritten)" 0 'full: all of it has been written'
else
	skip 'full: all of it has been written' 'the filesystem does not say'
fi
[ "$(stat -c %b p.qcow2)" -gt 0 ] && is "$(($(stat -c %b d.raw) >= 8192))" 1 'full: the host has it'

# Bitmaps keep what they know, and are as long as the disk.
qemu-img create -q -f qcow2 b.qcow2 1M
qemu-img bitmap --add -g 512 b.qcow2 on
qemu-img bitmap --add -g 64k --disable b.qcow2 off
ok 'bitmaps: grown' "$WRITER" -f qcow2 b.qcow2 'write 1 0 4096' 'resize 314573312' 'write 2 200000000 4096'
is "$(qemu-img info --output=json b.qcow2 | jq -c '[."format-specific".data.bitmaps[] | .name, .flags]')" \
	'["on",["auto"],"off",[]]' 'bitmaps: in order'
ok 'bitmaps: qemu-img finds nothing' qemu-img check -q b.qcow2
ok 'bitmaps: qemu-img resizes on' qemu-img resize -q --shrink -f qcow2 b.qcow2 2M
ok 'bitmaps: shrunk' "$WRITER" -f qcow2 b.qcow2 'resize 65536'
ok 'bitmaps: qemu-img finds nothing' qemu-img check -q b.qcow2
ok 'bitmaps: qemu-img uses them' qemu-img bitmap --merge on b.qcow2 off

# What a snapshot holds stays; version 2 refuses.
"$PLATTER" create -q -f qcow2 -o cluster_size=4k s.qcow2 3M
qemu-io -f qcow2 -c 'write -q -P 1 0 3M' s.qcow2
qemu-img snapshot -c one s.qcow2
ok 'snapshot: shrunk' "$WRITER" -f qcow2 s.qcow2 'resize 1000448'
ok 'snapshot: qemu-img finds nothing' qemu-img check -q s.qcow2
qemu-img convert -O raw -l one s.qcow2 s.raw
is "$(qemu-io -f raw -c 'read -P 1 0 1000448' s.raw | grep -c 'Pattern verification failed')" 0 'snapshot: content'
qemu-img create -q -f qcow2 -o compat=0.10 v2.qcow2 1M
qemu-img snapshot -c one v2.qcow2
fails 1 'version 2 with snapshots' "$WRITER" -f qcow2 v2.qcow2 'resize 2097152'
like "$("$WRITER" -f qcow2 v2.qcow2 'resize 2097152' 2>&1)" "Can't resize a v2 image which has snapshots" 'version 2 says why'
done_testing
