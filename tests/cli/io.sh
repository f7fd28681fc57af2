#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# io: what qemu-io does with the same commands, times apart.  io.out is what qemu-io 7.2 says; where it
# is installed, that is verified too.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
. "$srcdir/tests/cli/transcript.sh"

ln -s "$(readlink "$PLATTER")" "$SCRATCH/.bin/qemu-io"
IO=$SCRATCH/.bin/qemu-io
IMG=$QEMU_IMG_LINK

# Times and rates, and the digits of what only begins with a time.
times() {
	sed -E -e 's/[0-9]+(:[0-9]+)*\.[0-9]+( sec)? \([^)]*\)/TIME/' -e 's/^([0-9]+),1,[0-9:.]+,.*/\1,1,TIME/' \
		-e 's/nan|inf/RATE/g'
}

# q ARGUMENTS: into the transcript, stdout before stderr.
q() {
	printf '$ qemu-io'
	printf " '%s'" "$@"
	echo
	"$QIO" "$@" >out 2>err </dev/null
	local status=$?
	times <out
	cat err
	echo "status $status"
}

# Requests side by side report in any order.
q_sorted() {
	q "$@" | sort
}

c() {
	local a=()

	while [ "$1" != -- ]; do
		a+=(-c "$1")
		shift
	done
	shift
	q "${a[@]}" "$@"
}

# script NAME: standard input.
stdin() {
	echo "$ qemu-io $* <<"
	"$QIO" "$@" 2>&1 | times
	echo "status ${PIPESTATUS[0]}"
}

images() {
	"$IMG" create -q -f qcow2 a.qcow2 1M
	"$IMG" create -q -f qcow2 -o compat=0.10 old.qcow2 1M
	"$IMG" create -q -f raw r.raw 1M
	"$IMG" create -q -f qcow2 -b r.raw -F raw top.qcow2
}

data() {
	images
	c 'write 0 64k' 'read 0 64k' 'read -P 0xcd 0 64k' 'read -P 0 0 64k' 'read -P 0 64k 1k' -- -f qcow2 a.qcow2
	c 'write -P 0xab 64k 64k' 'read -P 0xab 64k 64k' 'read -P 0xcd 0 128k' 'read -P 0xcd 0 65537' 'read -v 65530 40' 'read -qv 0 16' -- -f qcow2 a.qcow2
	c 'write -C 0 64k' 'write -q 0 64k' 'read -C 0 512' 'read -qP 1 0 64k' -- -f qcow2 a.qcow2
	c 'write 1 3' 'read -P 0xcd 1 3' 'read -vP 0xcd 0 20' 'write 0 0' 'read 0 0' -- -f qcow2 a.qcow2
	c 'write 1M 512' 'write 1023k 2k' 'read 1M 512' 'read 2M 0' 'read 1k 1M' -- -f qcow2 a.qcow2
	c 'read -P 0xcd -s 10 0 100' 'read -P 0xcd -l 10 0 100' 'read -P 1 -s 5 -l 10 0 100' 'read -p 0 512' \
		-- -f qcow2 a.qcow2
	c 'read -s 1 0 100' 'read -l 1 0 100' 'read -P 1 -s 200 0 100' 'read -P 1 -s 10 -l 100 0 100' \
		'read -P 1 -l 200 0 100' 'read -a 0 512' -- -f qcow2 a.qcow2
	c 'readv 0 512 512' 'readv -v 0 8 8' 'readv -P 1 0 512 511' 'readv 0 1M 1M' 'writev 0 512 513' \
		'writev -P 3 0 512 1' 'readv -qP 3 0 512 1' 'writev -f 0 512' 'writev -C 0 1 2' 'readv -x 0 1' \
		'writev x 1' 'writev 0 x' 'readv 0 3G' 'writev 0 2G' 'readv 0 1G 1G 1G' -- -f qcow2 a.qcow2
	c 'write' 'write 0' 'write 0 1 2' 'write x 1' 'write 0 x' 'write -P 256 0 1' 'write -P x 0 1' \
		'write -X 0 1' 'write -1 512' 'write 0 5E' 'write 9E 1' 'write 0 1.5k' 'write 0x200 0x100' \
		'write 0 3G' 'read 0 3G' 'read 0 100E' -- -f qcow2 a.qcow2
	c 'write -z -P 1 0 64k' 'write -s x -P 1 0 64k' 'write -u 0 64k' 'write -n 0 64k' 'write -z -b 0 64k' \
		'write -f -b 0 64k' 'write -f -c 0 64k' 'write -c 1 512' 'write -c 512 1' 'write -s nofile 0 1' \
		'write -s empty 0 1' -- -f qcow2 a.qcow2
	printf 'abcde' >pattern
	c 'write -s pattern 0 12' 'read -v 0 14' 'write -s pattern 100 3' 'read -v 100 4' -- -f qcow2 a.qcow2
	c 'write -z 0 64k' 'read -P 0 0 64k' 'write -zu 64k 64k' 'read -P 0 64k 64k' 'write -zn 128k 64k' \
		'write -z 3 513' 'write -f 0 64k' 'write -zn 100 100' -- -f qcow2 a.qcow2
	c 'write 0 64k' 'write -zn 100 100' 'read -P 0xcd 0 64k' 'write -z 100 100' 'read -P 0 100 100' \
		'read -P 0xcd 0 100' -- -f qcow2 old.qcow2
	c 'write -c 512k 64k' 'write -cP 7 640k 128k' 'write -c 768k 60k' 'write -c 512 64k' 'read -P 7 640k 128k' map \
		-- -f qcow2 a.qcow2
	c 'write -c 0 64k' 'write -zn 0 64k' 'read -P 0 0 64k' 'discard 0 64k' -- -f raw r.raw
	c 'discard 0 64k' 'read -P 0 0 64k' 'discard -C 64k 64k' 'discard -q 0 64k' 'discard 512 64k' \
		'discard 2M 64k' 'discard 0 3G' 'discard x 1' 'discard 0 x' 'discard 0' 'discard -x 0 1' \
		-- -f qcow2 a.qcow2
	c 'write 0 64k' 'discard 0 64k' 'read -P 0xcd 0 64k' 'discard 2M 1' -- -d ignore -f qcow2 a.qcow2
	c 'write -P 9 0 64k' 'read -P 9 0 64k' -- -m -f qcow2 a.qcow2
	c 'read -P 9 0 64k' -- -n -f qcow2 a.qcow2
	"$IMG" check -q a.qcow2 && "$IMG" check -q old.qcow2 && echo 'checked'
}

