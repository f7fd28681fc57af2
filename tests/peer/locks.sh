#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Images in use: platter refuses what another program writes to, in qemu-img's words, -U reads all the
# same, and qemu-img refuses what platter writes to.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io
. "$srcdir/tests/peer/peer.sh"

# alike DESCRIPTION STATUS ARGUMENT...: both end so, and say the same.
alike() {
	local text=$1 want=$2 ours theirs

	shift 2
	theirs=$(qemu-img "$@" 2>&1; echo "status $?")
	ours=$("$QEMU_IMG_LINK" "$@" 2>&1; echo "status $?")
	if [ "${theirs##*status }" != "$want" ]; then
		fail "$text" "qemu-img does not end with $want:" "$theirs"
	else
		is "$ours" "$theirs" "$text"
	fi
}

seq 1 200000 | head -c 1M >plain.raw
cp plain.raw held.raw
qemu-img convert -f raw -O qcow2 plain.raw held.qcow2
qemu-img create -q -f qcow2 -b held.qcow2 -F qcow2 over.qcow2
cp plain.raw target.raw

# ---- they hold -----------------------------------------------------------------------------------

for f in qcow2 raw; do
	image=held.$f
	hold qemu-io -f $f "$image"
	cp "$image" before
	# info of a raw image needs nothing that could change.
	if [ $f = qcow2 ]; then want=1; else want=0; fi
	alike "$f, in use: info" $want info -f $f "$image"
	alike "$f, in use: convert from it" 1 convert -f $f -O raw "$image" new.raw
	fails 1 '  leaves nothing behind' test -e new.raw
	if [ $f = qcow2 ]; then
		alike 'in use: map' 1 map -f qcow2 "$image"
		alike 'in use: check' 1 check -f qcow2 "$image"
		alike 'in use: convert over it' 1 convert -f raw -O qcow2 plain.raw "$image"
		alike 'in use: convert -n into it' 1 convert -n -f raw -O qcow2 plain.raw "$image"
		alike 'in use: compare' 2 compare -f qcow2 -F raw "$image" plain.raw
		alike 'in use: compare, the other' 2 compare -f raw -F qcow2 plain.raw "$image"
		alike 'in use: create over it' 1 create -q -f qcow2 "$image" 1M
	else
		# A writer of a raw file that lets others write, as qemu-io is: let in as with qemu-img, but
		# its file is not taken away from under it.
		alike 'raw, in use: map' 0 map -f raw "$image"
		alike 'raw, in use: convert -n into it' 0 convert -n -f raw -O raw plain.raw "$image"
		alike 'raw, in use: compare' 0 compare -f raw -F raw "$image" plain.raw
		alike 'raw, in use: check' 63 check -f raw "$image"
		alike 'raw, in use: an overlay on it' 0 create -q -f qcow2 -b "$image" -F raw above.qcow2
		alike 'raw, in use: map of the overlay' 0 map above.qcow2
		fails 1 'raw, in use: convert over it' "$PLATTER" convert -f raw -O raw plain.raw "$image"
		fails 1 'raw, in use: create over it' "$PLATTER" create -q -f raw "$image" 1M
	fi
	is_file_equal "$image" before "$f, in use: and it is as it was"
	fails 1 "$f, in use: not opened for writing" "$WRITER" -f $f "$image" 'write 1 0 512'
	is_file_equal "$image" before '  nor changed'
	if [ $f = qcow2 ]; then
		alike 'its overlay: map' 1 map over.qcow2
		alike 'its overlay: convert' 1 convert -O raw over.qcow2 new.raw
		alike 'its overlay: info' 0 info -f qcow2 over.qcow2
		alike 'its overlay, -U: compare' 0 compare -U -F raw over.qcow2 plain.raw
		alike 'its overlay, -U: map' 0 map -U over.qcow2
	fi
	alike "$f, in use, -U: info" 0 info -U -f $f "$image"
	alike "$f, in use, --force-share behind the name" 0 info "$image" --force-share --output=json -f $f
	alike "$f, in use, -U: map" 0 map -U -f $f --output=json "$image"
	[ $f = raw ] || alike "$f, in use, -U: check" 0 check -U -f $f "$image"
	alike "$f, in use, -U: compare" 0 compare -U -f $f -F raw "$image" plain.raw
	ok "$f, in use, -U: convert from it" "$PLATTER" convert -U -f $f -O raw "$image" new.raw
	is_file_equal new.raw plain.raw '  with its content'
	rm -f new.raw
	let_go
	ok "$f, free again" "$WRITER" -f $f "$image" 'write 1 0 512'
	"$WRITER" -f $f "$image" "write 49 0 1" >/dev/null
	cp plain.raw held.raw
	qemu-img convert -f raw -O qcow2 plain.raw held.qcow2
