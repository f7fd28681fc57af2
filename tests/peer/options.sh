#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# The calls that libvirt, OpenStack, libguestfs and others make, as they make them: the same exit
# code, stdout, stderr and images from qemu-img and from a link of that name to platter.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io prlimit
. "$srcdir/tests/peer/peer.sh"
. "$srcdir/tests/peer/calls.sh"
is_qemu_7 || skip_all 'qemu-img 7.2 is not installed'

# ---- what is given -------------------------------------------------------------------------------

mkdir "$SCRATCH/given"
(
	cd "$SCRATCH/given" || exit
	truncate -s 5M raw
	seq 1 90000 | dd of=raw bs=64k seek=7 conv=notrunc status=none
	truncate -s 1000000 odd
	printf 'odd' | dd of=odd bs=1 seek=999990 conv=notrunc status=none
	qemu-img convert -f raw -O qcow2 raw base.qcow2
	qemu-img convert -c -f raw -O qcow2 raw small.qcow2
	qemu-img create -q -f qcow2 -F qcow2 -b base.qcow2 over.qcow2 8M
	qemu-io -f qcow2 -c 'write -P 7 1M 100k' -c 'write -z 2M 64k' over.qcow2 >/dev/null
	qemu-img create -q -f qcow2 -F raw -b raw overraw.qcow2
	qemu-img create -q -f qcow2 -o compat=0.10 old.qcow2 3M
	qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=131072,lazy_refcounts=on new.qcow2 3M
	cp base.qcow2 kept.qcow2
	qemu-img snapshot -c one kept.qcow2
	qemu-img bitmap --add kept.qcow2 b0
	cp small.qcow2 bent.qcow2
	printf '\0\0' | dd of=bent.qcow2 bs=1 seek=131080 conv=notrunc status=none
	head -c 700 /dev/zero | tr '\0' x >text
	# Holes where clusters were freed, and one in a cluster that is in use.
	qemu-img convert -f raw -O qcow2 -o cluster_size=4k raw punched.qcow2
	qemu-io -d unmap -f qcow2 -c 'discard 512k 256k' punched.qcow2 >/dev/null
	fallocate -p -o 81920 -l 4096 punched.qcow2
	# A snapshot of a smaller disk, over a backing file and over nothing.
	for f in grown grown-over; do
		qemu-img create -q -f qcow2 $([ $f = grown ] || echo -F raw -b raw) $f.qcow2 1M
		qemu-io -c 'write -P 5 0 700k' $f.qcow2 >/dev/null
		qemu-img snapshot -c small $f.qcow2
		qemu-img resize -q $f.qcow2 4M
		qemu-io -c 'write -P 6 0 3M' $f.qcow2 >/dev/null
	done
	: >empty
)

# ---- libvirt -------------------------------------------------------------------------------------

libvirt_create() {
	local d=$PWD

	q create -f qcow2 -o compat=0.10 "$d/1" 262144K
	q create -f qcow2 -o compat=1.1,lazy_refcounts "$d/2" 131072K
	q create -f qcow2 -o compat=1.1,cluster_size=131072 "$d/3" 131072K
	q create -f qcow2 -o compat=1.1,cluster_size=131072,extended_l2=on "$d/4" 131072K
	q create -f qcow2 -o preallocation=falloc,compat=0.10 "$d/5-preallocated" 8192K
	q create -f qcow2 -o preallocation=metadata,compat=1.1,lazy_refcounts "$d/6" 1048576K
	q create -f qcow2 -b base.qcow2 -o backing_fmt=qcow2,compat=1.1,lazy_refcounts 7 1048576K
	q create -f qcow2 -o backing_fmt=qcow2,backing_file=base.qcow2 8
	q create -f qcow2 -o backing_fmt=raw,backing_file=raw 9
	q create -f raw "$d/10" 65536K
	q create -f raw -o preallocation=falloc 11 1M
	q create -f raw -o preallocation=full 12 1M
}
call 'libvirt create' libvirt_create

libvirt_convert() {
	q convert -f qcow2 -O raw base.qcow2 1
	q convert -f qcow2 -O qcow2 -o compat=1.1,cluster_size=65536 base.qcow2 2
	q convert -f qcow2 -O qcow2 -o compat=1.1,lazy_refcounts base.qcow2 3
	q convert -f raw -O qcow2 -o compat=0.10 raw 4
	q convert -f qcow2 -O raw over.qcow2 5
	q create -f raw 6 5M
	q convert --image-opts -n --target-image-opts driver=raw,file.filename=raw driver=raw,file.filename=6
	q convert --image-opts -n --target-image-opts driver=qcow2,file.driver=file,file.filename=base.qcow2 driver=raw,file.filename=6
}
call 'libvirt convert' libvirt_convert

