#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# io over a blkdebug: errors at events, by kind, place and state, once or always; breakpoints; limits.
# What io says and what is left of the image; where qemu-io 7.2 is installed it must say the same, save
# in the tests marked "ours" (we raise an event at another place).

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
. "$srcdir/tests/cli/transcript.sh"

ln -s "$(readlink "$PLATTER")" "$SCRATCH/.bin/qemu-io"
IO=$SCRATCH/.bin/qemu-io
IMG=$QEMU_IMG_LINK

# conf SECTION KEY=VALUE...: adds to the file "conf".
conf() {
	echo "[$1]"
	shift
	printf '%s = "%s"\n' "$@"
} >>conf
rule() {
	local a=()

	for kv in "${@:2}"; do
		a+=("${kv%%=*}" "${kv#*=}")
	done
	conf "$1" "${a[@]}"
}

# What the program says of each command, without times and what closing said: one line.
say() {
	"$QIO" "$@" 2>/dev/null </dev/null | grep -v ' ops; ' | sed -E 's/^(wrote|read|discard) [0-9].*/ok/' | xargs
}

# check WHICH WANT DESCRIPTION ARGUMENTS...: a fresh image each time; WHICH: both, ours.
check() {
	local which=$1 want=$2 text=$3 program

	shift 3
	for program in "$IO" qemu-io; do
		if [ "$program" = qemu-io ]; then
			[ "$which" = both ] || continue
			is_qemu_7 || { skip "qemu-io: $text" 'qemu-io 7.2 is not installed'; continue; }
		fi
		rm -f a.qcow2
		"$IMG" create -q -f qcow2 a.qcow2 1M
		"$IO" -c 'write -qP 1 512k 64k' -f qcow2 a.qcow2
		is "$(QIO=$program say "$@")" "$want" "${program##*/}: $text"
		[ "$program" != "$IO" ] || ok "the image is whole after it" "$IMG" check -q a.qcow2
	done
	: >conf
}

fail='write failed: Input/output error'
readfail='read failed: Input/output error'
: >conf

rule inject-error event=write_aio
check both "$fail $fail" 'each write fails' -c 'write 0 64k' -c 'write 512k 1k' blkdebug:conf:a.qcow2
rule inject-error event=write_aio once=on
check both "$fail ok" 'one write fails' -c 'write 512k 1k' -c 'write 512k 1k' blkdebug:conf:a.qcow2
rule inject-error event=write_aio once=on immediately=on errno=28
check both 'write failed: No space left on device ok' 'with another error' -c 'write 512k 1k' -c 'write 512k 1k' \
	blkdebug:conf:a.qcow2
rule inject-error event=read_aio errno=5 once=on
check both "ok $readfail ok" 'one read fails' -c 'write 512k 1k' -c 'read 512k 1k' -c 'read 512k 1k' \
	blkdebug:conf:a.qcow2
rule inject-error event=write_aio iotype=read errno=22
check both 'ok read failed: Invalid argument' 'by kind: armed by a write, hits a read' -c 'write 512k 1k' \
	-c 'read 512k 1k' blkdebug:conf:a.qcow2
rule inject-error event=read_aio iotype=write
check both 'ok' 'by kind: a read passes' -c 'read 512k 1k' blkdebug:conf:a.qcow2
rule inject-error event=l2_load once=on
check both "$readfail ok" 'reading a table fails' -c 'read 512k 1k' -c 'read 512k 1k' blkdebug:conf:a.qcow2
rule inject-error event=flush_to_disk iotype=flush
check ours "$fail" 'a write whose flush fails has failed' -c 'write 512k 1k' blkdebug:conf:a.qcow2
rule inject-error event=pwritev
check both "$fail" 'any write' -c 'write 512k 1k' blkdebug:conf:a.qcow2
rule inject-error event=read_aio sector=3 errno=5
"$IMG" create -q -f raw r.raw 1M
is "$(QIO=$IO say -c 'read 0 1k' -c 'read 1k 512' -c 'read 1k 1k' -c 'read 2k 1k' -f raw blkdebug:conf:r.raw)" \
	"ok ok $readfail ok" 'by place'
! is_qemu_7 || is "$(QIO=qemu-io say -c 'read 0 1k' -c 'read 1k 512' -c 'read 1k 1k' -c 'read 2k 1k' \
	-f raw blkdebug:conf:r.raw)" "ok ok $readfail ok" 'qemu-io: by place'
: >conf

# The second write arms, by the state that the first has set.
rule set-state event=write_aio state=1 new_state=2
rule set-state event=write_aio state=2 new_state=3
rule inject-error event=write_aio state=3
check both "ok ok $fail $fail" 'states' -c 'write 512k 1k' -c 'write 512k 1k' -c 'write 512k 1k' \
	-c 'write 512k 1k' blkdebug:conf:a.qcow2

