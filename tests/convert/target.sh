#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# convert: nothing half-made ever bears the target's name.  Where the new file takes the old one's place
# it inherits what the old one was to the world; where it cannot, it is written in place.
# shellcheck source=tests/lib.sh
. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img

inode() { stat -L -c %i "$1"; }
# No file that a run began is left in the folder.
nothing_left() {
	local left

	left=$(find . -name '.*platter-*')
	is "$left" '' "$1"
}

truncate -s 8M src.raw
seq 1 200000 | dd of=src.raw conv=notrunc bs=4096 seek=5 status=none
qemu-img convert -f raw -O qcow2 src.raw src.qcow2
head -c 3000000 /dev/urandom > old.keep

# a source that cannot be read to its end: a compressed cluster with a stream that is none
qemu-img convert -c -f raw -O qcow2 src.raw bad.qcow2
printf '\377\377\377\377\377\377\377\377' | dd of=bad.qcow2 bs=1 seek=327680 conv=notrunc status=none
for format in raw qcow2; do
	out=$("$PLATTER" convert -f qcow2 -O $format bad.qcow2 new 2>&1)
	is $? 1 "a source that cannot be read, to $format"
	like "$out" '^platter: error while reading at byte 0: ' '  says where'
	[ ! -e new ]
	is $? 0 '  makes nothing'
	cp old.keep old
	"$PLATTER" convert -f qcow2 -O $format bad.qcow2 old > out.log 2>&1
	is $? 1 '  over an old file'
	is_file_equal old old.keep '  keeps that as it was'
done
nothing_left '  and leaves nothing beside it'
out=$("$PLATTER" convert -f raw -O qcow2 -o cluster_size=3 src.raw old 2>&1)
is $? 1 'options that the driver refuses'
is_file_equal old old.keep '  cost nothing'
out=$("$PLATTER" convert -f raw -O nosuch src.raw old 2>&1)
is $? 1 'a format that is not there'
like "$out" "Unknown file format 'nosuch'" '  is named'

# what the old file was to the world
cp old.keep old
chmod 640 old
attr=no
if command -v setfattr >/dev/null && setfattr -n user.note -v kept old 2>/dev/null; then
	attr=yes
fi
before=$(inode old)
ok 'over an old file' "$PLATTER" convert -f raw -O qcow2 src.raw old
isnt "$(inode old)" "$before" '  a new file takes its place'
is "$(stat -c %a old)" 640 '  with its mode'
if [ $attr = yes ]; then
	is "$(getfattr --only-values -n user.note old)" kept '  with its attributes'
else
	skip '  with its attributes' 'no user attributes here'
fi
if [ "$(id -u)" = 0 ]; then
	chown 1234:2345 old
	chmod 4751 old
	"$PLATTER" convert -f raw -O qcow2 src.raw old
	is "$(stat -c %u:%g:%a old)" 1234:2345:4751 '  with its owner'
	rm old
else
	skip '  with its owner' 'only root can give files away'
fi
(umask 027 && "$PLATTER" convert -f raw -O qcow2 src.raw new)
is "$(stat -c %a new)" 640 'a new file obeys the umask'

# links
cp old.keep real
mkdir sub
ln -s ../real sub/link
before=$(inode real)
ok 'over a symbolic link' "$PLATTER" convert -f raw -O raw src.raw sub/link
[ -L sub/link ]
is $? 0 '  the link stays'
is_file_equal real src.raw '  the file it leads to is the target'
isnt "$(inode real)" "$before" '  a new one'
ln -s nowhere dangling
ok 'over a link to nothing' "$PLATTER" convert -f raw -O raw src.raw dangling
is_file_equal nowhere src.raw '  makes what it leads to'
for format in raw qcow2; do
	cp old.keep one
	ln -f one other
	before=$(inode one)
	ok "over a file with two names, to $format" "$PLATTER" convert -f raw -O $format src.raw one
	is "$(inode one)-$(inode other)" "$before-$before" '  in place'
	ok '  the same content' qemu-img compare -f raw -F $format src.raw other
	out=$("$PLATTER" convert -f qcow2 -O $format bad.qcow2 one 2>&1)
	like "$out" 'written in place, because it has several names' '  and if it fails it says so'
	if [ $format = qcow2 ]; then
		fails 1 '  and what is there does not open' "$PLATTER" info -f qcow2 one
	else
		like "$out" 'incomplete' '  and that the content is incomplete'
	fi
	out=$("$PLATTER" convert -f raw -O $format src.raw one && "$PLATTER" convert -f raw -O qcow2 -o cluster_size=5 src.raw one 2>&1)
	ok '  options that the driver refuses cost nothing there either' qemu-img compare -f raw -F $format src.raw one
