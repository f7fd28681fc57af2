#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# convert: what is refused and in what words, what is said, and that the content is the same.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
. "$srcdir/tests/cli/transcript.sh"

sources() {
	truncate -s 1M r.raw
	truncate -s 2M r2.raw
	printf x | dd of=r2.raw bs=1 seek=65536 conv=notrunc status=none
	"$QI" create -q -f qcow2 a.qcow2 1M
}

# qemu-img leaves files behind where it fails.
tt() {
	rm -f o
	t "$@"
}

refused() {
	sources
	tt convert nofile o
	tt convert r.raw nofile o
	tt convert -f qcow2 r.raw o
	tt convert -O nosuch a.qcow2 o
	tt convert -t foo a.qcow2 o
	tt convert -n a.qcow2 o
	tt convert -c -O raw a.qcow2 o
	tt convert -B x a.qcow2 o
	tt convert -O qcow2 -B a.qcow2 a.qcow2 o
	tt convert -O qcow2 -B a.qcow2 -F qcow2 r.raw r2.raw o
	tt convert -o foo=1 a.qcow2 o
	tt convert -O qcow2 -o foo=1 a.qcow2 o
	tt convert -O qcow2 -o cluster_size=3 a.qcow2 o
	tt convert -n -O raw r2.raw r.raw
	tt convert a.qcow2 nodir/o
	tt convert -O qcow2 a.qcow2 nodir/o
	tt convert -U --image-opts -f raw driver=raw,file.filename=r.raw o
	tt convert -n --target-image-opts -O raw r.raw driver=raw,file.filename=r2.raw
}

done_well() {
	sources
	t convert -f raw -O qcow2 r2.raw o1
	t compare r2.raw o1
	t convert -p -f raw -O qcow2 r.raw o2
	t convert -p -q -f raw -O qcow2 r2.raw o3
	t convert -f foo -f raw -O foo -O qcow2 -o cluster_size=4k -o lazy_refcounts=on -o cluster_size=8k r2.raw o4
	t info o4
	t compare r2.raw o4
	t convert -f raw -O qcow2 r2.raw r.raw r2.raw o5
	t info --output=json o5
	t convert -f qcow2 -O raw -S 0 o1 o6
	t compare -s -f raw -F raw o6 o6
	t convert -f raw -O qcow2 -c r2.raw o7
	t compare r2.raw o7
	t convert --image-opts driver=qcow2,file.filename=o1 -O raw o8
	t compare -f raw o8 r2.raw
	t convert -n -f raw -O raw r2.raw o8
	t convert -n --target-is-zero --target-image-opts -f raw r.raw driver=qcow2,file.filename=o2
	t compare r.raw o2
	t convert -f raw -O qcow2 -B r.raw -F raw r2.raw o9
	t info o9
	t compare r2.raw o9
	t convert r2.raw -O raw -f raw o10 -m 4 -W -S 64k -t none -T writeback -r 100M
	t compare -f raw -F raw r2.raw o10
	t check o1
	t check o7
	ls
}

same_as_qemu convert-refused refused
same_as_qemu convert done_well

# Refused by both, in other words.
refuses() {
	local words=$1 out

	shift
	rm -f o
	out=$("$PLATTER" convert "$@" o 2>&1)
	is "$?" 1 "convert $*: status 1"
	like "$out" "^platter: .*$words" "convert $*: says why"
	ok "convert $*: leaves nothing" [ ! -e o ]
}
QI=$PLATTER
sources
refuses "'nofile': No such file or directory" -O qcow2 -B nofile -F qcow2 a.qcow2
refuses "Can't find snapshot" -l nosuch a.qcow2
refuses "Can't find snapshot" -l snapshot.id=1,snapshot.name=s1 a.qcow2
refuses 'single source' --bitmaps -O qcow2 a.qcow2 a.qcow2
refuses 'bitmaps' --bitmaps -O raw a.qcow2

# genimage's call: two inputs, one after the other, and it leaves the format to be found out.
sources
"$PLATTER" convert -O raw a.qcow2 r2.raw both 2>/dev/null
cat r.raw r2.raw >want
is_file_equal both want 'sources are put one after the other'

is "$("$PLATTER" convert -f raw -O qcow2 r2.raw quiet.qcow2 2>&1)" '' 'nothing is printed'
ok '--verify' "$PLATTER" convert --verify -f raw -O qcow2 r2.raw verified.qcow2
for level in fast 1 9 best; do
	ok "--compress-level $level" "$PLATTER" convert -c --compress-level $level -f raw -O qcow2 r2.raw c.qcow2
	ok "--compress-level $level: content" "$PLATTER" compare r2.raw c.qcow2
done
"$PLATTER" create -q -f qcow2 -b r2.raw -F raw top.qcow2
fails 1 '--untrusted refuses a backing file' "$PLATTER" convert --untrusted -O raw top.qcow2 u.raw
like "$("$PLATTER" convert --untrusted -O raw top.qcow2 u.raw 2>&1)" 'r2\.raw' '--untrusted names it'
ok '--no-backing' "$PLATTER" convert --no-backing -O raw top.qcow2 n.raw
truncate -s 2M zeros
is_file_equal n.raw zeros '--no-backing reads zeros'
done_testing
