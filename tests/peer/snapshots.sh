#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Internal snapshots that qemu-img made: listed and read by platter as by qemu-img, untouched by what
# platter writes to the disk afterwards, and ready to be applied and deleted by qemu-img.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io
. "$srcdir/tests/peer/peer.sh"

# then IMAGE DESCRIPTION: each snapshot in $names reads, by both, as the file NAME.raw.
then_as_before() {
	local name out=

	for name in $names; do
		qemu-img convert -l "$name" -O raw "$1" q.raw
		cmp -s q.raw "$name.raw" || out="$out [qemu-img: $name has changed]"
		"$PLATTER" convert -l "$name" -O raw "$1" p.raw
		cmp -s p.raw "$name.raw" || out="$out [platter: $name is another]"
	done
	is "$out" '' "$2"
}

for options in '' compat=0.10 cluster_size=512 cluster_size=2M,compat=0.10 refcount_bits=8 refcount_bits=64,cluster_size=1k \
	extended_l2=on extended_l2=on,cluster_size=16k compression_type=zstd lazy_refcounts=on; do
	sampled || continue
	text=${options:-defaults}
	size=$((1 << 20 | 1024))
	rm -f s.qcow2 m.raw
	"$PLATTER" create -q -f qcow2 ${options:+-o $options} s.qcow2 $size
	truncate -s $size m.raw
	names=
	for name in first second; do
		next_seed
		"$WRITER" -f qcow2 -m m.raw s.qcow2 "random 40 $seed" || fail "$text: write" "seed $seed"
		cp m.raw $name.raw
		ok "$text: qemu-img makes the snapshot $name" qemu-img snapshot -c $name s.qcow2
		names="$names $name"
	done
	# A write to everything that is shared, and to a table that is.
	next_seed
	ok "$text: we write to what is shared" "$WRITER" -f qcow2 -m m.raw s.qcow2 "random 100 $seed"
	agree s.qcow2 "$text: disk" m.raw
	then_as_before s.qcow2 "$text: snapshots"
	"$WRITER" -q s.qcow2 "random 40 $seed" >steps
	ok "$text: they write" by_them s.qcow2 steps
	agree s.qcow2 "$text: disk after their writes"
	then_as_before s.qcow2 "$text: snapshots after their writes"

	# Listed alike, by any name.
	"$QEMU_IMG_LINK" info s.qcow2 | sed -n '/^Snapshot list/,/^Format/p' >p.list
	qemu-img info s.qcow2 | sed -n '/^Snapshot list/,/^Format/p' >q.list
	is_output p.list q.list "$text: listed as by qemu-img"
	is "$(grep -c first p.list)" 1 "$text: and there is something to list"
	for by in 1 2 first second snapshot.id=1 snapshot.name=second snapshot.id=2,snapshot.name=second \
		snapshot.id=1,snapshot.name=second third; do
		rm -f q.raw p.raw
		qemu-img convert -l $by -O raw s.qcow2 q.raw >/dev/null 2>&1
		qs=$?
		"$PLATTER" convert -l $by -O raw s.qcow2 p.raw >/dev/null 2>&1
		is "$?" "$qs" "$text: -l $by ends as with qemu-img"
		if [ $qs = 0 ]; then
			is_file_equal p.raw q.raw "$text: -l $by, the same content"
		fi
	done

	# A crash in the middle of our writes does the snapshots no harm.
	next_seed
	cp s.qcow2 k.qcow2
	{ "$WRITER" -f qcow2 k.qcow2 "random 60 $seed" kill; } >/dev/null 2>&1
	case $options in
	*lazy*) qemu-img check -q -r all k.qcow2 >/dev/null 2>&1 ;;
	esac
	like "$(check_of qemu-img k.qcow2)" '^[03] check-errors 0|^[03] leaks' "$text: killed while writing: leaks at most"
	then_as_before k.qcow2 "$text: snapshots after that"

	# And qemu-img goes on with it.
	cp second.raw m.raw
	ok "$text: qemu-img applies" qemu-img snapshot -a second s.qcow2
	agree s.qcow2 "$text: applied" m.raw
	next_seed
	ok "$text: we write to that" "$WRITER" -f qcow2 -m m.raw s.qcow2 "random 60 $seed"
	agree s.qcow2 "$text: disk" m.raw
	then_as_before s.qcow2 "$text: snapshots"
	ok "$text: qemu-img deletes the first" qemu-img snapshot -d first s.qcow2
	names=second
	agree s.qcow2 "$text: disk without it" m.raw
	next_seed
	ok "$text: we write again" "$WRITER" -f qcow2 -m m.raw s.qcow2 "random 60 $seed"
	then_as_before s.qcow2 "$text: the other snapshot"
	ok "$text: qemu-img deletes the second" qemu-img snapshot -d second s.qcow2
	agree s.qcow2 "$text: disk without any" m.raw
done

# A disk that has grown since, over a backing file.
head -c 300000 "$PLATTER" >base.raw
"$PLATTER" create -q -f qcow2 -b base.raw -F raw g.qcow2
model_of g.qcow2 before.raw
qemu-img snapshot -c before g.qcow2
qemu-img resize -q g.qcow2 1M
cp before.raw m.raw
truncate -s 1M m.raw
next_seed
ok 'grown since: we write' "$WRITER" -f qcow2 -m m.raw g.qcow2 "random 80 $seed"
agree g.qcow2 'grown since: disk' m.raw
# (It has the size that the disk has now, as with qemu-img.)
ok 'grown since: the snapshot is read' "$PLATTER" convert -l before -O raw g.qcow2 p.raw
ok 'grown since: it begins so' cmp -n "$(stat -c %s before.raw)" p.raw before.raw
qemu-img convert -l before -O raw g.qcow2 q.raw
is_file_equal p.raw q.raw 'grown since: as for qemu-img'

# refcount_bits=1 has no room for a second reference.
"$PLATTER" create -q -f qcow2 -o refcount_bits=1 one.qcow2 1M
"$WRITER" one.qcow2 'write 7 0 65536'
qemu-img snapshot -c none one.qcow2 >/dev/null 2>&1
"$WRITER" one.qcow2 'write 8 65536 65536'
like "$(check_of qemu-img one.qcow2)" '^[03] ' 'a snapshot that failed leaves leaks at most'
done_testing
