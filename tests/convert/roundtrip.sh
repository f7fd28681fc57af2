#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# convert: the target holds what the source holds, whatever the formats, sizes and options, and
# qemu-img agrees on what is in it.
# shellcheck source=tests/lib.sh
. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img

# Data in runs of many lengths and places, some of it zeros that are allocated, an odd end.
make_source() {
	truncate -s "$2" "$1"
	seq 1 300000 | dd of="$1" conv=notrunc bs=4096 seek=3 status=none
	seq 7 90000 | dd of="$1" conv=notrunc bs=512 seek=20001 status=none
	dd if=/dev/zero of="$1" conv=notrunc bs=64k seek=90 count=7 status=none
	printf 'one sector' | dd of="$1" conv=notrunc bs=512 seek=25000 status=none
	dd if="$PLATTER" of="$1" conv=notrunc bs=64k seek=210 count=20 status=none
	printf 'end' | dd of="$1" conv=notrunc bs=1 seek=$(($2 - 3)) status=none
}

# same FORMAT FILE DESCRIPTION: FILE holds what src.raw holds; the two programs agree.
same() {
	local out

	if ! out=$(qemu-img compare -f raw -F "$1" src.raw "$2" 2>&1); then
		fail "$3" "qemu-img compare: $out"
	elif ! out=$("$PLATTER" compare -f raw -F "$1" src.raw "$2" 2>&1); then
		fail "$3" "platter compare: $out"
	elif [ "$1" = qcow2 ] && ! out=$(qemu-img check -f qcow2 "$2" 2>&1); then
		fail "$3" "qemu-img check: $out"
	else
		pass "$3"
	fi
}

make_source src.raw 20971520

for options in compat=1.1 compat=0.10 cluster_size=512 cluster_size=2M compression_type=zstd \
	preallocation=metadata preallocation=falloc extended_l2=on,cluster_size=64k; do
	ok "raw to qcow2 with $options" "$PLATTER" convert -f raw -O qcow2 -o "$options" src.raw a.qcow2
	same qcow2 a.qcow2 "  holds the same"
done

ok 'raw to qcow2' "$PLATTER" convert -f raw -O qcow2 src.raw a.qcow2
ok '  and back' "$PLATTER" convert -f qcow2 -O raw a.qcow2 back.raw
is_file_equal src.raw back.raw '  byte for byte'
for options in '' '-o compression_type=zstd' '-o cluster_size=4k' '--compress-level best' '-m 16 -W'; do
	# shellcheck disable=SC2086 # several words
	ok "compressed $options" "$PLATTER" convert -c $options -f raw -O qcow2 src.raw c.qcow2
	same qcow2 c.qcow2 "  holds the same"
	"$PLATTER" convert -f qcow2 -O raw c.qcow2 back.raw
	is_file_equal src.raw back.raw "  and comes back byte for byte"
done
qemu-img convert -c -f raw -O qcow2 src.raw qemu.qcow2
[ "$(stat -c %s c.qcow2)" -le $(($(stat -c %s qemu.qcow2) * 115 / 100)) ]
is $? 0 'no more than 15 % larger than what qemu-img compresses'
vpc=no
"$PLATTER" create -f vpc v.vpc 1M >/dev/null 2>&1 && vpc=yes
if [ $vpc = yes ]; then
	for options in subformat=dynamic,force_size=on subformat=fixed,force_size=on; do
		ok "raw to vpc with $options" "$PLATTER" convert -f raw -O vpc -o "$options" src.raw a.vpc
		same vpc a.vpc '  holds the same'
		ok '  and back' "$PLATTER" convert -f vpc -O raw a.vpc back.raw
		is_file_equal src.raw back.raw '  byte for byte'
	done
else
	skip 'raw to vpc' 'this build has no vpc driver'
fi

# Every option that qemu-img has written
for options in '-O qcow2 -c' '-O qcow2 -o compat=0.10' '-O vpc -o force_size=on' '-O qcow2 -o cluster_size=512'; do
	# shellcheck disable=SC2086
	qemu-img convert -f raw $options src.raw by-qemu
	[[ $vpc = no && $options = *vpc* ]] && continue
	"$PLATTER" convert -O raw by-qemu back.raw
	is_file_equal src.raw back.raw "from qemu-img $options"
done

