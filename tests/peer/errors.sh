#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# What goes wrong outside of an image: a full disk, a target that cannot be written, a name that does
# not exist, an image in use, a bad option.  One clear line that names the file and the reason,
# qemu-img's exit code, nothing on stdout, and the target as it was.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io
. "$srcdir/tests/peer/peer.sh"

# wrong DESCRIPTION FILE REASON ARGUMENT...: it fails as qemu-img does (exit code), saying in one line
# (and what qemu-img adds in a second) FILE and REASON, extended regular expressions.
wrong() {
	local text=$1 file=$2 reason=$3 status lines

	shift 3
	qemu-img "$@" >/dev/null 2>&1 </dev/null
	status=$?
	rm -f new small/new small/data 2>/dev/null # qemu-img leaves them
	"$PLATTER" "$@" >out 2>err </dev/null
	is $? $status "$text: exit code $status"
	is "$(cat out)" '' '  nothing on stdout'
	lines=$(grep -vc '^Could not open backing image\.$' err)
	case $reason in
	*lock*) is "$lines" 2 '  two lines' ;;
	*) is "$lines" 1 '  one line' || diag "$(cat err)" ;;
	esac
	like "$(cat err)" "$file" "  names $file"
	like "$(cat err)" "$reason" "  names the reason: $reason"
}

# ours_leaves FILE DESCRIPTION ARGUMENT...: what is in the file "before" stays in FILE; without one
# there is no FILE afterwards.
ours_leaves() {
	local file=$1 text=$2

	shift 2
	if [ -e before ]; then
		cp before "$file"
		"$PLATTER" "$@" >/dev/null 2>&1
		is_file_equal "$file" before "  $text"
	else
		rm -f "$file"
		"$PLATTER" "$@" >/dev/null 2>&1
		is "$(ls "$file" 2>/dev/null)" '' "  $text"
	fi
}

seq 1 400000 | head -c 2M >data.raw
qemu-img convert -f raw -O qcow2 data.raw data.qcow2
qemu-img create -q -f qcow2 -b lost.qcow2 -u -F qcow2 orphan.qcow2 1M

# ---- names ---------------------------------------------------------------------------------------