done

# Readers do not disturb one another.
hold qemu-io -r -f qcow2 held.qcow2
fails 1 'a reader holds it' "$WRITER" -f qcow2 held.qcow2
alike 'beside a reader: map' 0 map held.qcow2
alike 'beside a reader: info' 0 info held.qcow2
alike 'beside a reader: check' 0 check held.qcow2
alike 'beside a reader: compare' 0 compare -F raw held.qcow2 plain.raw
alike 'beside a reader: convert over it' 1 convert -f raw -O qcow2 plain.raw held.qcow2
let_go

# ---- we hold -------------------------------------------------------------------------------------

for f in qcow2 raw; do
	image=held.$f
	hold "$WRITER" -f $f "$image" 'write 1 0 512' flush hold
	for args in 'check -f qcow2' 'map -f qcow2' 'snapshot -c s' 'bitmap --add' "resize -q -f $f --shrink"; do
		case $args in
		resize*) last=65536 ;;
		bitmap*) last=b ;;
		*) last='' ;;
		esac
		[[ $f = qcow2 || $args = resize* ]] || continue
		# shellcheck disable=SC2086
		out=$(qemu-img $args "$image" $last 2>&1)
		is $? 1 "we hold $f: qemu-img $args"
		like "$out" 'Failed to get .*lock' '  is refused for its lock'
	done
	if [ $f = raw ]; then
		ok 'we hold raw: qemu-img may look at it' qemu-img map -f raw "$image"
	fi
	fails 1 "we hold $f: qemu-io" qemu-io -f $f -c 'write 0 512' "$image"
	fails 1 "we hold $f: another of ours" "$WRITER" -f $f "$image" 'write 1 0 512'
	like "$("$PLATTER" convert -f $f -O raw "$image" new.raw 2>&1)" "Failed to get shared \"write\" lock" \
		"we hold $f: our convert"
	ok "we hold $f: qemu-img info -U" qemu-img info -U -f $f "$image"
	let_go
	ok "$f is free again" qemu-io -f $f -c 'write 0 512' "$image"
done

hold "$WRITER" -r -f qcow2 held.qcow2 hold
ok 'they may read too' qemu-img check -q held.qcow2
fails 1 'and may not write' qemu-io -f qcow2 -c 'write 0 512' held.qcow2
let_go

# While convert runs, its source stays readable and its target is locked: the rate keeps it there.
seq 1 3000000 | head -c 8M >slow.raw
rm target.raw
truncate -s 8M target.raw
"$PLATTER" convert -r 4M -n -f raw -O raw slow.raw target.raw &
copy=$!
for ((i = 0; i < 1000; i++)); do
	cmp -s -n 4096 target.raw slow.raw && break
	sleep 0.01
done
fails 1 'a target that is being written is refused' qemu-img resize -f raw target.raw 9M
ok '  the source can be read' qemu-img map -f raw slow.raw
fails 1 '  and not written' qemu-io -f raw -c 'write 0 512' slow.raw
wait $copy
is_file_equal slow.raw target.raw '  and the copy ends well'
done_testing