# The same rules as a tree and as a list.
check both "$fail ok" 'json' -c 'write 512k 1k' -c 'write 512k 1k' \
	'json:{"driver":"qcow2","file":{"driver":"blkdebug","image":{"driver":"file","filename":"a.qcow2"},"inject-error":[{"event":"write_aio","once":true,"errno":5}]}}'
check both "$fail ok" 'a list of options' -c 'write 512k 1k' -c 'write 512k 1k' --image-opts \
	driver=qcow2,file.driver=blkdebug,file.image.filename=a.qcow2,file.inject-error.0.event=write_aio,file.inject-error.0.once=on
check both "$fail ok ok" 'open -o' -c 'open -o driver=qcow2,file.inject-error.0.event=write_aio,file.inject-error.0.once=on blkdebug::a.qcow2' \
	-c 'write 512k 1k' -c 'write 512k 1k' -c 'read 512k 1k'
check ours "$fail" 'over a format' -c 'write 512k 1k' \
	'json:{"driver":"raw","file":{"driver":"blkdebug","image":{"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"}},"inject-error":[{"event":"pwritev"}]}}'
"$IMG" create -q -f qcow2 -b a.qcow2 -F qcow2 top.qcow2
like "$("$PLATTER" io -r -c 'read -P 1 512k 64k' blkdebug::top.qcow2)" '^read 65536' 'a backing file is found beside it'
like "$("$PLATTER" info blkdebug::a.qcow2)" 'image: blkdebug::a.qcow2' 'its name'

# Metadata: what fails leaves the image whole, and the data that was reported is there.
for event in l1_update l2_update l2_alloc_write refblock_update reftable_update pwritev pwritev_zero pwritev_done \
	cow_read cow_write write_aio write_compressed cluster_free flush_to_os flush_to_disk; do
	for once in on off; do
		: >conf
		rule inject-error "event=$event" "once=$once"
		rm -f a.qcow2
		"$IMG" create -q -f qcow2 -o cluster_size=4k a.qcow2 16M
		"$IO" -c 'write -qP 1 0 256k' -f qcow2 a.qcow2
		"$IO" -c 'write -qP 1 1k 5k' -c 'write -qP 1 8M 128k' -c 'write -qP 1 9M 1k' -c 'discard -q 4M 64k' \
			-c 'write -cqP 1 10M 64k' -c 'write -qz 12M 1M' blkdebug:conf:a.qcow2 >out 2>&1
		"$IMG" check -q a.qcow2 2>/dev/null
		case $? in
		0 | 3) pass "$event (once $once): whole, or with leaks" ;;
		*) fail "$event (once $once): whole, or with leaks" "$("$IMG" check a.qcow2 2>&1)" ;;
		esac
		like "$("$IO" -r -c 'read -P 1 0 256k' -f qcow2 a.qcow2)" '^read 262144/262144' "$event (once $once): the data is there"
	done
done
: >conf
rm -f a.qcow2
"$IMG" create -q -f qcow2 -o cluster_size=4k a.qcow2 16M

# Breakpoints: the held request comes last, whatever it is that passes it by.
held=$("$IO" -c 'write -q 0 64k' -c 'break write_aio A' -c 'aio_write -P 1 0 4k' -c 'wait_break A' -c 'write -P 2 64k 4k' \
	-c 'resume A' -c aio_flush -c 'read -P 1 0 4k' blkdebug::a.qcow2 2>&1 | grep -v ' ops; ')
is "$held" "blkdebug: Suspended request 'A'
wrote 4096/4096 bytes at offset 65536
blkdebug: Resuming request 'A'
wrote 4096/4096 bytes at offset 0
read 4096/4096 bytes at offset 0" 'a held write is passed by another'
# An allocating write is held while one to the same cluster waits for it: both are there in the end.
"$IO" -c 'break write_aio A' -c 'aio_write -P 3 8M 1k' -c 'wait_break A' -c 'aio_write -P 4 8193k 1k' -c 'resume A' \
	-c aio_flush -c 'read -P 3 8M 1k' -c 'read -P 4 8193k 1k' -c 'read -P 0 8194k 2k' blkdebug::a.qcow2 >out 2>&1
unlike "$(cat out)" 'failed' 'two writes to one cluster, the first one held'
# (with one table, for making another one waits for all that is under way)
rm -f a.qcow2
"$IMG" create -q -f qcow2 a.qcow2 64M
breaks=(-c 'write -q 0 1k')
for i in 1 2 3 4 5 6 7 8 9 10; do
	breaks+=(-c "break write_aio $i" -c "aio_write -P $i $((8 + i))M 1k" -c "wait_break $i")
