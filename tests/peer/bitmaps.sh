#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Persistent dirty bitmaps that qemu-img made: what platter writes is recorded in those that record,
# they are in order after a clean end, and marked in use after a crash.  Their content is read back
# through qemu-nbd, and compared with what has been written.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io qemu-nbd nbdinfo
. "$srcdir/tests/peer/peer.sh"

# flags IMAGE: one line a bitmap, "name: flags".
flags() {
	qemu-img info -U --output=json "$1" | tr -d ' \n' | grep -o '"flags":\[[^]]*\],"name":"[^"]*"' |
		sed -E 's/"flags":\[(.*)\],"name":"(.*)"/\2: \1/' | tr -d '"'
}

for options in '' cluster_size=4k cluster_size=512 extended_l2=on refcount_bits=64 lazy_refcounts=on \
	data_file=d.raw data_file=d.raw,data_file_raw=on; do
	text=${options:-defaults}
	rm -f b.qcow2 d.raw
	"$PLATTER" create -q -f qcow2 ${options:+-o $options} b.qcow2 8M
	"$WRITER" b.qcow2 'write 1 0 1048576'
	qemu-img bitmap --add -g 64k b.qcow2 coarse
	qemu-img bitmap --add -g 512 b.qcow2 fine
	qemu-img bitmap --add --disable b.qcow2 off
	is "$(dirty b.qcow2 coarse)" '' "$text: empty at first"

	ok "$text: we write" "$WRITER" -f qcow2 b.qcow2 'write 2 100000 1000' 'zero 3145728 131072' 'unmap 4194304 100' \
		'discard 5242880 65536' 'write 3 8388607 1'
	is "$(flags b.qcow2 | tr '\n' ' ')" 'coarse: auto fine: auto off:  ' "$text: in order, and as they were"
	# A discard is recorded too: whoever copies what is dirty must see it.
	is "$(dirty b.qcow2 coarse)" '65536+65536 3145728+131072 4194304+65536 5242880+65536 8323072+65536' \
		"$text: recorded, 64 KiB"
	is "$(dirty b.qcow2 fine)" '99840+1536 3145728+131072 4194304+512 5242880+65536 8388096+512' \
		"$text: recorded, 512 bytes"
	is "$(dirty b.qcow2 off)" '' "$text: not recorded where that is off"
	if [[ $options != data_file* ]]; then
		"$WRITER" b.qcow2 'compress 5 6291456 65536'
		like "$(dirty b.qcow2 coarse)" '6291456\+65536' "$text: compressed writes too"
	fi
	case $options in
	data_file*) is "$(check_of qemu-img b.qcow2 | cut -c 1)" 0 "$text: in order" ;;
	*) agree b.qcow2 "$text: in order" ;;
	esac

	# Both take turns.
	"$WRITER" b.qcow2 'write 4 2097152 512'
	qemu-io -f qcow2 -c 'write -P 5 2098176 512' b.qcow2 >/dev/null
	"$WRITER" b.qcow2 'write 4 2099200 512'
	like "$(dirty b.qcow2 fine)" ' 2097152\+512 2098176\+512 2099200\+512 ' "$text: both take turns"
	# Reading records nothing and changes nothing.
	cp b.qcow2 before
	"$WRITER" -r b.qcow2 'read 4 2097152 512'
	"$WRITER" b.qcow2 'read 4 2097152 512'
	is_file_equal before b.qcow2 "$text: reading changes nothing"
	qemu-img bitmap --add -g 512 b.qcow2 sum
	ok "$text: merged by qemu-img" qemu-img bitmap --merge fine b.qcow2 sum
	is "$(dirty b.qcow2 sum)" "$(dirty b.qcow2 fine)" "$text: the sum is the same"

	# A crash.
	{ "$WRITER" b.qcow2 'write 6 7340032 512' flush kill; } >/dev/null 2>&1
	is "$(flags b.qcow2 | tr '\n' ' ')" 'coarse: in-use,auto fine: in-use,auto off:  sum: in-use,auto ' \
		"$text: after a crash those that record are in use"
	case $options in *lazy*) qemu-io -f qcow2 -c 'read 0 512' b.qcow2 >/dev/null 2>&1 ;; esac
	like "$(check_of qemu-img b.qcow2)" '^[03] ' "$text: and nothing worse"
	ok "$text: we open it again" "$WRITER" b.qcow2 'read 6 7340032 512' 'write 7 7340544 512'
	is "$(flags b.qcow2 | head -n 1)" 'coarse: in-use,auto' "$text: and do not believe them again"
	for name in coarse fine sum; do
		qemu-img bitmap --remove b.qcow2 $name || fail "$text: remove $name"
	done
	is "$(check_of "$PLATTER" b.qcow2)" "$(check_of qemu-img b.qcow2)" "$text: checked alike at the end"
done

# ---- copied by convert ---------------------------------------------------------------------------

