#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# What a later program may have put into a header: kept, cleared or refused as the format demands.
# And images that were not closed: read as they are, brought in order before the first write.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io python3
. "$srcdir/tests/peer/peer.sh"

header() { python3 "$srcdir/tests/fixtures/header.py" "$@"; }

# ---- unknown things ------------------------------------------------------------------------------

head -c 200000 "$PLATTER" >base.raw
for options in '' cluster_size=512,backing_file=base.raw,backing_fmt=raw extended_l2=on data_file=d.raw \
	data_file=d.raw,data_file_raw=on lazy_refcounts=on compression_type=zstd; do
	sampled || continue
	text=${options:-defaults}
	rm -f f.qcow2 d.raw
	qemu-img create -q -f qcow2 ${options:+-o $options} f.qcow2 1M
	qemu-img bitmap --add f.qcow2 b
	header f.qcow2 extension 0x12345678 'thirteen char'
	header f.qcow2 extension 0x7abcdef0 ''
	header f.qcow2 set compatible 5
	header f.qcow2 set compatible 63
	ok "$text: qemu-img knows the image still" qemu-img check -q f.qcow2
	header f.qcow2 >before
	model_of f.qcow2 m.raw
	next_seed
	ok "$text: we write" "$WRITER" -f qcow2 -m m.raw f.qcow2 "random 60 $seed"
	case $options in
	*lazy*) grep -v '^incompatible' before >want && header f.qcow2 | grep -v '^incompatible' >got ;;
	*) cp before want && header f.qcow2 >got ;;
	esac
	is_output got want "$text: extensions and compatible bits are kept"
	agree f.qcow2 "$text: the content" m.raw

	header f.qcow2 set autoclear 7
	header f.qcow2 set autoclear 63
	cp f.qcow2 before.qcow2
	"$PLATTER" convert -f qcow2 -O raw f.qcow2 p.raw
	"$PLATTER" check -q f.qcow2
	"$PLATTER" map f.qcow2 >/dev/null 2>&1
	"$WRITER" f.qcow2 'read 0 0 0'
	is_file_equal f.qcow2 before.qcow2 "$text: autoclear bits stay while nothing is written"
	ok "$text: we write with unknown autoclear bits" "$WRITER" f.qcow2 'write 1 0 512'
	header f.qcow2 | grep -v '^incompatible' >got
	grep -v '^incompatible' before >want
	is_output got want "$text: they are cleared, and nothing else is changed"
	# Gone before the data is there, not with the end.
	header f.qcow2 set autoclear 9
	{ "$WRITER" f.qcow2 'write 2 0 512' kill; } >/dev/null 2>&1
	is "$(header f.qcow2 | sed -n 's/^autoclear //p')" "$(sed -n 's/^autoclear //p' before)" \
		"$text: they are cleared by the first write"
	case $options in *lazy*) continue ;; esac

	header f.qcow2 set incompatible 9
	for args in 'info' 'map' 'check' 'convert -O raw' 'compare'; do
		rm -f q.raw p.raw
		case $args in
		convert*) q=q.raw p=p.raw ;;
		compare) q=base.raw p=base.raw ;;
		*) q='' p='' ;;
		esac
		# shellcheck disable=SC2086
		want=$(qemu-img $args f.qcow2 $q 2>&1; echo "status $?")
		# shellcheck disable=SC2086
		got=$("$QEMU_IMG_LINK" $args f.qcow2 $p 2>&1; echo "status $?")
		is "$got" "$want" "$text: $args refuses an unknown incompatible bit"
	done
	header f.qcow2 name 0 9 'from next year'
	header f.qcow2 | grep -q '^0x6803f857' && # (there is no room for names in a cluster of 512 bytes)
	like "$("$PLATTER" info f.qcow2 2>&1)" "f\.qcow2.*Unsupported qcow2 feature\(s\): from next year" \
		"$text: by the name in the image"
	cp f.qcow2 before.qcow2
	"$WRITER" f.qcow2 'write 1 0 512' >/dev/null 2>&1
	is_file_equal f.qcow2 before.qcow2 "$text: and it is not written to"
done

# A longer header.
qemu-img create -q -f qcow2 -b base.raw -F raw l.qcow2 1M
header l.qcow2 longer 00112233445566778899aabbccddeeff
header l.qcow2 >before
if qemu-img check -q l.qcow2; then
	model_of l.qcow2 m.raw
	header l.qcow2 set autoclear 5 # so that the header is written
	ok 'a longer header: we write' "$WRITER" -m m.raw l.qcow2 "random 60 $seed"
	header l.qcow2 >got
	is_output got before 'a longer header: it is kept'
	agree l.qcow2 'a longer header: the content' m.raw
fi

# ---- not closed ----------------------------------------------------------------------------------

