#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# qcow2 check against qemu-img check: sound images, and many damaged ones.  Counts, statuses and
# totals must agree.  PLT_SEED chooses the damage (the first of consecutive seeds).

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires jq qemu-img qemu-io python3

# numbers FILE: of one JSON answer, or "none".
numbers() {
	[ -s "$1" ] && jq -c '[.corruptions, .leaks, ."check-errors", ."image-end-offset", ."total-clusters", ."allocated-clusters",
		."fragmented-clusters", ."compressed-clusters"] | map(. // 0)' "$1" 2>/dev/null || echo none
}

# differs IMAGE: prints how the two programs disagree about it; nothing if they do not.
differs() {
	local qs ps q p

	qemu-img check -f qcow2 --output=json "$1" >q.json 2>q.txt
	qs=$?
	"$PLATTER" check -f qcow2 --output=json "$1" >p.json 2>p.txt
	ps=$?
	q=$(numbers q.json)
	p=$(numbers p.json)
	[ "$q" = "$p" ] || echo "qemu $q, platter $p"
	# Findings of our own may raise a status, never lower one.
	[ "$qs" = "$ps" ] || { [ "$qs" -eq 0 ] && [ "$ps" -eq 2 ]; } || { [ "$qs" -eq 3 ] && [ "$ps" -eq 2 ]; } ||
		echo "statuses $qs and $ps"
}

qemu-img create -q -f qcow2 plain.qcow2 64M
qemu-io -f qcow2 -c 'write -P 1 0 3M' -c 'write -P 2 20M 2M' -c 'write -P 3 50M 1M' -c 'write -z 10M 1M' \
	plain.qcow2 >/dev/null
cp plain.qcow2 snapshots.qcow2
qemu-img snapshot -c one snapshots.qcow2
qemu-io -f qcow2 -c 'write -P 9 1M 1M' snapshots.qcow2 >/dev/null
qemu-img snapshot -c two snapshots.qcow2
qemu-io -f qcow2 -c 'write -P 9 20M 1M' snapshots.qcow2 >/dev/null
yes 'some text that is easily made smaller' | head -c 6M >text.raw
qemu-img convert -f raw -O qcow2 -c text.raw compressed.qcow2
qemu-io -f qcow2 -c 'write -P 7 1M 64k' compressed.qcow2 >/dev/null
cp plain.qcow2 bitmaps.qcow2
qemu-img bitmap --add bitmaps.qcow2 b0
qemu-io -f qcow2 -c 'write -P 5 30M 1M' bitmaps.qcow2 >/dev/null
for options in cluster_size=512 cluster_size=4k extended_l2=on refcount_bits=1 refcount_bits=64 compat=v2; do
	qemu-img convert -O qcow2 -o $options plain.qcow2 $options.qcow2
done

for image in *.qcow2; do
	is "$(differs "$image")" '' "sound: $image"
	text=$("$PLATTER" check --output=json "$image")
	unlike "$text" '"severity": "(corruption|error)"' "nothing found: $image"
done

seed=${PLT_SEED:-4711}
for image in plain snapshots compressed extended_l2=on cluster_size=512 refcount_bits=1 compat=v2; do
	wrong=
	for ((i = seed; i < seed + 12; i++)); do
		[ -n "${PLT_SEED:-}" ] || sampled || continue
		did=$(python3 "$srcdir/tests/qcow2/damage.py" $image.qcow2 damaged.img $i)
		text=$(differs damaged.img)
		# qemu-img cannot read a snapshot table behind the end of the file; we say so and go on.
		case $did,$text in *cut*snapshots*) continue ;; esac
		[ -z "$text" ] || grep -q Q-SNAP p.json || wrong="$wrong [$i: $did: $text]"
	done
	is "$wrong" '' "damaged from seed $seed: $image"
done

done_testing
