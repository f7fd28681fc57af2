#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# sparsify on real filesystems, full of what has been deleted: every file is what it was, the tools of the filesystem are
# content, and at least 95 % of the free space is back; in qcow2, raw and VHD images, with a backing file, with snapshots, into a
# copy, and killed in between.  What is dirty or damaged is left alone.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
requires python3 qemu-img qemu-io jq mke2fs e2fsck debugfs

stored() { stat -c '%b * 512' "$1" | xargs -I{} sh -c 'echo $(({}))'; }
sparsify() { "$PLATTER" sparsify "$@"; }

mkdir files out
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do
	head -c $((i * i * 3517)) /dev/urandom >files/f$i
done
: >files/empty
sums=$(cd files && sha256sum -- * | sort)
tree() { (cd "$1" && sha256sum -- * | sort); }

# One function to make each filesystem in a file full of old bytes, one to read its files, one to check it.
make_ext4() { mke2fs -q -F -t ext4 -E nodiscard,lazy_itable_init=0 -d files "$1" 2>/dev/null; }
read_ext4() { debugfs -R 'rdump / out' "$1" >/dev/null 2>&1 && rmdir out/lost+found; }
check_ext4() { e2fsck -fn "$1"; }
make_ext2() { mke2fs -q -F -t ext2 -b 1024 -E nodiscard -d files "$1" 2>/dev/null; }
read_ext2() { read_ext4 "$1"; }
check_ext2() { e2fsck -fn "$1"; }
make_xfs() {
	{
		printf '/none\n0 0\nd--755 0 0\n'
		for f in files/*; do echo "${f##*/} ---644 0 0 $PWD/$f"; done
		echo '$'
	} >proto
	mkfs.xfs -q -f -K --unsupported -p proto "$1" >/dev/null 2>&1
}
# (nothing reads its files but the kernel: what is not free has not changed, by the account of its own tool)
read_xfs() {
	xfs_db -r -c 'freesp -d' old.xfs | awk '$1 ~ /^[0-9]+$/ && NF == 3 { print }' >free.xfs
	python3 - "$1" "$(xfs_db -r -c 'sb 0' -c 'p blocksize agblocks' old.xfs | sed 's/.*= //' | tr '\n' ' ')" <<'EOF2' && cp files/* out
import sys
bs, per = map(int, sys.argv[2].split())
old, new = bytearray(open('old.xfs', 'rb').read()), bytearray(open(sys.argv[1], 'rb').read())
for line in open('free.xfs'):
    ag, first, n = map(int, line.split())
    at = (ag * per + first) * bs
    old[at:at + n * bs] = new[at:at + n * bs]
sys.exit(old != new)
EOF2
}
check_xfs() { xfs_repair -n -f "$1"; }
make_ntfs() { mkfs.ntfs -q -Q -F "$1" >/dev/null 2>&1 && for f in files/*; do ntfscp -q "$1" "$f" "${f##*/}" || return 1; done; }
read_ntfs() { for f in files/*; do ntfscat "$1" "${f##*/}" >"out/${f##*/}" 2>/dev/null || return 1; done; }
check_ntfs() { ntfsfix -n "$1"; }
make_fat32() { mkfs.vfat -F 32 -s 1 "$1" >/dev/null && mcopy -i "$1" files/* ::; }
read_fat32() { mcopy -n -i "$1" '::*' out; }
check_fat32() { fsck.vfat -n "$1"; }

declare -A options=([qcow2]=cluster_size=64k [vpc]=force_size=on)
for fs in ext4 ext2 xfs ntfs fat32; do
	if ! command -v "mkfs.${fs/fat32/vfat}" >/dev/null || { [ $fs = fat32 ] && ! command -v mcopy >/dev/null; }; then
		skip "$fs" 'the tools are not installed'
		continue
	fi
	yes 'what has been deleted' | head -c $((40 << 20)) >old.$fs
	make_$fs old.$fs || { skip "$fs" 'could not be made here'; continue; }
	"$PLATTER" sparsify -f raw --dry-run --output=json old.$fs >json
	free=$(jq '.volumes[0].free' json)
	for format in raw qcow2 vpc; do
		[ $format = raw ] || sampled || continue
		image=$fs.$format
		if [ $format = raw ]; then cp --sparse=never old.$fs $image; else qemu-img convert -t unsafe -S 0 -O $format -o ${options[$format]} old.$fs $image; fi
		before=$(stored $image)
		sparsify -q -t unsafe -f $format $image >log 2>&1
		is $? 0 "$image: it is done"
		after=$(stored $image)
		[ $((before - after)) -ge $((free / 100 * 95)) ] && pass "$image: 95 % of the free space is back" ||
			fail "$image: 95 % of the free space is back" "$before, now $after; free $free" "$(cat log)"
		[ $format = raw ] || qemu-img convert -t unsafe -f $format -O raw $image back.raw
		[ $format = raw ] && cp $image back.raw
		rm -rf out && mkdir out && read_$fs back.raw
		is "$(tree out)" "$sums" "$image: every file is what it was"
		ok "$image: its checker is content" check_$fs back.raw
		[ $format = raw ] || ok "$image: so is the image's" "$PLATTER" check -q -f $format $image
		rm -f $image
	done
	rm -f back.raw
done

# A dry run says what is then done; a copy is as small; in JSON.
qemu-img convert -t unsafe -S 0 -O qcow2 old.ext4 a.qcow2
will=$("$PLATTER" sparsify --dry-run --output=json a.qcow2 | jq .bytes.free)
ok 'a copy is made' "$PLATTER" sparsify -q a.qcow2 copy.qcow2
before=$(stored a.qcow2)
is "$("$PLATTER" sparsify --output=json a.qcow2 | jq .bytes.free)" "$will" 'a dry run has said how much'
[ $((before - $(stored a.qcow2))) -ge $((will / 100 * 98)) ] && pass 'and that is what the host has back' ||
	fail 'and that is what the host has back' "$will of $before, now $(stored a.qcow2)"
[ "$(stored copy.qcow2)" -le $(($(stored a.qcow2) + 262144)) ] && pass 'a copy is as small' || fail 'a copy is as small'
rm -rf out && mkdir out && qemu-img convert -t unsafe -O raw copy.qcow2 back.raw && read_ext4 back.raw
is "$(tree out)" "$sums" 'and has every file'
is "$("$PLATTER" sparsify --output=json a.qcow2 | jq .bytes.free)" 0 'a second time gives nothing'

# Zeros, and what the backing file has; each byte under the first kind that applies.
yes base | head -c $((8 << 20)) >base.raw
qemu-img create -q -f qcow2 -b base.raw -F raw top.qcow2
qemu-io -c 'write -q -P 0 0 1M' -c 'write -q -P 7 2M 1M' top.qcow2
dd if=base.raw of=part bs=1M skip=4 count=2 status=none
"$PLATTER" io -f qcow2 -c 'write -q -s part 4M 2M' top.qcow2
qemu-img convert -t unsafe -O raw top.qcow2 was.raw
is "$("$PLATTER" sparsify --zero --same --dry-run --output=json top.qcow2 | jq -c .bytes)" '{"same":2097152,"zero":1048576}' \
	'clusters of zeros, and those of the backing file, are counted'
ok 'they go' "$PLATTER" sparsify -q --zero --same top.qcow2
is_file_equal_images() { qemu-img compare "$1" "$2" >/dev/null; }
ok 'the disk shows the same' is_file_equal_images top.qcow2 was.raw
is "$(qemu-img map --output=json top.qcow2 | jq -c '[.[] | select(.depth == 0) | [.start, .length, .zero]]')" \
	'[[0,1048576,true],[2097152,1048576,false]]' 'zeros hide the backing file, what is the same shows it'
ok 'the image is sound' qemu-img check -q top.qcow2

# Over a backing file what is free reads as zeros, and not as what lay there once.
qemu-img create -q -f qcow2 -b old.ext4 -F raw over.qcow2
# (the largest free range, from its middle on)
read -r at n < <("$builddir/tests/convert/free-lab" old.ext4 | awk 'NF == 2' | sort -k 2n | tail -n 1)
at=$(((at + 65535) / 65536 * 65536)) n=$(((n - 65536) / 65536 * 65536))
[ "$n" -gt 4000000 ] || diag "only $n bytes in one piece are free"
qemu-io -c "write -q -P 9 $at $n" over.qcow2
qemu-io -f raw -c "write -q -P 9 $at $n" old.ext4
ok 'an image over a backing file' "$PLATTER" sparsify -q --free over.qcow2
ok 'what is free reads as zeros' qemu-io -r -c "read -q -P 0 $at $n" over.qcow2
is "$(qemu-img map --output=json over.qcow2 | jq '[.[] | select(.depth == 0 and .data) | .length] | add // 0')" 0 'and is not stored'
qemu-img create -q -f qcow2 -o compat=0.10 -b old.ext4 -F raw v2.qcow2
qemu-io -c "write -q -P 9 $at $n" v2.qcow2
sparsify --free v2.qcow2 >log 2>&1
is "$?/$(grep -c 'would come to light' log)" 1/1 'version 2 has no zeros: refused with the reason'
ok 'and as it was' qemu-io -r -c "read -q -P 9 $at $n" v2.qcow2

# A snapshot keeps what it has.
qemu-img convert -t unsafe -S 0 -O qcow2 old.ext4 s.qcow2
qemu-img snapshot -c one s.qcow2
ok 'with an internal snapshot' "$PLATTER" sparsify -q s.qcow2
qemu-img convert -l one -O raw s.qcow2 one.raw
is_file_equal old.ext4 one.raw 'it shows what it did'
ok 'the image is sound' qemu-img check -q s.qcow2

# Leaks, what is free in the file, and its tail.
qemu-img convert -t unsafe -S 0 -O qcow2 old.ext4 l.qcow2
"$PLATTER" sparsify -q --free l.qcow2
qemu-img convert -t unsafe -O raw l.qcow2 was.raw
head -c 3000000 /dev/urandom >>l.qcow2
truncate -s %65536 l.qcow2
n=$("$PLATTER" sparsify --leaks --dry-run --output=json l.qcow2 | jq .bytes.leaks)
[ "$n" -ge 2990000 ] && pass 'what lies behind the last cluster is counted' || fail 'what lies behind the last cluster is counted' "$n"
is "$("$PLATTER" sparsify --leaks --output=json l.qcow2 | jq .bytes.leaks)" "$n" 'and given back'
python3 -B "$srcdir/tests/convert/leak.py" l.qcow2 20
is "$(qemu-img check --output=json l.qcow2 | jq .leaks)" 20 'clusters that leak'
before=$(stored l.qcow2)
ok 'are given back too' "$PLATTER" sparsify -q --leaks l.qcow2
ok 'the image is sound' qemu-img check -q l.qcow2
[ $((before - $(stored l.qcow2))) -ge $((19 * 65536)) ] && pass 'and smaller' || fail 'and smaller' "$before $(stored l.qcow2)"
ok 'and shows the same' is_file_equal_images l.qcow2 was.raw

# Killed in between, again and again.
qemu-img convert -t unsafe -S 0 -O qcow2 -o cluster_size=4k old.ext4 full.qcow2
killed=0 bad=
for i in 1 2 3 5 6 8; do
	sampled || continue
	cp full.qcow2 k.qcow2
	"$PLATTER" sparsify -q k.qcow2 >/dev/null 2>&1 &
	sleep "0.0$((i * 7 % 10))$i"
	kill -KILL $! 2>/dev/null
	wait $! 2>/dev/null && continue # (and has let go of the file)
	killed=$((killed + 1))
	qemu-img check -q k.qcow2 >log 2>&1
	[ $? -le 3 ] && ! grep -q ERROR log || bad="$bad check:$i"
	rm -rf out && mkdir out && qemu-img convert -t unsafe -O raw k.qcow2 back.raw && read_ext4 back.raw
	[ "$(tree out)" = "$sums" ] || bad="$bad files:$i"
	"$PLATTER" sparsify -q --free --leaks k.qcow2 || bad="$bad again:$i"
	qemu-img check -q k.qcow2 >/dev/null 2>&1 || bad="$bad end:$i"
done
is "$bad" '' "killed $killed times: every file is there, and the next run ends it"

# What is not to be touched.
untouched() { # WHAT IMAGE WORDS
	cp "$2" keep
	sparsify --all -f raw --output=json "$2" >json 2>log
	is "$(jq -r '.volumes[0]["left-alone"]' json | grep -c "$3")/$(jq .bytes.free json)" 1/0 "$1 is left alone" || diag "$(cat json log)"
	ok "$1 holds what it did" cmp "$2" keep
}
truncate -s 16M d.raw
mke2fs -q -F -t ext4 -d files d.raw 2>/dev/null
debugfs -w -R 'set_super_value state 0' d.raw >/dev/null 2>&1
untouched 'ext4 that was not unmounted' d.raw 'not unmounted'
debugfs -w -R 'set_super_value state 1' -R 'feature needs_recovery' d.raw >/dev/null 2>&1
debugfs -w -R 'feature needs_recovery' d.raw >/dev/null 2>&1
untouched 'ext4 with a journal to replay' d.raw journal
truncate -s 16M empty.raw
untouched 'an empty disk' empty.raw 'nothing that is known'
cp full.qcow2 damaged.qcow2
printf '\0\0\0\0\0\0\001\001' | dd of=damaged.qcow2 bs=1 seek=$(($(qemu-img info --output=json full.qcow2 >/dev/null; python3 -c '
import struct
f = open("full.qcow2", "rb"); f.seek(40); print(struct.unpack(">Q", f.read(8))[0])'))) conv=notrunc status=none
cp damaged.qcow2 keep
sparsify damaged.qcow2 >log 2>&1
is "$?/$(grep -c 'has to be repaired' log)" 1/1 'a damaged image is refused'
is_file_equal damaged.qcow2 keep 'and not changed'
refused() { # WHAT WORDS ARGUMENTS...
	local image=${*: -1} what=$1 words=$2

	shift 2
	sparsify --free "$@" >log 2>&1
	is "$?/$(grep -c "$words" log)/$(cmp "$image" keep && echo same)" 1/1/same "$what is refused, and as it was" || diag "$(cat log)"
}
cp old.fat32 g.raw
qemu-img convert -t unsafe -S 0 -O vpc -o force_size=on g.raw base.vhd
"$PLATTER" create -q -f vpc -b base.vhd -F vpc diff.vhd
"$PLATTER" io -f vpc -c "write -q -P 9 20M 8M" diff.vhd
cp diff.vhd keep
refused 'a differencing VHD' 'would come to light' -f vpc diff.vhd
"$PLATTER" convert --object secret,id=s,data=x -f raw -O luks -o key-secret=s,iter-time=10 g.raw keep
cp keep l.luks
sparsify --free --object secret,id=s,data=x --image-opts driver=luks,key-secret=s,file.filename=l.luks >log 2>&1
is "$?/$(grep -c 'cannot give space back' log)/$(cmp l.luks keep && echo same)" 1/1/same 'what is encrypted as a whole is refused, and as it was'
qemu-img convert -t unsafe -S 0 -O qcow2 g.raw b.qcow2
qemu-img bitmap --add b.qcow2 records
"$PLATTER" sparsify -q b.qcow2
is "$(qemu-img info --output=json b.qcow2 | jq -c '."format-specific".data.bitmaps | map(.flags)')" '[["auto"]]' 'a bitmap goes on recording'
ok 'the image is sound' qemu-img check -q b.qcow2
mkfifo hold
qemu-io b.qcow2 <hold >answer 2>&1 &
exec 9>hold # (it waits for commands, and has the image open once it answers one)
echo length >&9
for _ in {1..200}; do
	[ ! -s answer ] || break
	sleep 0.1
done
sparsify --free b.qcow2 >log 2>&1
is "$(grep -c 'another process' log)" 1 'an image in use is refused'
exec 9>&-
wait $!
sparsify -O raw a.qcow2 >log 2>&1
is $? 1 'options of a copy want a copy'
done_testing