done
is "$("$IO" "${breaks[@]}" -c 'read 0 4k' -c close blkdebug::a.qcow2 | grep -c '^wrote')" 10 \
	'ten are held, the disk is closed: all complete'
is "$("$IO" -c 'break foo A' -c 'resume A' -c 'remove_break A' -c 'break write_aio A' -c 'remove_break A' \
	-c 'write -q 0 1k' blkdebug::a.qcow2 2>&1)" "Could not set breakpoint: No such file or directory
Could not resume request: No such file or directory
Could not remove breakpoint A: No such file or directory" 'names that are not there'

# Limits: the bytes are right whatever has to be cut.
for limits in align=512 align=4k,max-transfer=8k align=512,opt-write-zero=64k,max-write-zero=64k \
	align=1k,opt-discard=32k,max-discard=96k max-transfer=64k; do
	rm -f a.qcow2
	"$IMG" create -q -f qcow2 -o cluster_size=2k a.qcow2 4M
	out=$("$IO" -c "open -o driver=qcow2,file.$(echo "$limits" | sed 's/,/,file./g') blkdebug::a.qcow2" -c 'write -P 1 0 2M' \
		-c 'write -P 2 1001 300001' -c 'write -z 500003 300000' -c 'discard 1048576 128k' -c 'write -P 3 1500001 3' \
		-c 'read -P 2 1001 300001' -c 'read -P 0 500003 300000' -c 'read -P 1 800003 1024' -c 'read -P 3 1500001 3' \
		-c 'read -P 1 1500004 596' 2>&1)
	unlike "$out" 'failed|open' "limits: $limits"
	ok "limits: $limits: check" "$IMG" check -q a.qcow2
	rm -f r.raw
	truncate -s 2096640 r.raw # no multiple of every unit
	out=$("$IO" -c "open -o driver=raw,file.$(echo "$limits" | sed 's/,/,file./g') blkdebug::r.raw" -c 'write -P 2 1001 300001' \
		-c 'write -z 1301 300' -c 'write -P 3 2096639 1' -c 'read -P 2 1001 300' -c 'read -P 0 1301 300' \
		-c 'read -P 2 1601 1000' -c 'read -P 3 2096639 1' -c 'read -P 0 0 1001' 2>&1)
	unlike "$out" 'failed|open' "limits: $limits: raw"
	is "$(stat -c %s r.raw)" 2096640 "limits: $limits: not longer"
done

# What is wrong is named.
wrong() {
	local text=$1

	shift
	like "$("$PLATTER" io -c length "$@" 2>&1)" "$text" "refused: $text"
}
wrong 'requires both' blkdebug:a.qcow2
wrong 'config file' blkdebug:noconf:a.qcow2
echo '[inject-error]' >conf && wrong 'Missing event' blkdebug:conf:a.qcow2
rule inject-error event=foo && wrong 'Missing event' blkdebug:conf:a.qcow2
: >conf && rule inject-error event=foo && wrong 'Invalid event name "foo"' blkdebug:conf:a.qcow2
: >conf && rule inject-error event=none foo=1 && wrong "'foo' of inject-error" blkdebug:conf:a.qcow2
: >conf && rule inject-error event=none iotype=foo && wrong 'iotype "foo"' blkdebug:conf:a.qcow2
: >conf && rule inject-error event=none errno=x && wrong "'errno' expects a number" blkdebug:conf:a.qcow2
: >conf && rule inject-error event=none once=x && wrong "'once' expects" blkdebug:conf:a.qcow2
: >conf && rule set-state event=none errno=1 && wrong "'errno' of set-state" blkdebug:conf:a.qcow2
echo '[foo]' >conf && wrong 'conf:1: unknown group' blkdebug:conf:a.qcow2
echo 'foo' >conf && wrong 'conf:1: parse error' blkdebug:conf:a.qcow2
wrong "'foo'" 'json:{"driver":"qcow2","file":{"driver":"blkdebug","image":{"driver":"file","filename":"a.qcow2"},"foo":1}}'
wrong '"image"' 'json:{"driver":"qcow2","file":{"driver":"blkdebug"}}'
wrong 'align 3' 'json:{"driver":"qcow2","file":{"driver":"blkdebug","align":3,"image":{"driver":"file","filename":"a.qcow2"}}}'
wrong 'max-transfer 1000' 'json:{"driver":"qcow2","file":{"driver":"blkdebug","align":512,"max-transfer":1000,"image":{"driver":"file","filename":"a.qcow2"}}}'
done_testing
