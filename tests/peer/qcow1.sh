#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# qcow version 1, and the AES that it and qcow2 had before LUKS, against qemu-img and qemu-io: new images
# are the same bytes; each reads what the other wrote, turn by turn; compressed, over a backing file,
# encrypted.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io
. "$srcdir/tests/peer/peer.sh"
. "$srcdir/tests/peer/crypt.sh"

truncate -s 1049088 data.raw
seq 1 40000 | dd of=data.raw conv=notrunc bs=512 seek=77 status=none
dd if=/dev/zero of=data.raw conv=notrunc bs=64k seek=9 count=2 status=none
head -c 90000 "$PLATTER" | dd of=data.raw conv=notrunc bs=512 seek=1500 status=none
qemu-img create -q -f qcow2 base.qcow2 3M
qemu-io -f qcow2 -c 'write -P 5 0 1M' -c 'write -P 6 2M 512' base.qcow2 >/dev/null

# ---- new images ----------------------------------------------------------------------------------

for size in 2 512 513 4096 1000000 64M 10G 1T; do
	rm -f p.qcow q.qcow
	p=$("$PLATTER" create -f qcow p.qcow $size 2>&1)
	is "$?" "$(q=$(qemu-img create -f qcow q.qcow $size 2>&1); echo $?)" "create $size"
	is "${p//p.qcow/q.qcow}" "$(qemu-img create -f qcow q.qcow $size 2>&1)" "create $size: what is said"
	is_file_equal p.qcow q.qcow "create $size: the same bytes"
done
for args in '-b base.qcow2 -F qcow2' '-b base.qcow2 -F qcow2 o.qcow 8M'; do
	rm -f o.qcow
	# shellcheck disable=SC2086
	set -- $args
	[[ $args == *o.qcow* ]] || set -- "$@" o.qcow
	"$PLATTER" create -q -f qcow "$@" && mv o.qcow p.qcow
	qemu-img create -q -f qcow "$@"
	is_file_equal p.qcow o.qcow "create $*: the same bytes"
done
"$PLATTER" create -q -f qcow "${S[@]}" -o encrypt.format=aes,encrypt.key-secret=s p.qcow 5M
qemu-img create -q -f qcow "${S[@]}" -o encryption=on,encrypt.key-secret=s q.qcow 5M
is_file_equal p.qcow q.qcow 'create, encrypted: the same bytes'

refused 'no size' create -q -f qcow x.qcow 0
refused 'no key' create -q -f qcow -o encryption=on x.qcow 1M
refused 'a key without a format' create -q -f qcow "${S[@]}" -o encrypt.key-secret=s x.qcow 1M
refused 'to be opened without its key' convert -O raw p.qcow x.raw
refused 'another encryption' map "${S[@]}" --image-opts "encrypt.format=luks,$(spec qcow p.qcow)"
fails 1 'luks inside qcow' "$PLATTER" create -q -f qcow "${S[@]}" -o encrypt.format=luks,encrypt.key-secret=s x.qcow 1M

# ---- turns ---------------------------------------------------------------------------------------

for options in '' backing_file=base.qcow2,backing_fmt=qcow2 encrypt.format=aes,encrypt.key-secret=s \
	encryption=on,encrypt.key-secret=s,backing_file=base.qcow2,backing_fmt=qcow2; do
	turns qcow "$options" $(((3 << 20) + 1536))
	is "$("$PLATTER" check -f qcow t.img 2>&1 | head -n 1)" 'No errors were found on the image.' \
		"qcow ${options:-defaults}: in order after that"
done
for options in encryption=on,encrypt.key-secret=s encrypt.format=aes,encrypt.key-secret=s,compat=0.10,cluster_size=512 \
	encrypt.format=aes,encrypt.key-secret=s,extended_l2=on; do
	turns qcow2 "$options" 300032
done

# ---- conversion ----------------------------------------------------------------------------------

for c in '' -c; do
	# shellcheck disable=SC2086
	"$PLATTER" convert $c -O qcow data.raw p.qcow
	both_read qcow p.qcow data.raw "converted by us $c"
	# shellcheck disable=SC2086
	qemu-img convert $c -O qcow data.raw q.qcow
	both_read qcow q.qcow data.raw "converted by them $c"
	next_seed
	cp data.raw m.raw
	"$WRITER" -f qcow -m m.raw p.qcow "random 100 $seed"
	both_read qcow p.qcow m.raw "converted by us $c, written by us"
	cp data.raw m.raw
	"$WRITER" -f qcow -m m.raw q.qcow "random 100 $seed"
	both_read qcow q.qcow m.raw "converted by them $c, written by us"
done
# Ours must leave a length behind which theirs can append.
"$PLATTER" create -q -f qcow p.qcow 1M
truncate -s 1M m.raw
"$WRITER" -f qcow p.qcow 'write 7 0 512'
qemu-io -t unsafe -f qcow -c 'write -c -P 8 8k 4k' -c 'write -c -P 9 16k 4k' p.qcow >/dev/null
"$WRITER" -f qcow p.qcow 'write 6 512 3584'
is "$(qemu-io -f qcow -r -c 'read -P 7 0 512' -c 'read -P 6 512 3584' -c 'read -P 8 8k 4k' -c 'read -P 9 16k 4k' p.qcow 2>&1 |
	grep -c 'verification failed')" 0 'their compressed clusters lie behind our data'

"$PLATTER" convert "${S[@]}" -O qcow -o encryption=on,encrypt.key-secret=s data.raw p.qcow
both_read qcow p.qcow data.raw 'converted, encrypted'
refused 'compressed and encrypted' convert -c "${S[@]}" -O qcow -o encryption=on,encrypt.key-secret=s data.raw x.qcow
for f in p.qcow q.qcow; do
	for format in human json; do
		is "$("$PLATTER" info --output=$format $f | grep -vE 'actual-size|disk size')" \
			"$(qemu-img info --output=$format $f | grep -vE 'actual-size|disk size')" "$f: info, $format"
	done
done
done_testing
