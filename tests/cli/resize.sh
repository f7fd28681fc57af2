#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# resize: what is said, what is refused, and what the disk holds afterwards.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
. "$srcdir/tests/cli/transcript.sh"

given() {
	rm -f ./*.raw ./*.qcow2
	truncate -s 1M r.raw
	seq 1 20000 | dd of=r.raw bs=64k seek=3 conv=notrunc status=none
	"$QI" convert -f raw -O qcow2 r.raw a.qcow2
	"$QI" create -q -f qcow2 -b a.qcow2 -F qcow2 o.qcow2 640k
}

# r IMAGE ARGUMENTS: with a fresh image, and what it holds then.
r() {
	local image=$1

	given
	shift
	t resize "$@"
	"$QI" convert -f "${image##*.}" -O raw "$image" sum.raw 2>/dev/null ||
		"$QI" convert -f raw -O raw "$image" sum.raw
	stat -c %s sum.raw && cksum <sum.raw
	case $image in *.qcow2) "$QI" check -q "$image" ;; esac
}

resized() {
	local f image

	for image in r.raw a.qcow2 o.qcow2; do
		f=${image##*.}
		[ "$f" = raw ] || f=qcow2
		r $image -f $f $image +1M
		r $image $image +1M
		r $image -q -f $f $image 3M
		r $image -f $f $image 512k
		r $image --shrink -f $f $image 512k
		r $image --shrink -f $f $image -- -256k
		r $image --shrink -f $f $image -256k
		r $image -f $f $image 2.5M
		r $image -f $f $image +0
		r $image -f $f $image 0
		r $image -f $f $image -4M
		r $image --shrink -f $f $image -4M
		r $image -f $f $image 9E
		r $image -f $f $image 99E
		r $image -f $f $image foo
		r $image -f $f $image +5x
		r $image -f $f $image 1e3
		r $image --image-opts driver=$f,file.filename=$image +64k
		r $image --preallocation=foo -f $f $image +1M
		r $image --preallocation=falloc -f $f $image +1M
		r $image --preallocation=full -f $f $image +1M
		r $image --preallocation=falloc -f $f $image -512k
		r $image --preallocation=off -f $f $image +1M
	done
	r a.qcow2 --preallocation=metadata -f qcow2 a.qcow2 +1M
	r r.raw --preallocation=metadata -f raw r.raw +1M
	r a.qcow2 -f qcow2 a.qcow2 1048577
	r a.qcow2 -f raw a.qcow2 +1M
	r a.qcow2 -f qcow2 r.raw +1M
}

refused() {
	given
	t resize
	t resize r.raw
	t resize r.raw 1M 2M
	t resize nofile 1M
	t resize -f nope r.raw 1M
	t resize --foo r.raw 1M
	t resize -U r.raw 1M
	t resize --image-opts -f raw driver=raw,file.filename=r.raw 1M
	"$QI" create -q -f qcow2 -u -b nofile -F raw lost.qcow2 1M
	t resize lost.qcow2 2M
}

same_as_qemu resize resized
same_as_qemu resize-refused refused

QI=$PLATTER
given
fails 1 '--untrusted refuses a backing file' "$PLATTER" resize --untrusted o.qcow2 +1M
"$PLATTER" convert -O raw o.qcow2 want.raw
truncate -s 1664k want.raw
ok '--no-backing does without it' "$PLATTER" resize --no-backing o.qcow2 +1M
"$PLATTER" convert -O raw o.qcow2 got.raw
is_file_equal got.raw want.raw '  and what is new hides what the backing file holds there'
like "$("$PLATTER" resize --help)" 'shrink' '--help needs no file'
chmod a-w r.raw
[ "$(id -u)" = 0 ] || fails 1 'a file that may not be written' "$PLATTER" resize -f raw r.raw +1M
done_testing