# alike DESCRIPTION ARGUMENT...: both programs end so and say the same; "OUT" is the file that is made.
alike() {
	local text=$1 ours theirs

	shift
	theirs=$(qemu-img "${@/OUT/q.qcow2}" 2>&1; echo "status $?")
	ours=$("$QEMU_IMG_LINK" "${@/OUT/p.qcow2}" 2>&1; echo "status $?")
	is "${ours//p.qcow2/OUT}" "${theirs//q.qcow2/OUT}" "$text"
}

rm -f ./*.qcow2 d.raw
"$PLATTER" create -q -f qcow2 b.qcow2 8M
"$WRITER" b.qcow2 'write 1 0 1048576'
for args in '-g 64k coarse' '-g 512 fine' '--disable off' 'empty'; do
	# shellcheck disable=SC2086
	qemu-img bitmap --add ${args% *} b.qcow2 ${args##* } 2>/dev/null ||
		qemu-img bitmap --add b.qcow2 "$args"
done
"$WRITER" b.qcow2 'write 2 100000 1000' 'write 3 8388607 1'
qemu-img bitmap --clear b.qcow2 empty
qemu-img bitmap --merge fine b.qcow2 off
for options in '' '-o cluster_size=512' '-o cluster_size=2M' '-o extended_l2=on' -c '-o refcount_bits=1' \
	'-o data_file=d.raw' '-m 1 -S 0'; do
	rm -f p.qcow2 d.raw
	# shellcheck disable=SC2086
	ok "convert --bitmaps $options" "$PLATTER" convert --bitmaps -O qcow2 $options b.qcow2 p.qcow2
	for name in coarse fine off empty; do
		is "$(dirty p.qcow2 $name)" "$(dirty b.qcow2 $name)" "  $name has arrived"
	done
	is "$(flags p.qcow2)" "$(flags b.qcow2)" '  with the flags'
	is "$(check_of qemu-img p.qcow2)" "$(check_of "$PLATTER" p.qcow2)" '  and all is in order'
	like "$(check_of qemu-img p.qcow2)" '^0 ' '  with status 0'
	[ -n "$options" ] || cp p.qcow2 first.qcow2
done
is "$(dirty b.qcow2 fine)" '99840+1536 8388096+512' 'and there was something to copy'
# What they say of it, and that it goes on recording.
qemu-img convert --bitmaps -O qcow2 b.qcow2 q.qcow2
is "$(qemu-img info first.qcow2 | sed -n '/bitmaps:/,/refcount/p')" \
	"$(qemu-img info q.qcow2 | sed -n '/bitmaps:/,/refcount/p')" 'listed in the order of the source, as with qemu-img'
qemu-io -f qcow2 -c 'write 4M 512' first.qcow2 >/dev/null
"$WRITER" first.qcow2 'write 5 5242880 512'
is "$(dirty first.qcow2 fine)" '99840+1536 4194304+512 5242880+512 8388096+512' 'both record in a copy'
is "$(dirty first.qcow2 off)" '65536+65536 8323072+65536' 'nobody where that is off'

# Into an image that has bitmaps.
for f in p q; do
	qemu-img create -q -f qcow2 $f.qcow2 8M
	qemu-img bitmap --add -g 64k $f.qcow2 mine
done
ok 'convert -n --bitmaps' "$PLATTER" convert -n --bitmaps -O qcow2 b.qcow2 p.qcow2
qemu-img convert -n --bitmaps -O qcow2 b.qcow2 q.qcow2
for name in mine coarse fine off empty; do
	is "$(dirty p.qcow2 $name)" "$(dirty q.qcow2 $name)" "  $name is as with qemu-img"
done
is "$(flags p.qcow2 | sort)" "$(flags q.qcow2 | sort)" '  with the flags'
like "$(check_of qemu-img p.qcow2)" '^0 ' '  and in order'
cp p.qcow2 before
alike 'a bitmap of that name is there' convert -n --bitmaps -O qcow2 b.qcow2 OUT
is_file_equal p.qcow2 before '  and nothing has been written'
for f in p q; do qemu-img create -q -f qcow2 $f.qcow2 9M; done
alike 'a larger target' convert -n --bitmaps -O qcow2 b.qcow2 OUT
rm -f [pq].qcow2

# What cannot be.
qemu-img create -q -f qcow2 -o compat=0.10 old.qcow2 1M
truncate -s 1M r.raw
alike 'a target without bitmaps' convert --bitmaps -O raw b.qcow2 OUT
alike 'a target of version 2' convert --bitmaps -O qcow2 -o compat=0.10 b.qcow2 OUT
alike 'a source without bitmaps' convert --bitmaps -f raw -O qcow2 r.raw OUT
alike 'a source of version 2' convert --bitmaps -O qcow2 old.qcow2 OUT
alike 'two sources' convert --bitmaps -O qcow2 b.qcow2 b.qcow2 OUT
alike 'the second option alone' convert --skip-broken-bitmaps -O qcow2 b.qcow2 OUT
rm -f [pq].qcow2
{ "$WRITER" b.qcow2 'write 6 7340032 512' flush kill; } >/dev/null 2>&1
alike 'a bitmap in use' convert --bitmaps -O qcow2 b.qcow2 OUT
is "$(ls p.qcow2 2>/dev/null)" '' '  nothing is made'
alike 'left out' convert --bitmaps --skip-broken-bitmaps -O qcow2 b.qcow2 OUT
is "$(flags p.qcow2)" 'off: ' '  the others are copied'
is "$(dirty p.qcow2 off)" "$(dirty b.qcow2 off)" '  with their content'
# The command: what we change, qemu-nbd reads; and words about one that is in use are the same.
rm -f m.qcow2 n.qcow2
"$PLATTER" create -q -f qcow2 -o cluster_size=4k m.qcow2 8M
"$PLATTER" create -q -f qcow2 n.qcow2 8M
"$PLATTER" bitmap --add -g 64k m.qcow2 coarse
"$PLATTER" bitmap --add -g 512 m.qcow2 fine
"$PLATTER" bitmap --add -g 4k n.qcow2 far
qemu-io -f qcow2 -c 'write 100000 1000' -c 'write 8388096 512' m.qcow2 >/dev/null
qemu-io -f qcow2 -c 'write 1048576 4096' n.qcow2 >/dev/null
ok 'several at once' "$PLATTER" bitmap --clear --merge coarse \
	--disable m.qcow2 coarse
ok 'merged: from another file' "$PLATTER" bitmap --merge far -b n.qcow2 -F qcow2 m.qcow2 fine
is "$(dirty m.qcow2 coarse)" '' 'cleared, then merged with what was cleared'
is "$(dirty m.qcow2 fine)" '99840+1536 1048576+4096 8388096+512' 'the union'
ok 'fine to coarse' "$PLATTER" bitmap --merge fine m.qcow2 coarse
is "$(dirty m.qcow2 coarse)" '65536+65536 1048576+65536 8323072+65536' 'granules that hold any of it'
ok 'coarse to fine' "$PLATTER" bitmap --clear --merge coarse m.qcow2 fine
is "$(dirty m.qcow2 fine)" '65536+65536 1048576+65536 8323072+65536' 'all of each granule'
ok 'a third one' "$PLATTER" bitmap --add m.qcow2 third
ok 'and away' "$PLATTER" bitmap --remove m.qcow2 coarse
is "$(dirty m.qcow2 fine)" '65536+65536 1048576+65536 8323072+65536' 'others stay'
ok 'sound' qemu-img check -q m.qcow2
(ulimit -c 0; qemu-io -f qcow2 -c 'write 0 512' -c abort m.qcow2) >/dev/null 2>&1
is "$(flags m.qcow2 | tr '\n' ' ')" 'fine: in-use,auto third: in-use,auto ' 'a crash leaves them in use'
cp m.qcow2 theirs.qcow2
for action in '--add' '--clear' '--enable' '--disable' '--merge third' '--remove'; do
	is "$("$QEMU_IMG_LINK" bitmap $action m.qcow2 fine 2>&1; echo $?)" \
		"$(qemu-img bitmap $action theirs.qcow2 fine 2>&1; echo $?)" "in use: $action"
done
is "$(flags m.qcow2)" "$(flags theirs.qcow2)" 'one is removed, the other stays as it is'
ok 'sound' qemu-img check -q m.qcow2

# More bits than may be kept in memory, of which next to none are set.
"$PLATTER" create -q -f qcow2 huge.qcow2 1T
ok '256 MiB of bits' "$PLATTER" bitmap --add -g 512 huge.qcow2 fine
ok '  and a few of them set' "$PLATTER" io -c 'write 1G 1k' -c 'write 1000G 512' huge.qcow2
is "$(dirty huge.qcow2 fine)" '1073741824+1024 1073741824000+512' '  are those'
ok '  sound' qemu-img check -q huge.qcow2
# All of them set, in a table of ones: that is more than a file of this size can ask for.
python3 - huge.qcow2 <<'END'
import struct, sys
f = open(sys.argv[1], 'r+b')
f.seek(112)
while True: # the extension of bitmaps
    kind, size = struct.unpack('>II', f.read(8))
    if kind == 0x23852875:
        break
    f.seek(-size % 8 + size, 1)
f.seek(struct.unpack('>IIQQ', f.read(24))[3])
at, n = struct.unpack('>QI', f.read(12))
f.seek(at)
f.write(struct.pack('>Q', 1) * n)
END
like "$("$PLATTER" io -c 'write 0 512' huge.qcow2 2>&1)" 'more than 192 MiB of memory' 'all of them set'

done_testing