for options in lazy_refcounts=on lazy_refcounts=on,cluster_size=512 lazy_refcounts=on,extended_l2=on \
	lazy_refcounts=on,refcount_bits=64,cluster_size=4k lazy_refcounts=on,refcount_bits=1; do
	sampled || continue
	qemu-img create -q -f qcow2 -o $options d.qcow2 4M
	rm -f m.raw
	truncate -s 4M m.raw
	"$WRITER" -m m.raw d.qcow2 'write 3 5000 900000' 'discard 65536 131072' 'compress 4 131072 65536'
	# Their crash: the counts are behind.
	qemu-io -f qcow2 -c 'write -P 65 1000000 300000' -c 'write -P 66 3000000 700' -c flush -c abort d.qcow2 >/dev/null 2>&1
	{
		head -c 300000 /dev/zero | tr '\0' A | dd of=m.raw bs=64k oflag=seek_bytes seek=1000000 conv=notrunc
		head -c 700 /dev/zero | tr '\0' B | dd of=m.raw bs=64k oflag=seek_bytes seek=3000000 conv=notrunc
	} 2>/dev/null
	like "$(qemu-img info -U d.qcow2; header d.qcow2)" '^incompatible 0x[0-9a-f]*[13579bdf]$' "$options: left dirty by them"
	is "$(check_of "$PLATTER" d.qcow2)" "$(check_of qemu-img d.qcow2)" "$options: checked alike"
	cp d.qcow2 before.qcow2
	"$PLATTER" convert -O raw d.qcow2 p.raw
	is_file_equal p.raw m.raw "$options: read as it is"
	map_of qemu-img -U d.qcow2 >q.map
	map_of "$PLATTER" -U d.qcow2 >p.map
	is_output p.map q.map "$options: mapped as it is"
	like "$("$PLATTER" info --output=json d.qcow2)" '"dirty-flag": true' "$options: info says so"
	is_file_equal d.qcow2 before.qcow2 "$options: reading changes nothing"
	next_seed
	ok "$options: we write" "$WRITER" -m m.raw d.qcow2 "random 40 $seed"
	agree d.qcow2 "$options: in order after that" m.raw
	unlike "$(header d.qcow2)" '^incompatible 0x[0-9a-f]*[13579bdf]$' "$options: and clean"
	# Our crash.
	next_seed
	{ "$WRITER" -m m.raw d.qcow2 "random 40 $seed" flush kill; } >/dev/null 2>&1
	like "$(header d.qcow2)" '^incompatible 0x[0-9a-f]*[13579bdf]$' "$options: left dirty by us"
	qemu-img convert -O raw d.qcow2 q.raw
	is_file_equal q.raw m.raw "$options: they read it as it is"
	cp d.qcow2 e.qcow2
	ok "$options: they repair it" qemu-img check -q -r all e.qcow2
	agree e.qcow2 "$options: after their repair" m.raw
	ok "$options: we recover it" "$WRITER" -m m.raw d.qcow2 'write 9 0 70000'
	# The recount raises counts only: what the crash has leaked stays.
	like "$(check_of qemu-img d.qcow2)" '^[03] ' "$options: leaks at most"
	qemu-img check -q -r leaks d.qcow2
	agree d.qcow2 "$options: after our recovery" m.raw
done

# Without lazy counts a crash leaves leaks at most.
for options in '' cluster_size=512 extended_l2=on,cluster_size=16k compat=0.10 refcount_bits=1; do
	sampled || continue
	wrong=
	for i in 1 2 3 4 5 6; do
		next_seed
		"$PLATTER" create -q -f qcow2 ${options:+-o $options} k.qcow2 2M
		rm -f m.raw
		truncate -s 2M m.raw
		{ "$WRITER" -m m.raw k.qcow2 "random $((i * 12)) $seed" flush kill; } >/dev/null 2>&1
		qemu-img convert -O raw k.qcow2 q.raw
		cmp -s q.raw m.raw || wrong="$wrong [seed $seed: content]"
		case $(check_of qemu-img k.qcow2) in [03]\ *) ;; *) wrong="$wrong [seed $seed: $(qemu-img check k.qcow2 2>&1 | head -n 1)]" ;; esac
		{ "$WRITER" -m m.raw k.qcow2 "random 30 $seed" kill; } >/dev/null 2>&1
		case $(check_of qemu-img k.qcow2) in [03]\ *) ;; *) wrong="$wrong [seed $seed, no flush: $(qemu-img check k.qcow2 2>&1 | head -n 1)]" ;; esac
		"$WRITER" k.qcow2 'write 1 0 2097152' || wrong="$wrong [seed $seed: opened again]"
		case $(check_of qemu-img k.qcow2) in [03]\ *) ;; *) wrong="$wrong [seed $seed, again: $(qemu-img check k.qcow2 2>&1 | head -n 1)]" ;; esac
	done
	is "$wrong" '' "killed, ${options:-defaults}: flushed data is there, leaks at most"
done
done_testing