# sizes that are no multiple of a sector
head -c 100001 src.raw > odd.raw
ok 'a raw file of an odd size' "$PLATTER" convert -f raw -O raw odd.raw odd.out
is "$(stat -c %s odd.out)" 100352 '  is rounded up to a sector'
head -c 100001 odd.out | cmp - odd.raw
is $? 0 '  and holds the same'
: > empty.raw
ok 'an empty disk' "$PLATTER" convert -f raw -O raw empty.raw empty.out
is "$(stat -c %s empty.out)" 0 '  stays empty'
ok 'an empty disk as qcow2' "$PLATTER" convert -f raw -O qcow2 empty.raw empty.qcow2
is "$(qemu-img info --output=json empty.qcow2 | grep -c '"virtual-size": 0')" 1 '  is one of no size'

# several sources, with boundaries inside clusters
head -c 1047552 src.raw > 1.raw
head -c 3584 src.raw > 2.raw
cat 1.raw 2.raw 1.raw > all.raw
qemu-img convert -f raw -O qcow2 1.raw 1.qcow2
qemu-img convert -f raw -O qcow2 2.raw 2.qcow2
for options in '-O raw' '-O qcow2' '-O qcow2 -c' '-O qcow2 -o cluster_size=2M'; do
	# shellcheck disable=SC2086
	ok "three sources $options" "$PLATTER" convert -f qcow2 $options 1.qcow2 2.qcow2 1.qcow2 all.out
	qemu-img convert -O raw all.out all.back
	is_file_equal all.raw all.back '  one after the other'
done
fails 1 'three sources and a backing file' "$PLATTER" convert -O qcow2 -B src.raw -F raw 1.raw 2.raw 1.raw x.qcow2
[ ! -e x.qcow2 ]
is $? 0 '  makes nothing'

# holes: as many as qemu-img keeps; the filesystem may need a block or two for its own map of them
blocks() { stat -c %b "$1"; }
qemu-img convert -f raw -O raw src.raw q.raw
"$PLATTER" convert -f raw -O raw src.raw p.raw
[ "$(blocks p.raw)" -le $(($(blocks q.raw) + 64)) ]
is $? 0 "zeros become holes ($(blocks p.raw) blocks, qemu-img $(blocks q.raw))"
"$PLATTER" convert -f raw -O raw -S 0 src.raw full.raw
is_file_equal src.raw full.raw '-S 0: the same content'
is $(($(blocks full.raw) * 512 >= 20971520)) 1 '-S 0: everything is allocated'
# What is allocated, as lines of start, end and state; neighbours of one state are one line.
map() {
	qemu-img map --output=json -f qcow2 "$1" |
		sed -n 's/.*"start": \([0-9]*\), "length": \([0-9]*\).*"data": \([a-z]*\).*/\1 \2 \3/p' |
		awk '$3 != state { if (NR > 1) print start, $1, state; start = $1; state = $3 }
			{ end = $1 + $2 } END { print start, end, state }'
}
for s in 4k 64k 1M; do
	"$PLATTER" convert -f raw -O qcow2 -o cluster_size=1k -S $s full.raw p.qcow2
	qemu-img convert -f raw -O qcow2 -o cluster_size=1k -S $s full.raw q.qcow2
	same qcow2 p.qcow2 "-S $s: the same content"
	is "$(map p.qcow2)" "$(map q.qcow2)" "-S $s: the same map as qemu-img"
done

# a large disk with little in it takes the time of what is in it
truncate -s 4T huge.raw 2>/dev/null && {
	printf 'here' | dd of=huge.raw bs=1 seek=3000000000000 conv=notrunc status=none
	ok '4 TiB with one block in it' timeout 60 "$PLATTER" convert -f raw -O qcow2 huge.raw huge.qcow2
	ok '  the same' timeout 60 "$PLATTER" compare -f raw -F qcow2 huge.raw huge.qcow2
}

ok '--verify' "$PLATTER" convert --verify -f raw -O qcow2 src.raw v.qcow2
ok '--verify, compressed' "$PLATTER" convert --verify -c -f raw -O qcow2 src.raw v.qcow2
ok '-r, with a limit that hurts little' "$PLATTER" convert -r 200M -f raw -O qcow2 src.raw v.qcow2
same qcow2 v.qcow2 '  the same content'
done_testing
