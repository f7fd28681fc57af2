#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# bitmap: command lines, their words and statuses, as of qemu-img; and what is in the image then.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
. "$srcdir/tests/cli/transcript.sh"

bitmaps() {
	"$QI" info "$1" | sed -n '/bitmaps/,/refcount/p'
}

actions() {
	"$QI" create -q -f qcow2 a.qcow2 10M
	"$QI" create -q -f qcow2 b.qcow2 20M
	"$QI" create -q -f qcow2 -o cluster_size=2M c.qcow2 10M
	t bitmap --add a.qcow2 b0
	t bitmap --add a.qcow2 b0
	t bitmap --add -g 100 a.qcow2 b1
	t bitmap --add -g 1M a.qcow2 b1
	t bitmap --add -g 4G a.qcow2 b2
	t bitmap --add -g 1000 a.qcow2 b2
	t bitmap --add -g x a.qcow2 b2
	t bitmap --add a.qcow2 ''
	t bitmap --add c.qcow2 c0
	bitmaps c.qcow2
	t bitmap --remove a.qcow2 nope
	t bitmap --clear a.qcow2 nope
	t bitmap --enable a.qcow2 nope
	t bitmap --disable a.qcow2 nope
	t bitmap --merge nope a.qcow2 b0
	t bitmap --merge b0 a.qcow2 nope
	t bitmap --merge b0 -b nofile a.qcow2 b0
	t bitmap --add b.qcow2 x
	t bitmap --merge x -b b.qcow2 -F qcow2 a.qcow2 b0
	t bitmap --merge x -b c.qcow2 a.qcow2 b0
	t bitmap --merge x -F qcow2 a.qcow2 b0
	t bitmap --add -b b.qcow2 a.qcow2 b0
	t bitmap -g 1M --remove a.qcow2 b0
	t bitmap a.qcow2 b0
	t bitmap --add a.qcow2
	t bitmap --add -U a.qcow2 b
	t bitmap --merge b1 --clear --disable --merge b0 a.qcow2 b0
	t bitmap --merge b0 a.qcow2 b0
	bitmaps a.qcow2
	t bitmap --add --disable -f qcow2 a.qcow2 b2
	t bitmap --enable --image-opts driver=qcow2,file.filename=a.qcow2 b0
	bitmaps a.qcow2
	t bitmap --remove a.qcow2 b0
	t bitmap --remove a.qcow2 b1
	bitmaps a.qcow2
	t bitmap --remove a.qcow2 b2
	bitmaps a.qcow2
	t check a.qcow2
}

same_as_qemu bitmap actions

# What is different: of several actions all are done or none.
"$PLATTER" create -q -f qcow2 a.qcow2 1M
fails 1 'the second of two actions fails' "$PLATTER" bitmap --add --merge nope a.qcow2 new
is "$("$PLATTER" info a.qcow2 | grep -c name:)" 0 'and the first has not been done'
"$PLATTER" create -q -f qcow2 -o compat=0.10 old.qcow2 1M
is "$("$PLATTER" bitmap --add old.qcow2 b 2>&1)" "platter: Operation add on bitmap b failed: Can't make bitmap 'b' persistent in 'old.qcow2': Cannot store dirty bitmaps in qcow2 v2 files" \
	'version 2 has none'
"$PLATTER" create -q -f vhd v.vhd 1M
is "$("$PLATTER" bitmap --add v.vhd b 2>&1)" \
	"platter: Operation add on bitmap b failed: Can't store persistent bitmaps to v.vhd: Operation not supported" \
	'and neither has vhd'
long=$(printf 'x%.0s' {1..1024})
fails 1 'a name too long' "$PLATTER" bitmap --add a.qcow2 "$long"
ok 'the longest name' "$PLATTER" bitmap --add a.qcow2 "${long:1}"
done_testing