libvirt_resize() {
	local f

	for f in base.qcow2 over.qcow2 new.qcow2; do
		q resize "$PWD/$f" 201326592
		q resize "$PWD/$f" 1048576
		q resize --shrink "$PWD/$f" 4194304
	done
	q resize -f qcow2 old.qcow2 1G
	q resize -f raw raw 134217728
	q resize --shrink -f raw odd 512k
	q resize --image-opts driver=qcow2,file.filename=kept.qcow2 16M
}
call 'libvirt and OpenStack resize' libvirt_resize

asking() {
	local f

	for f in raw odd base.qcow2 over.qcow2 kept.qcow2 empty; do
		q measure --output json -O qcow2 "$f"
		q measure -f raw -O raw "$f"
		q measure -U -O qcow2 -o cluster_size=2M "$f"
	done
	q measure --size 1G -O qcow2 --output=json
	q amend -f qcow2 -o compat=1.1 old.qcow2
	q amend -o lazy_refcounts=on new.qcow2
	q dd -f qcow2 -O raw bs=1M count=2 skip=1 if=base.qcow2 of=1
	q dd -f raw -O qcow2 if=odd of=2
}
call 'measure, amend, dd' asking

# ---- OpenStack -----------------------------------------------------------------------------------

openstack_info() {
	local f

	for f in raw odd empty text base.qcow2 small.qcow2 over.qcow2 old.qcow2 new.qcow2 kept.qcow2; do
		# oslo reads no snapshot table of this release, but it is the same.
		q info "$f" | sed -E 's/[0-9]{4}-[0-9-]+ [0-9:]+/DATE/; s/"date-n?sec": [0-9]+/"date": N/'
		q info --output=json "$f" | sed -E 's/"date-n?sec": [0-9]+/"date": N/'
		q info "$f" --force-share --output=json | sed -E 's/"date-n?sec": [0-9]+/"date": N/'
		q info "$f" --force-share --output=json -f raw
	done
	for f in raw qcow2; do
		q info -f $f --output=json raw
	done
	q info -f qcow2 --output=json --force-share base.qcow2
	q info -f qcow2 --output=json text
	q info --backing-chain over.qcow2
	q info --backing-chain --output json over.qcow2
	q info not-there
	q info --output=json not-there
	q info --output=xml raw
	q info -f nosuch raw
	q info
	q info raw odd
}
call 'OpenStack info' openstack_info

openstack_create() {
	q create -f raw 1 536870912
	q create -f raw 2 1G
	q create -f qcow2 3 536870912
	q create -f qcow2 4 1G
	q create -f qcow2 -b raw -F raw 5 5242880
	q create -f qcow2 -o data_file=6.data,data_file_raw=on 6 5242880
	q create -f qcow2 -o preallocation=metadata 7 1073741824
	q create -f qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2 8
	q create -f qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2,cluster_size=131072 9 1G
	q create -f qcow2 -o backing_file=base.qcow2 -o backing_fmt=qcow2 -o cluster_size=131072 10 1G
	q create 11 -f qcow2 47926476 -o preallocation=metadata
	q create 12 1M -q -f qcow2
}
call 'OpenStack create' openstack_create

openstack_convert() {
	q convert -t none -O raw -f qcow2 base.qcow2 1
	q convert -t none -O qcow2 -f qcow2 -c base.qcow2 2
	q convert -t writeback -O qcow2 -f qcow2 small.qcow2 3
	q convert -O qcow2 -c -f raw raw 4
	q convert -O raw -f raw odd 5
	q convert -f raw -O qcow2 odd 6
	q convert -f qcow2 -O raw over.qcow2 7
	q convert -f raw -O raw empty 8
	q convert -f qcow2 -O raw not-there 9
	q convert base.qcow2 10 -O raw -f qcow2
	q convert -O raw -f qcow2 text 11
	q convert -f raw -O qcow2 -S 0 raw 12
	q convert -n -f raw -O raw raw 13
	q convert -f qcow2 -O raw -l one kept.qcow2 14
	q convert -f qcow2 -O raw -l small grown.qcow2 16
	q convert -f qcow2 -O raw -l small grown-over.qcow2 17
	q convert -f qcow2 -O raw -l none kept.qcow2 18
	q convert -f raw -O raw -l none raw 19
	q convert -f qcow2 -O raw --salvage bent.qcow2 15 | sed -E 's/^err: .*//'
}
call 'OpenStack convert' openstack_convert

# ---- libguestfs ----------------------------------------------------------------------------------

