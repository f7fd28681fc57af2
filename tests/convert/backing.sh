#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# convert -B and convert -n: what is left to a backing file, what must be written over it, and what
# becomes of an existing target.
# shellcheck source=tests/lib.sh
. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io

map() { qemu-img map --output=json -f qcow2 "$1" | grep -o '"start": [0-9]*, "length": [0-9]*, "depth": [0-9]*, "present": [a-z]*, "zero": [a-z]*'; }
content() { qemu-img convert -O raw "$1" content.raw && sha256sum < content.raw; }

qemu-img create -q -f qcow2 base.qcow2 8M
qemu-io -c 'write -P 0x11 0 8M' base.qcow2 > io.log
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2 12M
qemu-io -c 'write -P 0x22 1M 1M' -c 'write -z 3M 64k' -c 'write -P 0 4M 128k' -c 'write -P 0x33 5000000 700' \
	-c 'write -P 0x44 10M 64k' -c 'write -z 11M 64k' top.qcow2 >> io.log

for options in '' '-c' '-S 0' '-o compat=0.10'; do
	# shellcheck disable=SC2086
	ok "-B $options" "$PLATTER" convert $options -O qcow2 -B base.qcow2 -F qcow2 top.qcow2 p.qcow2
	# shellcheck disable=SC2086
	qemu-img convert $options -O qcow2 -B base.qcow2 -F qcow2 top.qcow2 q.qcow2
	is "$(content p.qcow2)" "$(content top.qcow2)" "  the same content"
	is "$(map p.qcow2)" "$(map q.qcow2)" "  left to the backing file as qemu-img does"
	ok '  in good order' qemu-img check -q p.qcow2
done
ok 'backing_file as an option' "$PLATTER" convert -O qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2 top.qcow2 o.qcow2
is "$(content o.qcow2)" "$(content top.qcow2)" '  the same content'
out=$("$PLATTER" convert -O qcow2 -B base.qcow2 top.qcow2 x.qcow2 2>&1)
is $? 1 'without its format'
like "$out" 'Use of backing file requires explicit backing format' '  is refused'

# A source without a backing file over a target's that is not zeros: its holes must be written.
qemu-img create -q -f qcow2 sparse.qcow2 8M
qemu-io -c 'write -P 0x55 2M 64k' sparse.qcow2 >> io.log
ok 'a sparse source over a base that is full' "$PLATTER" convert -O qcow2 -B base.qcow2 -F qcow2 sparse.qcow2 s.qcow2
is "$(content s.qcow2)" "$(content sparse.qcow2)" '  its zeros hide the base'

# -n
qemu-img create -q -f qcow2 full.qcow2 12M
qemu-io -c 'write -P 0x77 0 12M' full.qcow2 >> io.log
ok '-n over a full image' "$PLATTER" convert -n -O qcow2 top.qcow2 full.qcow2
is "$(content full.qcow2)" "$(content top.qcow2)" '  the same content'
ok '  in good order' qemu-img check -q full.qcow2
head -c 13M /dev/urandom > full.raw
ok '-n over a longer raw file' "$PLATTER" convert -n -O raw top.qcow2 full.raw
head -c 12M full.raw | sha256sum > got
is "$(cat got)" "$(content top.qcow2)" '  the same content in front'
is "$(stat -c %s full.raw)" $((13 << 20)) '  and as long as before'
qemu-img create -q -f qcow2 small.qcow2 11M
out=$("$PLATTER" convert -n -O qcow2 top.qcow2 small.qcow2 2>&1)
is $? 1 '-n over an image that is too small'
is "$out" 'platter: output file is smaller than input file' '  is refused'
out=$("$PLATTER" convert -n -O qcow2 top.qcow2 none.qcow2 2>&1)
is $? 1 '-n over nothing'
like "$out" "none.qcow2.*No such file or directory" '  says so'
[ ! -e none.qcow2 ]
is $? 0 '  and makes nothing'
qemu-img create -q -f qcow2 fresh.qcow2 12M
ok '--target-is-zero' "$PLATTER" convert -n --target-is-zero -O qcow2 top.qcow2 fresh.qcow2
is "$(content fresh.qcow2)" "$(content top.qcow2)" '  the same content'

# options that do not go together
for options in '-O raw -c' '-O qcow2 -c -o data_file=d.raw' '-O qcow2 -c -o preallocation=metadata'; do
	rm -f new
	# shellcheck disable=SC2086
	out=$("$QEMU_IMG_LINK" convert $options top.qcow2 new 2>&1)
	is $? 1 "$options"
	rm -f q d.raw
	# shellcheck disable=SC2086
	is "$out" "$(qemu-img convert $options top.qcow2 q 2>&1)" '  is refused in the same words'
	[ ! -e new ]
	is $? 0 '  and makes nothing'
done
done_testing