aio() {
	images
	q_sorted -c 'aio_write -P 1 0 64k' -c 'aio_write -P 2 64k 32k 32k' -c 'aio_write -P 3 128k 64k' -c aio_flush \
		-f qcow2 a.qcow2
	q_sorted -c 'aio_read -P 1 0 64k' -c 'aio_read -P 2 64k 64k' -c 'aio_read -P 1 128k 64k' -c aio_flush \
		-f qcow2 a.qcow2
	q_sorted -c 'aio_write -z 0 64k' -c 'aio_read -v 65536 16' -c 'aio_write -q 512k 1' -c 'aio_read -q 0 1' \
		-c 'aio_write -f 512k 1k' -f qcow2 a.qcow2
	c 'aio_write -C 0 64k' aio_flush 'aio_read -C 0 64k' aio_flush 'aio_write 2M 64k' aio_flush \
		'aio_read 2M 512' aio_flush -- -f qcow2 a.qcow2
	c 'aio_write -i 0 64k' 'aio_read -i 0 64k' 'aio_write x 1' 'aio_write 0' 'aio_write -zu 0 64k 64k' \
		'aio_write -u 0 64k' 'aio_write -x 0 1' 'aio_read -P 999 0 1' 'aio_read x 1' 'aio_read 0 x' \
		-- -f qcow2 a.qcow2
	c 'aio_write -P 5 0 64k' aio_flush 'read -qP 5 0 64k' 'aio_write -q -P 6 0 64k' close -- -i threads -f qcow2 a.qcow2
	c 'read -P 6 0 64k' -- -k -t none -f qcow2 a.qcow2
	"$IMG" check -q a.qcow2 && echo 'checked'
}