done

cp old.keep two
ln -f two two.other
qemu-img create -q -f qcow2 below 8M
cp two before
for options in 'preallocation=metadata,backing_file=below,backing_fmt=qcow2' 'data_file=new.data,compat=0.10' \
	'data_file=new.data,data_file_raw=on,backing_file=below,backing_fmt=qcow2'; do
	out=$("$PLATTER" convert -f raw -O qcow2 -o "$options" src.raw two 2>&1)
	is $? 1 "$options is refused, in place"
	is_file_equal two before '  and costs nothing'
	out=$("$PLATTER" create -q -f qcow2 -o "$options" two 8M 2>&1)
	is $? 1 '  by create too'
	is_file_equal two before '  and costs nothing'
	[ ! -e new.data ]
	is $? 0 '  no data file is left'
done

# a data file besides
for over in '' image data both; do
	rm -f new new.data
	case $over in image | both) cp old.keep new ;; esac
	case $over in data | both) cp old.keep new.data ;; esac
	out=$("$PLATTER" convert -f qcow2 -O qcow2 -o data_file=new.data bad.qcow2 new 2>&1)
	is $? 1 "a failure with a data file, over ${over:-nothing}"
	case $over in
	data | both) like "$out" "data file 'new.data' is incomplete" '  what it held is said to be lost' ;;
	*) [ ! -e new.data ]; is $? 0 '  it is not left' ;;
	esac
	case $over in
	image | both) like "$out" "'new' was written in place.*holds no image now" '  the image too' ;;
	*) [ ! -e new ]; is $? 0 '  nor the image' ;;
	esac
done
rm -f new new.data
mkdir no-file
cp two before
out=$("$PLATTER" create -q -f qcow2 -o data_file=no-file two 8M 2>&1)
is $? 1 'a data file that cannot be had'
is_file_equal two before '  costs nothing'
cp old.keep new.data
out=$(exec 9<>new.data && "$PLATTER" create -q -f qcow2 -o data_file=two two 8M 2>&1)
is $? 1 'a data file that is the image'
is_file_equal two before '  costs nothing'
ok 'a data file that is not there yet' "$PLATTER" convert -f raw -O qcow2 -o data_file=fresh.data src.raw new
ok '  the same content' qemu-img compare -f raw -F qcow2 src.raw new
if command -v strace >/dev/null; then
	rm -f new fresh.data
	mkdir -p elsewhere
	# (nothing of the image's first cluster is written before the folder of the data file is flushed)
	strace -f -y -e trace=fsync,pwrite64,write,io_uring_enter -o trace "$PLATTER" convert -f raw -O qcow2 \
		-o data_file="$PWD/elsewhere/fresh.data" src.raw new
	grep -q 'fsync([0-9]*<[^>]*/elsewhere>)' trace
	is $? 0 '  its name is made durable'
else
	skip '  its name is made durable' 'strace is not installed'
fi

# a descriptor
cp old.keep byfd
before=$(inode byfd)
exec 7<>byfd
ok 'over /dev/fd/7' "$PLATTER" convert -f raw -O raw src.raw /dev/fd/7
exec 7>&-
is_file_equal byfd src.raw '  the same content'
is "$(inode byfd)" "$before" '  in place'

# itself
cp src.raw self.raw
out=$("$PLATTER" convert -f raw -O raw self.raw self.raw 2>&1)
is $? 1 'a source that is its own target'
like "$out" 'Failed to get "write" lock' '  is in use'
is_file_equal self.raw src.raw '  and stays'

ln self.raw self.other
for options in '' -n -U; do
	# shellcheck disable=SC2086
	fails 1 "  also by another name, in place $options" "$PLATTER" convert $options -f raw -O raw self.raw self.other
	is_file_equal self.raw src.raw '  and stays'
done