for args in 'info X' 'map X' 'check X' 'convert -O raw X new' 'compare X data.raw' 'compare data.raw X' \
	'create -f qcow2 -b X -F qcow2 new' 'convert -O qcow2 -B X -F qcow2 data.raw new' 'convert -n -O raw data.raw X'; do
	for name in not-there nodir/not-there; do
		# shellcheck disable=SC2086
		wrong "${args//X/$name}" "'?$name'?" 'No such file or directory' ${args//X/$name}
		is "$(ls new $name 2>/dev/null)" '' '  leaves nothing'
	done
done
wrong 'convert into a folder that is not there' nodir/new 'No such file or directory' convert -O raw data.raw nodir/new
wrong 'convert over a folder' "'?\\./?'?" 'is a directory|Is a directory|regular file' convert -f raw -O raw data.raw .
wrong 'a backing file that is not there' lost.qcow2 'No such file or directory' map orphan.qcow2
wrong 'convert from it' lost.qcow2 'No such file or directory' convert -O raw orphan.qcow2 new
wrong 'a file that is another format' data.raw 'not in qcow2 format' convert -f qcow2 -O raw data.raw new
is "$(ls new 2>/dev/null)" '' '  leaves nothing'
: >empty
wrong 'an empty file' empty 'not in qcow2 format' convert -f qcow2 -O raw empty new

# ---- options -------------------------------------------------------------------------------------

rm -f new before
for bad in cluster_size=3 cluster_size=4M refcount_bits=3 compat=5 lazy_refcounts=perhaps preallocation=some nosuch=1 \
	extended_l2=on,cluster_size=4k compression_type=lz4 size=-1; do
	"$PLATTER" create -q -f qcow2 -o "$bad" new 1M >out 2>err
	is "$?" 1 "create -o $bad"
	like "$(cat err)" "${bad%%=*}|${bad##*=}|compat|[Cc]luster size|[Rr]efcount|[Ss]ubcluster|[Ii]mage size" '  names what is wrong'
	is "$(ls new 2>/dev/null; cat out)" '' '  leaves nothing'
	cp data.qcow2 before
	ours_leaves new "an image of that name stays" convert -f raw -O qcow2 -o "$bad" data.raw new
	rm -f new before
done
wrong 'convert -O nosuch' nosuch 'Unknown file format' convert -O nosuch data.raw new
wrong 'convert -S 100' 'sparse output' multiples convert -S 100 data.raw new
wrong 'convert -m 99' coroutines 'between 1 and 16' convert -m 99 data.raw new
wrong 'convert -t bad' 'bad' 'cache' convert -t bad data.raw new
is "$(ls new 2>/dev/null)" '' 'nothing is left of that'

# ---- in use --------------------------------------------------------------------------------------

hold qemu-io -f qcow2 data.qcow2
cp data.qcow2 held
wrong 'from an image in use' data.qcow2 'lock' convert -O raw data.qcow2 new
is "$(ls new 2>/dev/null)" '' '  leaves nothing'
wrong 'over an image in use' data.qcow2 'lock' convert -f raw -O qcow2 data.raw data.qcow2
wrong 'into an image in use' data.qcow2 'lock' convert -n -f raw -O qcow2 data.raw data.qcow2
is_file_equal data.qcow2 held 'the image in use is as it was'
let_go

# ---- a small disk --------------------------------------------------------------------------------

# full_disk: its points, where there is a file system of 1 MiB at small/.
full_disk() {
	local options before after

	for options in '-O raw' '-O qcow2' '-O qcow2 -o cluster_size=512' '-O qcow2 -o preallocation=full' \
		'-O qcow2 -o preallocation=falloc' '-O raw -o preallocation=full' '-O raw -o preallocation=falloc' \
		'-O raw -S 0' '-O qcow2 -W -m 16' '-t none -O qcow2'; do
		for before in '' text; do
			rm -f small/* before
			# shellcheck disable=SC2086
			wrong "full disk, convert $options${before:+, over something}" 'small/(new|data)' 'No space left on device' \
				convert -f raw $options random.raw small/new
			rm -f small/*
			after='nothing is left'
			[ -z "$before" ] || {
				echo 'what was there' >before
				after='what was there stays'
			}
			# shellcheck disable=SC2086
			ours_leaves small/new "$after" \
				convert -f raw $options random.raw small/new
			is "$(find small -type f ! -name new)" '' '  and nothing beside it'
		done
	done
	# With a data file the image is made in place.
	rm -f small/* before
	wrong 'full disk, convert with a data file' 'small/(new|data)' 'No space left on device' \
		convert -f raw -O qcow2 -o data_file=small/data random.raw small/new
	fails 1 '  and what is there opens as nothing' qemu-img map small/new
	rm -f small/*
	for options in '-f qcow2 -o preallocation=full' '-f raw -o preallocation=full' '-f qcow2 -o preallocation=falloc' \
		'-f raw -o preallocation=falloc'; do
		# shellcheck disable=SC2086
		wrong "full disk, create $options" small/new 'No space left on device' create -q $options small/new 8M
		# shellcheck disable=SC2086
		ours_leaves small/new 'nothing is left' create -q $options small/new 8M
	done
	rm -f small/*

	# An image that stays there while the disk fills up: what was flushed is right, and it is in order.
	"$PLATTER" create -q -f qcow2 -o cluster_size=4k small/in.qcow2 8M
	rm -f m.raw
	truncate -s 8M m.raw
	ok 'an image on a small disk' "$WRITER" -m m.raw small/in.qcow2 'write 5 0 400000'
	"$WRITER" small/in.qcow2 'write 6 1048576 4000000' >out 2>&1
	is $? 1 'it fills the disk'
	like "$(cat out)" 'No space left on device' '  and says so'
	like "$(check_of qemu-img small/in.qcow2)" '^[03] ' '  leaks at most'
	ok '  what was there is there' "$WRITER" -r small/in.qcow2 'read 5 0 400000'
	ok '  it can be written to where it is full' "$WRITER" small/in.qcow2 'write 7 0 400000'
	ok '  and given back' "$WRITER" small/in.qcow2 'discard 1048576 4194304' flush 'write 8 2000000 4096'
	ok '  and read' "$WRITER" -r small/in.qcow2 'read 7 0 400000' 'read 8 2000000 4096'
	like "$(check_of qemu-img small/in.qcow2)" '^[03] ' '  leaks at most'
	rm -f small/*

	# A target that cannot be written.
	echo 'what was there' >before
	cp before small/new
	mount -o remount,ro small
	wrong 'a read-only target' small/new 'Read-only file system' convert -f raw -O raw data.raw small/new
	wrong 'a new one there' small/other 'Read-only file system' convert -f raw -O qcow2 data.raw small/other
	wrong 'create there' small/other 'Read-only file system' create -q -f qcow2 small/other 1M
	wrong 'convert -n there' small/new 'Read-only file system' convert -n -f raw -O raw data.raw small/new
	is_file_equal small/new before '  as it was'
	# Reading there is no trouble.
	mount -o remount,rw small
	rm -f small/*
	qemu-img convert -f raw -O qcow2 -c data.raw small/in.qcow2
	mount -o remount,ro small
	ok 'reading there: info' "$PLATTER" info small/in.qcow2
	ok 'reading there: check' "$PLATTER" check small/in.qcow2
	ok 'reading there: convert' "$PLATTER" convert -O raw small/in.qcow2 out.raw
	is_file_equal out.raw data.raw '  its content'
}

mkdir small
small=$PWD/small
head -c 8M /dev/urandom >random.raw
if [ "$(id -u)" != 0 ]; then
	skip 'a full disk' 'only root can mount'
elif ! mount -t tmpfs -o size=1m platter-test small 2>mount.log; then
	skip 'a full disk' "$(cat mount.log)"
else
	trap 'status=$?; umount "$small"; (exit $status); tap_cleanup' EXIT
	full_disk
fi
if [ "$(id -u)" != 0 ]; then
	cp data.raw locked
	chmod a-rw locked
	wrong 'a file without permission' locked 'Permission denied' info locked
else
	skip 'a file without permission' 'root may read it'
fi
done_testing
