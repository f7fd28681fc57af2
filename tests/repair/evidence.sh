#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Real filesystems, cut into pieces that lie on a host in shuffled runs, the map lost: how many pieces find
# their places again (evidence-lab), and that none is wrong at "proven" and one in a hundred at most at "strong".

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
requires python3

lab=$builddir/tests/repair/evidence-lab
seed=${PLT_SEED:-7} # always the same: percentages are held against limits below
echo "# PLT_SEED=$seed"

# judge NAME PERCENT/STRONG ARGUMENTS...: what evidence-lab says, held against the least that is placed, and placed surely.
judge() {
	local name=$1 least=${2%/*} sure=${2#*/} out

	shift 2
	out=$("$lab" "$@" 2>&1)
	echo "# $name: $out"
	ok "$name: $least % in place, $sure % surely, of these at most 1 % wrong, none that is proven" \
		awk -v least="$least" -v sure="$sure" -v out="$out" 'BEGIN {
			if (!match(out, /: [0-9]+ of [0-9]+ in place/)) exit 1
			split(substr(out, RSTART + 2, RLENGTH), place, " ")
			n = split(out, w, /[ ;]+/)
			for (i = 1; i < n; i++) {
				if (w[i] == "right" || w[i] == "wrong") side = w[i]
				if (w[i] ~ /^(proven|strong|likely|guess)$/) got[side, w[i]] = w[i + 1]
			}
			exit !(place[1] * 100 >= place[3] * least && place[3] > 0 &&
			       (got["right", "proven"] + got["right", "strong"]) * 100 >= place[3] * sure &&
			       got["wrong", "proven"] == 0 && got["wrong", "strong"] * 100 <= got["right", "strong"] &&
			       got["wrong", "likely"] * 10 <= got["right", "likely"] + got["wrong", "likely"] + 150)
		}'
}

# guest FS TOOLS...: makes FS.img and FS.free, or skips.  $alike goes to guest.py.
guest() {
	local fs=$1 tool

	shift
	for tool in "$@"; do
		if ! command -v "$tool" >/dev/null; then
			echo "# $fs: no $tool here, left out"
			return 1
		fi
	done
	python3 "$srcdir/tests/fixtures/guest.py" "$fs" "${MIB:-384}" "$seed" "$fs.img" 0 ${alike:-} >"$fs.free" || {
		ok "$fs can be made" false
		return 1
	}
}

if guest ext4 mke2fs debugfs dumpe2fs; then
	judge 'ext4, L2 tables of 4 KiB clusters' 97/95 -f ext4.free ext4.img 4096 tables 1 "$seed"
	judge 'ext4, clusters of 64 KiB in runs of 1 MiB' 95/92 -f ext4.free ext4.img 65536 clusters 16 "$seed"
	judge 'ext4, among old versions' 90/85 -f ext4.free -s 40 ext4.img 65536 clusters 16 "$seed"
	judge 'ext4, half of the disk known' 92/88 -f ext4.free -k 50 ext4.img 65536 clusters 16 "$seed"
	judge 'ext4, clusters of 64 KiB in no order' 68/58 -f ext4.free ext4.img 65536 clusters 1 "$seed"
	judge 'ext4, clusters of 4 KiB' 80/70 -f ext4.free ext4.img 4096 clusters 64 "$seed"
	alike=alike guest ext4 mke2fs
	judge 'ext4, folders alike, runs of 1 MiB' 85/75 -f ext4.free ext4.img 65536 clusters 16 "$seed"
	judge 'ext4, folders alike, L2 tables' 95/90 -f ext4.free ext4.img 4096 tables 1 "$seed"
fi
if guest xfs mkfs.xfs; then
	judge 'xfs, L2 tables of 4 KiB clusters' 97/92 xfs.img 4096 tables 1 "$seed"
	judge 'xfs, clusters of 64 KiB in runs of 1 MiB' 97/94 xfs.img 65536 clusters 16 "$seed"
	judge 'xfs, among old versions' 88/82 -s 40 xfs.img 65536 clusters 16 "$seed"
fi
if guest ntfs mkntfs ntfscp; then
	judge 'ntfs, L2 tables of 4 KiB clusters' 80/75 ntfs.img 4096 tables 1 "$seed"
	judge 'ntfs, clusters of 64 KiB in runs of 1 MiB' 95/92 ntfs.img 65536 clusters 16 "$seed"
	# (of a small one much is its log, whose pages are alike)
	MIB=128 guest ntfs && judge 'ntfs, clusters of 64 KiB in no order' 80/65 -f ntfs.free ntfs.img 65536 clusters 1 "$seed"
fi
if guest vfat mkfs.fat mcopy mdel; then
	judge 'vfat, L2 tables of 4 KiB clusters' 97/95 vfat.img 4096 tables 1 "$seed"
	judge 'vfat, clusters of 64 KiB in runs of 1 MiB' 96/92 vfat.img 65536 clusters 16 "$seed"
	MIB=128 guest vfat mkfs.fat # (the root directory fits into clusters)
	judge 'vfat, clusters of 4 KiB' 69/60 vfat.img 4096 clusters 40 "$((seed + 1))"
fi
[ "$tap_count" -gt 0 ] || ok 'no filesystem can be made here' true
done_testing