# killed in the middle: the old file is there, whole
cp old.keep old
"$PLATTER" convert -S 0 -r 2M -f raw -O qcow2 src.raw old &
pid=$!
sleep 1
is_file_equal old old.keep 'while it runs the old file is there'
kill -9 $pid
wait $pid 2>/dev/null
is_file_equal old old.keep '  after kill -9 too'
"$PLATTER" convert -S 0 -r 2M -f raw -O qcow2 src.raw old &
pid=$!
sleep 1
kill -TERM $pid
wait $pid 2>/dev/null
is_file_equal old old.keep '  after SIGTERM too'
find . -name '.old.platter-*' -delete # kill -9 on a filesystem without O_TMPFILE
ok '  and afterwards it can be done again' "$PLATTER" convert -f raw -O qcow2 src.raw old

if [ "$(id -u)" != 0 ]; then
	mkdir locked
	cp old.keep locked/file
	chmod 555 locked
	before=$(inode locked/file)
	ok 'in a folder that may not be written' "$PLATTER" convert -f raw -O raw src.raw locked/file
	is "$(inode locked/file)" "$before" '  in place'
	is_file_equal locked/file src.raw '  the same content'
	chmod 755 locked
	skip 'a full filesystem' 'only root can mount one'
	skip 'a block device' 'only root can make one'
	done_testing
fi

mkdir full
if mount -t tmpfs -o size=6m none full 2>/dev/null; then
	out=$("$PLATTER" convert -f raw -O raw -S 0 src.raw full/new 2>&1)
	is $? 1 'a full filesystem'
	like "$out" 'No space left on device' '  says so'
	is "$(ls -A full)" '' '  and nothing is left in it'
	head -c 3M old.keep > full/old
	cp full/old old.3M
	"$PLATTER" convert -f raw -O raw -S 0 src.raw full/old > out.log 2>&1
	is $? 1 '  with an old file in it that is too small to make room'
	is_file_equal full/old old.3M '  that is kept'
	head -c 1500k src.raw > part.raw
	before=$(inode full/old)
	head -c 5M /dev/urandom > full/old
	ok '  no room for both' "$PLATTER" convert -f raw -O raw -S 0 part.raw full/old
	is "$(inode full/old)" "$before" '  is written in place'
	is_file_equal full/old part.raw '  the same content'
	rm -f full/old full/data
	out=$("$PLATTER" create -q -f qcow2 -o data_file=full/data,preallocation=full made 8M 2>&1)
	is $? 1 '  no room for a data file'
	is "$(ls -A full)$(ls made 2>/dev/null)" '' '  leaves neither it nor the image'
	head -c 2M old.keep > full/data
	cp old.keep made
	out=$("$PLATTER" create -q -f qcow2 -o data_file=full/data,preallocation=full made 8M 2>&1)
	is $? 1 '  over a data file'
	like "$out" "'full/data' has lost its old content" '  that is said'
	like "$out" "'made' has lost its old content" '  and of the image'
	rm -f full/data
	: > full/mounted
	cp old.keep bound
	if mount --bind bound full/mounted 2>/dev/null; then
		ok 'over a file that is a mount point' "$PLATTER" convert -f raw -O raw src.raw full/mounted
		is_file_equal bound src.raw '  the same content'
		umount full/mounted
	else
		skip 'over a file that is a mount point' 'no bind mounts here'
	fi
	umount full
else
	skip 'a full filesystem' 'no tmpfs can be mounted here'
fi

truncate -s 16M device.img
dd if=/dev/urandom of=device.img bs=1M count=16 conv=notrunc status=none
if loop=$(losetup --show -f device.img 2>/dev/null); then
	for format in raw qcow2; do
		ok "to a block device, $format" "$PLATTER" convert -f raw -O $format src.raw "$loop"
		qemu-img convert -f $format -O raw "$loop" device.raw
		ok '  the same content' cmp -n 8388608 src.raw device.raw
		out=$("$PLATTER" convert -f qcow2 -O $format bad.qcow2 "$loop" 2>&1)
		is $? 1 '  a failure'
		like "$out" 'written in place, because it is no regular file' '  says that the old content is gone'
	done
	fails 1 '  and a half-made qcow2 does not open' "$PLATTER" info -f qcow2 "$loop"
	truncate -s 20M large.raw
	printf x | dd of=large.raw bs=1 seek=20000000 conv=notrunc status=none
	fails 1 '  a source that is larger than the device is refused' "$PLATTER" convert -f raw -O raw large.raw "$loop"
	losetup -d "$loop"
else
	skip 'to a block device' 'no loop devices here'
fi
nothing_left 'nothing was left behind'
done_testing
