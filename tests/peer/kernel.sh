#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# The kernel as a reader: a disk with a partition table and a filesystem goes through qcow2 in several
# forms and comes back as raw; the kernel mounts that, and the files are the ones that were put in.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires losetup mount python3 mkfs.ext4 e2fsck
[ "$(id -u)" = 0 ] || skip_all 'only root can mount'
[ -e /dev/loop-control ] || skip_all 'there are no loop devices'

# gpt FILE START LENGTH: a partition table with one partition, in sectors.
gpt() {
	python3 - "$@" <<'PYTHON'
import struct, sys, uuid, zlib
path, start, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with open(path, "r+b") as f:
    total = f.seek(0, 2) // 512
    entry = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4").bytes_le + uuid.UUID(int=7).bytes_le
    entry += struct.pack("<QQQ", start, start + length - 1, 0) + "guest".encode("utf-16le").ljust(72, b"\0")
    table = entry.ljust(128 * 128, b"\0")
    def header(here, there, entries):
        h = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, here, there, 34, total - 34,
                        uuid.UUID(int=5).bytes_le, entries, 128, 128, zlib.crc32(table))
        return h[:16] + struct.pack("<I", zlib.crc32(h)) + h[20:]
    mbr = bytearray(512)
    mbr[446:462] = bytes([0, 0, 2, 0, 0xEE, 255, 255, 255]) + struct.pack("<II", 1, total - 1)
    mbr[510:] = b"\x55\xaa"
    for sector, data in ((0, mbr), (1, header(1, total - 1, 2)), (2, table),
                         (total - 33, table), (total - 1, header(total - 1, 1, total - 33))):
        f.seek(sector * 512)
        f.write(data)
PYTHON
}

loop=
mounted=
release() {
	[ -z "$mounted" ] || umount mnt
	[ -z "$loop" ] || losetup -d "$loop"
	mounted=
	loop=
}
trap 'status=$?; release; (exit $status); tap_cleanup' EXIT

# Something to keep: many small files, a large one, a sparse one, links.
mkdir -p files/dir/deep mnt
for i in $(seq 1 200); do seq "$i" $((i * 37)) >"files/dir/$i"; done
cp "$PLATTER" files/dir/deep/program
seq 1 700000 >files/large
truncate -s 5M files/sparse
printf end >>files/sparse
ln -s large files/link
sums() { (cd "$1" && find . -type f ! -path './lost+found*' -exec sha256sum {} + | sort -k 2); }
sums files >want

# sees FILE START LENGTH TYPE DESCRIPTION: the kernel mounts the partition (in bytes) and finds it all.
sees() {
	if ! loop=$(losetup -r -f --show -o "$2" --sizelimit "$3" "$1" 2>loop.log); then
		loop=
		skip "$5" "no loop device: $(tail -n 1 loop.log)"
		return
	fi
	case $4 in
	ext4)
		how=ro,noload
		out=$(e2fsck -f -n "$loop" 2>&1)
		;;
	xfs)
		how=ro,norecovery
		out=$(xfs_repair -n "$loop" 2>&1)
		;;
	esac
	is $? 0 "$5: the filesystem is in order" || diag "$out"
	if out=$(mount -o $how -t "$4" "$loop" mnt 2>&1); then
		mounted=1
		sums mnt >got
		is_output got want "$5: the files are the same"
		is "$(readlink mnt/link)" large "$5: the link too"
	else
		skip "$5: the files are the same" "cannot mount $4: $out"
	fi
	release
}

# trip FILE START LENGTH TYPE: through several forms and back.
trip() {
	local options

	for options in '' -c '-o cluster_size=512' '-o cluster_size=2M' '-o extended_l2=on' '-c -o compression_type=zstd' \
		'-o compat=0.10' '-o preallocation=metadata' '-o data_file=disk.data,data_file_raw=on' '-S 0'; do
		rm -f disk.data back.raw
		# shellcheck disable=SC2086
		ok "$4 $options: convert" "$PLATTER" convert $options -f raw -O qcow2 "$1" disk.qcow2
		"$PLATTER" convert -f qcow2 -O raw disk.qcow2 back.raw
		is_file_equal back.raw "$1" "$4 $options: and back"
		case $options in
		'' | -c | *512* | *extended*) sees back.raw "$2" "$3" "$4" "$4 $options" ;;
		*data_file*) sees disk.data "$2" "$3" "$4" "$4 $options, the data file itself" ;;
		esac
	done
}

# ext4, at 1 MiB of a disk with a partition table
truncate -s 32M ext4.fs
ok 'ext4 is made' mkfs.ext4 -q -F -d files ext4.fs
truncate -s 34M disk.raw
dd if=ext4.fs of=disk.raw bs=1M seek=1 conv=notrunc,sparse status=none
gpt disk.raw 2048 65536
# The kernel's own reading of the partition table, after a trip.
"$PLATTER" convert -f raw -O qcow2 -c disk.raw disk.qcow2
"$PLATTER" convert -f qcow2 -O raw disk.qcow2 back.raw
if loop=$(losetup -r -P -f --show back.raw 2>/dev/null); then
	name=${loop##*/}
	for i in $(seq 1 100); do [ -e "/sys/block/$name/${name}p1" ] && break; sleep 0.02; done
	if [ -e "/sys/block/$name/${name}p1/start" ]; then
		is "$(cat "/sys/block/$name/${name}p1/start" "/sys/block/$name/${name}p1/size" | tr '\n' ' ')" '2048 65536 ' \
			'the kernel reads the partition table'
	else
		skip 'the kernel reads the partition table' 'this kernel shows no partitions of loop devices'
	fi
	release
else
	loop=
	skip 'the kernel reads the partition table' 'no loop device'
fi
trip disk.raw 1048576 33554432 ext4

if command -v mkfs.xfs >/dev/null && command -v xfs_repair >/dev/null; then
	# Its prototype file names what goes in.
	{
		echo /
		echo '0 0'
		echo 'd--755 0 0'
		echo "large ---644 0 0 $PWD/files/large"
		echo "sparse ---644 0 0 $PWD/files/sparse"
		echo 'link l--777 0 0 large'
		echo 'dir d--755 0 0'
		for i in $(seq 1 200); do echo "$i ---644 0 0 $PWD/files/dir/$i"; done
		echo 'deep d--755 0 0'
		echo "program ---755 0 0 $PWD/files/dir/deep/program"
		printf '%s\n' '$' '$' '$'
	} >proto
	truncate -s 320M xfs.raw
	if mkfs.xfs -q -f -p proto xfs.raw >xfs.log 2>&1; then
		"$PLATTER" convert -f raw -O qcow2 xfs.raw disk.qcow2
		ok 'xfs: convert' "$PLATTER" convert -f qcow2 -O raw disk.qcow2 back.raw
		sees back.raw 0 335544320 xfs xfs
		"$PLATTER" convert -c -f raw -O qcow2 -o cluster_size=4k xfs.raw disk.qcow2
		ok 'xfs, compressed: convert' "$PLATTER" convert -f qcow2 -O raw disk.qcow2 back.raw
		sees back.raw 0 335544320 xfs 'xfs, compressed'
	else
		skip xfs "mkfs.xfs: $(tail -n 1 xfs.log)"
	fi
else
	skip xfs 'mkfs.xfs is not installed'
fi
done_testing