image() {
	images
	c length info flush map 'write -q 0 64k' 'write -q 128k 64k' 'write -qz 256k 1k' map 'alloc 0 1M' 'alloc 0' \
		'alloc 64k 64k' 'alloc 64k' 'alloc 2M' 'alloc 1M 1' 'alloc x' 'alloc 0 x' 'alloc 0 5G' alloc \
		'alloc 0 1 2' 'map 1' -- -f qcow2 a.qcow2
	c length info map 'alloc 0 1M' -- -f raw r.raw
	c map 'write -q 64k 1' map 'discard -q 64k 64k' map 'read -P 0 0 1M' -- -f qcow2 top.qcow2
	c 'truncate 2M' length 'truncate 1M' length 'truncate -m off 3M' length 'truncate -m x 3M' truncate \
		'truncate x' 'read -P 0 2M 1M' map -- -f qcow2 a.qcow2
	c 'write 0 512' 'truncate 512' length 'truncate 2M' length 'read -P 0 512 1k' -- -f raw r.raw
	c 'write 0 1' 'writev 0 1' 'aio_write 0 1' 'discard 0 1' 'truncate 1M' flush 'read 0 1' -- -r -f qcow2 a.qcow2
	c 'write -P 1 0 64k' 'read -P 1 0 64k' info map -- -s -f raw r.raw
	c 'read -P 1 0 64k' -- -f raw r.raw
	c close close 'read 0 1' open 'open nofile' 'open a.qcow2' 'open a.qcow2' length c \
		'o -o driver=qcow2 a.qcow2' 'l' 'open a b' 'open -x a' close 'open -r -o driver=qcow2 a.qcow2' 'w 0 1' \
		-- -f qcow2 a.qcow2
	c 'open -s -o driver=raw r.raw' 'write -qP 8 0 512' 'read -P 8 0 512' close 'open -n -t none -o driver=raw r.raw' length \
		close 'open -t foo r.raw' 'open -d foo r.raw' 'open -i foo r.raw' 'open -o driver=foo r.raw' --
	c 'reopen -r' 'write 0 512' 'reopen -w' 'write 0 512' 'reopen -rw' 'reopen -c none' 'write 0 512' \
		'reopen -c foo' 'reopen -o lazy-refcounts=on' 'reopen x' 'reopen -x' 'reopen -o driver=raw' \
		'reopen -o node-name=x' 'reopen -o cache.direct=on -c none' 'reopen -r -o read-only=on' \
		'reopen -o driver=qcow2' 'reopen -o read-only=on' 'write 0 1' -- -f qcow2 top.qcow2
	c length -- --image-opts driver=qcow2,file.filename=a.qcow2
	c 'open -o driver=raw r.raw' close 'open driver=raw,file.filename=r.raw' length -- \
		--image-opts driver=qcow2,file.filename=a.qcow2
	c length -- --image-opts -f qcow2 a.qcow2
	c length -- -f qcow2 nofile
	c length -- -t foo r.raw
	c length -- -i foo r.raw
	c length -- -d foo r.raw
	c length -- 'json:{"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"}}'
	c length -- -f raw null-co://
}

rest() {
	images
	c nosuch '' '  ' 'sleep 10' sleep 'sleep x' 'sleep -1' sigraise 'sigraise x' 'sigraise 99' 'sigraise 0' \
		'help nosuch' 'help 1 2' 'length ' ' length' quit 'read 0 1' -- -f raw r.raw
	c help 'q foo' -- -f raw r.raw
	c length -- 
	c 'break a b' 'break none b' 'resume b' 'remove_break b' break 'break a' 'wait_break' -- -f qcow2 a.qcow2
	printf 'length\n\nread 0 512\nfoo\nquit\nlength\n' | stdin -f raw r.raw
	printf 'length' | stdin -f raw r.raw
	printf '' | stdin
	printf 'aio_write 0 1k\naio_flush\nread -P 0xcd 0 1k\n' | stdin -f raw r.raw
	echo "$ kill"
	("$QIO" -c 'write -P 1 0 64k' -c 'sigraise 9' -f qcow2 a.qcow2 2>&1 | times) 2>/dev/null
	c 'read -P 1 0 64k' -- -f qcow2 a.qcow2
}

# Nodes that change how the ones below them are used.
nodes() {
	images
	"$IMG" create -q -f qcow2 -o cluster_size=4k base.qcow2 1M
	"$QIO" -c 'write -qP 5 128k 10k' -f qcow2 base.qcow2
	"$IMG" create -q -f qcow2 -b base.qcow2 -F qcow2 -o cluster_size=16k child.qcow2 2M
	"$IMG" create -q -f qcow2 -b base.qcow2 -F qcow2 -o cluster_size=16k,extended_l2=on subs.qcow2 2M
	"$IMG" create -q -f qcow2 -b base.qcow2 -F qcow2 -o compat=0.10 second.qcow2 1M
	for i in child subs second; do
		c 'read -P 5 130k 1k' 'write -qP 6 131k 1k' 'read -P 6 131k 1k' 'read -P 0 512k 20k' map -- -C -f qcow2 $i.qcow2
		c 'open -C '$i'.qcow2' 'read -P 5 128k 2k' 'read -P 0 1000k 24k' 'read 2M 1' 'read 0 0' map 'alloc 0 512k' --
	done
	c 'read -P 0 1M 512' map -- -C -s -f qcow2 child.qcow2
	c 'open -C -r child.qcow2' 'read 0 1' --
	c 'read 0 1' -- -C -r -f qcow2 child.qcow2
	c 'read -P 0 1M 512' map -- --image-opts driver=copy-on-read,file.driver=qcow2,file.file.filename=child.qcow2
	c 'open -o driver=copy-on-read,file.driver=qcow2 child.qcow2' 'write -P 7 0 512' 'read -P 0 1600k 512' map --
	c 'open -r -o driver=copy-on-read,file.driver=qcow2 child.qcow2' map --
	c map 'alloc 0 2M' -- 'json:{"driver":"raw","file":{"driver":"qcow2","file":{"driver":"file","filename":"child.qcow2"}}}'
	c map 'alloc 128k 1M' 'alloc 1 1' -- --image-opts driver=blkdebug,align=4k,image.driver=qcow2,image.file.filename=child.qcow2
	c 'open -C -o driver=blkdebug,image.driver=qcow2 child.qcow2' 'read -P 0 1800k 512' map --
	c 'open -o driver=blkdebug,image.driver=raw r.raw' 'read -P 0 0 512' length --
	c 'reopen' 'info' -- -f null-co null-co://
	c 'reopen -o overlap-check=all' 'reopen -o overlap-check.template=none' 'reopen -o overlap-check=none' \
		'reopen -o lazy-refcounts=x' 'reopen -o auto-read-only=x' 'reopen -o cache.direct=x' 'read 0 1' -- -f qcow2 a.qcow2
	"$IMG" check -q child.qcow2 && "$IMG" check -q subs.qcow2 && "$IMG" check -q second.qcow2 && echo 'checked'
}

