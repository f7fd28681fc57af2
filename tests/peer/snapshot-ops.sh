#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# snapshot: what we make, apply and delete, qemu-img lists, reads, applies, deletes and finds sound, and the other way
# round; words and exit codes are its own.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io
. "$srcdir/tests/peer/peer.sh"

# One step by the one program or the other: $RANDOM decides, from the seed.
by_either() {
	if ((RANDOM % 2)); then "$PLATTER" snapshot "$@"; else qemu-img snapshot "$@"; fi
}

next_seed
RANDOM=$((seed % 32768))
for options in '' compat=0.10 cluster_size=512 cluster_size=2M refcount_bits=64,cluster_size=1k extended_l2=on \
	compression_type=zstd lazy_refcounts=on; do
	sampled || continue
	text=${options:-defaults}
	size=$((1 << 20 | 1024))
	rm -f s.qcow2 m.raw
	"$PLATTER" create -q -f qcow2 ${options:+-o $options} s.qcow2 $size
	truncate -s $size m.raw
	for name in first second third; do
		next_seed
		"$WRITER" -f qcow2 -m m.raw s.qcow2 "random 30 $seed" || fail "$text: write" "seed $seed"
		cp m.raw $name.raw
		ok "$text: made: $name" by_either -c $name s.qcow2
	done
	next_seed
	"$WRITER" -f qcow2 -m m.raw s.qcow2 "random 30 $seed" || fail "$text: write" "seed $seed"
	cp m.raw last.raw
	ok "$text: made: last" "$PLATTER" snapshot -c last s.qcow2
	agree s.qcow2 "$text: the disk" m.raw
	for name in second first last third; do
		ok "$text: applied: $name" by_either -a $name s.qcow2
		agree s.qcow2 "$text: the disk is $name" $name.raw
	done
	for name in first third; do
		ok "$text: deleted: $name" by_either -d $name s.qcow2
	done
	agree s.qcow2 "$text: the disk is as before" third.raw
	out=
	for name in second last; do
		qemu-img convert -l $name -O raw s.qcow2 q.raw
		cmp -s q.raw $name.raw || out="$out [qemu-img: $name is another]"
	done
	is "$out" '' "$text: and so are the other snapshots"
	# What is not shared any more is written in place: nothing grows.
	ok "$text: deleted: the rest" "$PLATTER" snapshot -d second s.qcow2
	"$PLATTER" snapshot -d last s.qcow2
	agree s.qcow2 "$text: the disk without snapshots" third.raw
	"$PLATTER" io -f qcow2 -c "write -P 7 0 1M" s.qcow2 >/dev/null
	"$PLATTER" snapshot -c once s.qcow2
	"$PLATTER" snapshot -d once s.qcow2
	before=$(stat -c %s s.qcow2)
	"$PLATTER" io -f qcow2 -c "write -P 8 0 1M" s.qcow2 >/dev/null
	is "$("$PLATTER" snapshot -l s.qcow2; stat -c %s s.qcow2)" "$before" "$text: nothing is listed, nothing copied"
done

# Words and statuses.
mkdir -p theirs ours
"$PLATTER" create -q -f qcow2 w.qcow2 1M
qemu-img snapshot -c one w.qcow2
qemu-img snapshot -c one w.qcow2
qemu-img snapshot -c 1 w.qcow2
while read -r -a args; do
	out=
	for who in ours theirs; do
		program=$QEMU_IMG_LINK
		[ $who = ours ] || program=qemu-img
		cp w.qcow2 t.qcow2
		{
			"$program" "${args[@]}" 2>&1
			echo "status $?"
			qemu-img snapshot -l t.qcow2
		} | sed 's/20[0-9-]* [0-9:]* /DATE /' >$who/out
	done
	is_output ours/out theirs/out "qemu-img ${args[*]}"
done <<'END'
snapshot -l t.qcow2
snapshot -U -l t.qcow2
snapshot
snapshot -l -c x t.qcow2
snapshot -c new t.qcow2
snapshot -q -c one t.qcow2
snapshot -a 1 t.qcow2
snapshot -a one t.qcow2
snapshot -a nobody t.qcow2
snapshot -d nobody t.qcow2
snapshot -d one t.qcow2
snapshot -d 1 t.qcow2
snapshot -c x -U t.qcow2
snapshot -c x
snapshot t.qcow2 more
snapshot -c x nofile
snapshot --image-opts -l driver=qcow2,file.filename=t.qcow2
END
is "$("$PLATTER" snapshot w.qcow2)" "$(qemu-img snapshot -l w.qcow2)" "they are listed unasked, as by newer versions"
is "$("$PLATTER" snapshot -d 2 w.qcow2 2>&1; qemu-img snapshot -l w.qcow2 | tail -n +3 | cut -c 1-12)" \
	"1         on
3         1 " "an id is enough to delete, where no name is meant"
"$PLATTER" create -q -f qcow2 -o data_file=d.raw,data_file_raw=on d.qcow2 1M
is "$("$PLATTER" snapshot -c x d.qcow2 2>&1; echo $?)" "platter: Could not create snapshot 'x': 'd.qcow2': an image with an external data file can have \
no internal snapshots
1" "an external data file"
done_testing
