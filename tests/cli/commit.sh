#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# commit: command lines, their words and statuses, as of qemu-img, and what the files of the chain hold then.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
. "$srcdir/tests/cli/transcript.sh"

# make [SIZE OF MID] [SIZE OF TOP]: base.raw <- mid.qcow2 <- top.qcow2, each with something of its own.
make() {
	rm -f ./*.qcow2 ./*.raw ./*.vhd
	head -c 200000 /dev/zero | tr '\0' a >base.raw
	truncate -s 3500000 base.raw
	echo "this lies behind the end of a shorter layer" >>base.raw
	truncate -s 4M base.raw
	head -c 100000 /dev/zero | tr '\0' b >more.raw
	truncate -s 3M more.raw
	"$QI" create -q -f qcow2 -b base.raw -F raw mid.qcow2 "${1:-4M}"
	"$QI" create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2 "${2:-4M}"
	"$QI" convert -n -f raw -O qcow2 --target-is-zero more.raw top.qcow2 2>/dev/null
}

# What each file holds: its size, a sum, and which parts are its own.
show() {
	local f

	for f; do
		echo "$f: $("$QI" info --output=json "$f" | grep '"virtual-size"' | head -1 | tr -dc 0-9)" \
			"$("$QI" convert -O raw "$f" out && cksum <out)"
		"$QI" map --output=json "$f" | sed -E 's/, "offset": [0-9]+//; s/"present": [a-z]+, //'
	done
}

ways() {
	make; t commit top.qcow2; show mid.qcow2
	make; t commit -d top.qcow2; show mid.qcow2
	make; t commit -b base.raw top.qcow2; show base.raw
	make; t commit -b mid.qcow2 top.qcow2
	make; t commit -q top.qcow2
	make; t commit -b nope.raw top.qcow2
	t commit -b top.qcow2 top.qcow2
	t commit -b ./base.raw top.qcow2
	t commit -f raw base.raw
	t commit mid.qcow2
	make 4M 8M; t commit top.qcow2; show mid.qcow2
	make 4M 8M; t commit -b base.raw top.qcow2; show base.raw
	make 4M 3M; t commit -b base.raw top.qcow2; show base.raw
	make 3M 4M; t commit -b base.raw top.qcow2; show base.raw
	make
	t commit -r 0 top.qcow2
	t commit -r 100M -t none top.qcow2
	t commit -t foo top.qcow2
	t commit -r x top.qcow2
	t commit
	t commit a b
	t commit nofile
	t commit -U top.qcow2
	t commit --image-opts driver=qcow2,file.filename=top.qcow2
	t commit -f qcow2 --image-opts driver=qcow2,file.filename=top.qcow2
	rm mid.qcow2
	t commit top.qcow2
}

same_as_qemu commit ways

# What is different: an image that cannot be emptied is refused before anything is written.
QI=$PLATTER
make
"$PLATTER" create -q -f qcow2 -o data_file=data.raw,backing_file=base.raw,backing_fmt=raw apart.qcow2 4M
"$PLATTER" io -f qcow2 -c 'write -P 7 0 64k' apart.qcow2 >/dev/null
cp base.raw before
is "$("$PLATTER" commit apart.qcow2 2>&1)" \
	"platter: 'apart.qcow2': an image with an external data file is not emptied" 'an external data file'
is_file_equal base.raw before '  nothing is written'
ok '  with -d it is committed' "$PLATTER" commit -d apart.qcow2
is "$(cmp base.raw before | cut -d: -f1)" 'base.raw before differ' '  and it is there'
done_testing
