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

# dirty IMAGE BITMAP: the dirty ranges, "start+length" each.
dirty() {
	local socket=$SCRATCH/nbd.sock server i out

	rm -f "$socket"
	qemu-nbd -r -f qcow2 -B "$2" -k "$socket" "$1" &
	server=$!
	for ((i = 0; i < 500; i++)); do
		out=$(nbdinfo --map="qemu:dirty-bitmap:$2" "nbd+unix:///?socket=$socket" 2>/dev/null) && break
		kill -0 $server 2>/dev/null || break
		sleep 0.02
	done
	# It would end after its client, in its own time.
	kill -KILL $server 2>/dev/null
	wait $server 2>/dev/null
	[ -n "$out" ] || out='0 0 1 qemu-nbd has not answered'
	awk '$3 == 1 { printf "%s%d+%d", n++ ? " " : "", $1, $2 } END { print "" }' <<<"$out"
}

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
done_testing