# same NAME FUNCTION
same() {
	local want=$srcdir/tests/cli/io-$1.out program name=$1 fn=$2 got

	for program in "$IO" qemu-io; do
		if [ "$program" = qemu-io ] && ! is_qemu_7; then
			skip "qemu-io itself: $name" 'qemu-io 7.2 is not installed'
			continue
		fi
		got=$SCRATCH/got
		rm -rf "$SCRATCH/transcript"
		mkdir "$SCRATCH/transcript"
		: >"$SCRATCH/transcript/empty"
		(cd "$SCRATCH/transcript" && QIO=$program && "$fn") >"$got"
		[ -z "${UPDATE:-}" ] || [ "$program" != qemu-io ] || cp "$got" "$want"
		is_output "$got" "$want" "$program: $name"
	done
}

same data data
same aio aio
same image image
same rest rest
same nodes nodes

# By its own name, and what qemu-io does not say.
truncate -s 1M r.raw
like "$("$PLATTER" io -f raw -c 'write 0 512' r.raw)" '^wrote 512/512' 'platter io'
like "$("$IO" io -f raw -c 'write 0 512' r.raw)" '^wrote 512/512' 'qemu-io io, where no file has that name'
cp r.raw io
like "$("$IO" -f raw -c length io)" '^1 MiB' 'a file named io'
like "$("$IO" io -c length -f raw)" '^1 MiB' 'and named first'
rm io
for command in $("$PLATTER" io -c help | sed -n 's/ .*-- .*//p'); do
	like "$("$PLATTER" io -c "help $command")" "^$command " "help $command"
done
"$PLATTER" create -q -f qcow2 a.qcow2 1M
is "$("$PLATTER" io -c 'aio_write -q 0 64k' -c 'alloc 0 64k' -c 'aio_write -q 64k 64k' -c map -c 'aio_write -q 128k 64k' \
	-c 'truncate 2M' -c 'alloc 0 2M' a.qcow2)" '65536/65536 bytes allocated at offset 0 bytes
128 KiB (0x20000) bytes     allocated at offset 0 bytes (0x0)
896 KiB (0xe0000) bytes not allocated at offset 128 KiB (0x20000)
196608/2097152 bytes allocated at offset 0 bytes' 'map, alloc and truncate see what is under way'
fails 1 'an option of a node that is not here' "$PLATTER" io -c 'read 0 1' \
	'json:{"driver":"copy-on-read","bottom":"x","file":{"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"}}}'
fails 1 'so is tracing' "$PLATTER" io -T x -c 'read 0 1' r.raw
fails 1 'a wait that could not end' "$PLATTER" io -f raw -c 'wait_break A' r.raw
fails 1 'a policy holds here too' "$PLATTER" io --untrusted -c length "$SCRATCH/none"
"$PLATTER" create -q -f qcow2 -b r.raw -F raw top.qcow2
fails 1 '--untrusted refuses a backing file' "$PLATTER" io --untrusted -c length top.qcow2
is "$("$PLATTER" io -c 'truncate 2M' -c length --no-backing top.qcow2)" '2 MiB' '--no-backing does without it'
is "$(ls /var/tmp/platter.* 2>/dev/null)" '' 'no temporary file is left'
done_testing
