#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# rebase: command lines, their words and statuses, as of qemu-img, and what the image holds and shows then.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
. "$srcdir/tests/cli/transcript.sh"

# base.raw <- mid.qcow2 <- top.qcow2, and other.qcow2, each with something of its own, in whole clusters.
make() {
	rm -f ./*.qcow2 ./*.raw
	head -c 131072 /dev/zero | tr '\0' a >base.raw
	truncate -s 4M base.raw
	head -c 65536 /dev/zero | tr '\0' b >b.raw
	truncate -s 2M b.raw
	tr b c <b.raw >c.raw
	"$QI" create -q -f qcow2 -b base.raw -F raw mid.qcow2 "${1:-4M}"
	"$QI" convert -n -f raw -O qcow2 --target-is-zero b.raw mid.qcow2
	"$QI" create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2 "${2:-4M}"
	"$QI" convert -n -f raw -O qcow2 --target-is-zero -S 64k c.raw top.qcow2
	"$QI" convert -f raw -O qcow2 c.raw other.qcow2
	"$QI" create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2 "${2:-4M}"
}

show() {
	"$QI" convert -O raw top.qcow2 out && cksum <out
	"$QI" map --output=json top.qcow2 | sed -E 's/, "offset": [0-9]+//'
	"$QI" info top.qcow2 | grep '^backing'
}

ways() {
	mkdir -p sub
	make; show
	t rebase -b base.raw -F raw top.qcow2; show
	make; t rebase -b '' top.qcow2; show
	make; t rebase -b '' -F raw top.qcow2; show
	make; t rebase -b other.qcow2 -F qcow2 top.qcow2; show
	make 4M 6M; t rebase -b other.qcow2 -F qcow2 top.qcow2; show
	make 2M 4M; t rebase -b base.raw -F raw top.qcow2; show
	make 6M 6M; t rebase -b base.raw -F raw top.qcow2; show
	make; t rebase -u -b other.qcow2 -F qcow2 top.qcow2; show
	make; t rebase -u -b nofile -F qcow2 top.qcow2
	"$QI" info top.qcow2 | grep '^backing'
	make; t rebase -u -b '' top.qcow2; show
	make; t rebase -u top.qcow2; show
	make; t rebase -b ./base.raw -F raw -q top.qcow2; show
	make; t rebase -t none -T none -b base.raw -F raw top.qcow2
	make
	t rebase -u -b other.qcow2 top.qcow2
	t rebase -b other.qcow2 top.qcow2
	t rebase -b nofile -F qcow2 top.qcow2
	t rebase -b other.qcow2 -F nofmt top.qcow2
	t rebase -u -b other.qcow2 -F nofmt top.qcow2
	t rebase top.qcow2
	t rebase -b top.qcow2 -F qcow2 top.qcow2
	t rebase -t foo -b base.raw -F raw top.qcow2
	t rebase -T foo -b base.raw -F raw top.qcow2
	t rebase -b x
	t rebase -b x a b
	t rebase -b x nofile
	t rebase -u -b x -f raw base.raw
	t rebase -u -b x -F raw -f raw base.raw
	t rebase -b '' -f raw base.raw
	t rebase -U -b mid.qcow2 -F qcow2 top.qcow2
	t rebase --image-opts driver=qcow2,file.filename=top.qcow2 -b base.raw -F raw
	make
	(cd sub && t rebase -b base.raw -F raw ../top.qcow2)
	make
	rm mid.qcow2
	t rebase -b base.raw -F raw top.qcow2
	t rebase -u -b base.raw -F raw top.qcow2
	show
}

same_as_qemu rebase ways

# What is different: without the format nothing is copied before it is refused; -c compresses.
QI=$PLATTER
make
cp top.qcow2 before
fails 1 'no format' "$PLATTER" rebase -b other.qcow2 top.qcow2
is_file_equal top.qcow2 before '  nothing is written'
"$PLATTER" create -q -f qcow2 -b top.qcow2 -F qcow2 over.qcow2
fails 1 'a chain that would lead back' "$PLATTER" rebase -b over.qcow2 -F qcow2 top.qcow2
is_file_equal top.qcow2 before '  nothing is written'
hash=$("$PLATTER" hash top.qcow2)
ok 'compressed' "$PLATTER" rebase -c -b '' top.qcow2
is "$("$PLATTER" hash top.qcow2)" "$hash" '  shows the same'
like "$("$PLATTER" check top.qcow2)" '100.00% compressed' '  and is'
truncate -s 3M empty
# Zeros that nothing stood behind become the image's own, in formats without zero clusters too.
for options in compat=0.10 data_file=data compat=1.1 extended_l2=on; do
	rm -f alone.qcow2 data
	"$PLATTER" create -q -f qcow2 -o "$options" alone.qcow2 3M
	ok "from nothing onto a base: $options" "$PLATTER" rebase -b other.qcow2 -F qcow2 alone.qcow2
	ok '  shows the same' "$PLATTER" compare -f qcow2 -F raw alone.qcow2 empty
done
# A name of any length is recorded, and in its place nothing else is damaged.
for n in 1 300 400 1000 700 1023 2; do
	name=$(printf "%${n}s" | tr ' ' x)
	"$PLATTER" rebase -u -b "$name" -F raw top.qcow2
	is "$("$PLATTER" info top.qcow2 | grep '^backing file:' | cut -c15- | cut -d' ' -f1)" "$name" "a name of $n bytes"
done
fails 1 'one of 1024' "$PLATTER" rebase -u -b "$(printf %1024s | tr ' ' x)" -F raw top.qcow2
ok 'none' "$PLATTER" rebase -u -b '' top.qcow2
is "$("$PLATTER" hash top.qcow2)" "$hash" 'the same still'
done_testing
