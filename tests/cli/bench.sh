#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# bench: what is said and what is refused; and that the requests are made, by what they write.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
. "$srcdir/tests/cli/transcript.sh"

benches() {
	truncate -s 1M r.raw
	"$QI" create -q -f qcow2 a.qcow2 1M
	"$QI" create -q -f qcow2 -b a.qcow2 -F qcow2 o.qcow2 2M
	t bench -c 10 -f raw r.raw
	t bench -c 10 r.raw
	t bench -w -c 10 r.raw
	t bench -c 1000 -i threads a.qcow2
	t bench -c 10 -i foo a.qcow2
	t bench -c 10 -n a.qcow2
	t bench -c 100 -d 3 -s 512 -S 8k -o 1000 o.qcow2
	t bench -c 0 a.qcow2
	t bench -c 5 -s 0 a.qcow2
	t bench -c 5 -q --no-drain -U a.qcow2
	t bench -c 5 --image-opts driver=qcow2,file.filename=a.qcow2
	t bench -w -c 100 -d 10 --flush-interval=20 a.qcow2
	t bench -w -c 100 -d 5 --no-drain --flush-interval 10 --pattern 7 a.qcow2
	t bench -w -t unsafe -c 10 -d 5 a.qcow2
	t bench -w -t writethrough -c 10 -d 5 a.qcow2
	t bench -o 1048000 -c 1 a.qcow2
	t bench -o 6M -c 1 a.qcow2
	t bench -w -U a.qcow2
	t bench -c x a.qcow2
	t bench -c -1 a.qcow2
	t bench -c 3000000000 a.qcow2
	t bench -d x a.qcow2
	t bench -s 3G a.qcow2
	t bench -s x a.qcow2
	t bench -S 3G a.qcow2
	t bench -o x a.qcow2
	t bench -t foo a.qcow2
	t bench --pattern=256 a.qcow2
	t bench --flush-interval=x a.qcow2
	t bench --flush-interval=5 a.qcow2
	t bench -w --flush-interval=5 a.qcow2
	t bench a.qcow2 o.qcow2
	t bench
	t bench nofile
}

same_as_qemu bench benches

# bytes FILE: each byte that it holds, as octal, and how often.
bytes() {
	"$PLATTER" convert -O raw "$1" bytes.raw
	od -An -v -t o1 -w1 bytes.raw | sort | uniq -c | awk '{ print $2 ":" $1 }' | tr '\n' ' '
}
for aio in '' '-i threads' '-t none -n' '-t directsync -d 2'; do
	rm -f w.qcow2
	"$PLATTER" create -q -f qcow2 w.qcow2 1M
	# shellcheck disable=SC2086
	out=$("$PLATTER" bench -w $aio -c 300 -s 512 -S 1k --pattern 9 w.qcow2 2>&1)
	if [[ $out == *O_DIRECT* || $out == *io_uring* ]]; then
		skip "bench -w $aio" 'not possible here'
		continue
	fi
	is "$(bytes w.qcow2)" '000:894976 011:153600 ' "bench -w $aio: writes what it says"
	ok '  and nothing is out of order' "$PLATTER" check -q w.qcow2
done
rm -f w.qcow2
"$PLATTER" create -q -f qcow2 w.qcow2 1M
"$PLATTER" bench -w -c 40 -d 4 -s 64k -o 60k -S 64k --pattern 9 --flush-interval 5 w.qcow2 >out 2>err
is "$?: $(cat err)" '1: platter: Failed request: Input/output error' 'a request behind the end of the disk'
is "$(bytes w.qcow2)" '000:65536 011:983040 ' '  after those before it'
is "$("$PLATTER" bench -d 0 w.qcow2 2>&1 >/dev/null)" 'platter: a queue depth of 0 sends nothing' 'no depth'
truncate -s 0 empty.raw
fails 1 'an empty disk' "$PLATTER" bench -f raw empty.raw
fails 1 '--untrusted refuses a backing file' "$PLATTER" bench --untrusted -c 1 o.qcow2
done_testing