libguestfs() {
	q info -U --output json base.qcow2
	q info -U --output json over.qcow2
	q create -f qcow2 ./1 67108864
	q create -f qcow2 -o preallocation=metadata ./2 47926476
	q create -f qcow2 -o preallocation=metadata,compat=1.1,cluster_size=131072 ./3 47926476
	q create -f qcow2 -o backing_file=raw,backing_fmt=raw 4
	q create -f qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2 5
	q create -f qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2,compat=1.1 6
}
call libguestfs libguestfs
like "$("$QEMU_IMG_LINK" --help)" '\binfo\b.*-U\b' 'libguestfs finds -U in the help'
like "$("$QEMU_IMG_LINK" --version | head -n 1)" '^qemu-img version [0-9]+\.[0-9.]*[0-9]' 'cinder finds a version'

others() {
	q convert -f raw -O qcow2 raw 1
	q convert -O qcow2 base.qcow2 odd 2
	q convert -f raw -O qcow2 raw odd raw 3
}
call 'cloud-localds and genimage' others

# ---- map, compare, check -------------------------------------------------------------------------

looking() {
	local f

	for f in raw base.qcow2 small.qcow2 over.qcow2 overraw.qcow2 old.qcow2 new.qcow2 kept.qcow2 punched.qcow2; do
		q map "$f"
		q map --output=json "$f"
		q map "$f" --output json -U -f "${f##*.}"
		q map --output=json "$f" -s 1000000 -l 3000000
		q check "$f"
		q check --output=json "$f"
		q check -q "$f"
		q check "$f" --output json -U
		q compare "$f" raw
		q compare raw "$f" -s
		q compare "$f" base.qcow2 -q -F qcow2
	done
	q check -f qcow2 raw
	q check --output=json bent.qcow2
	q check bent.qcow2
	q map -f qcow2 raw
	q compare raw not-there
	q compare not-there raw
	q compare raw
	q compare -f qcow2 raw raw
	q map --image-opts driver=qcow2,file.filename=base.qcow2
	q check --image-opts driver=qcow2,file.filename=base.qcow2
	q compare --image-opts driver=qcow2,file.filename=base.qcow2 driver=raw,file.filename=raw
	q info --image-opts driver=qcow2,file.filename=base.qcow2
	for o in cache-size=1M,l2-cache-size=2M cache-size=1M,refcount-cache-size=2M l2-cache-entry-size=256 \
		cache-size=0,l2-cache-size=0,refcount-cache-size=0 l2-cache-entry-size=128k l2-cache-entry-size=4242 \
		cache-size=2M,l2-cache-size=1M l2-cache-entry-size=16k overlap-check=all overlap-check=some \
		overlap-check.template=cached,overlap-check.main-header=off overlap-check.template=some; do
		q map --image-opts driver=qcow2,file.filename=base.qcow2,$o
	done
	q info 'json:{"driver":"qcow2","file":{"driver":"file","filename":"base.qcow2"}}'
	q map 'json:{"driver":"raw","file":{"driver":"file","filename":"raw"}}' --output=json
	q info file:base.qcow2
}
call 'map, compare, check' looking

# ---- limits --------------------------------------------------------------------------------------

# limited PROGRAM...: in an address space of 1 GiB and two seconds, as glance runs it.
limited() {
	(cd "$SCRATCH/given" && env LC_ALL=C LANG=C prlimit --as=1073741824 --cpu=2 -- "$@" </dev/null 2>&1)
}
if [ "$SANITIZER" = 1 ]; then
	skip 'info within limits' 'a sanitizer takes more address space'
else
	qemu-img create -q -f qcow2 -o cluster_size=512 "$SCRATCH/given/long.qcow2" 16G
	qemu-img create -q -f qcow2 "$SCRATCH/given/large.qcow2" 64T
	for f in raw base.qcow2 over.qcow2 kept.qcow2 long.qcow2 large.qcow2; do
		is "$(limited "$QEMU_IMG_LINK" info --output=json "$f" --force-share)" \
			"$(cd "$SCRATCH/given" && qemu-img info --output=json "$f")" "info within limits: $f"
		limited "$QEMU_IMG_LINK" map --output=json "$f" >/dev/null
		is $? 0 "map within limits: $f"
	done
fi
# No file descriptor above 2, and stdin closed.
is "$(cd "$SCRATCH/given" && "$QEMU_IMG_LINK" info --output=json base.qcow2 <&- 2>&1)" \
	"$(cd "$SCRATCH/given" && qemu-img info --output=json base.qcow2 <&- 2>&1)" 'stdin may be closed'
done_testing
