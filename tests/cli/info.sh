#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# info: both forms, chains and their loops, names of every kind.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
. "$srcdir/tests/cli/transcript.sh"

names() {
	"$QI" create -q -f qcow2 a.qcow2 1M
	"$QI" create -q r.raw 1234567
	cp a.qcow2 a:b
	t info a.qcow2
	t info --output=json a.qcow2
	t info --output json -U a.qcow2
	t info a.qcow2 --output=human
	t info -f raw a.qcow2
	t info r.raw
	t info --output=json r.raw
	t info ./a.qcow2
	t info file:a.qcow2
	t info a:b
	t info ./a:b
	t info "$PWD/a.qcow2" | sed "s,$PWD,DIR,"
	t info 'json:{"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"}}'
	t info 'json:{"driver":"qcow2","file.filename":"a.qcow2"}'
	t info 'json:{"file":{"driver":"file","filename":"a.qcow2"}}'
	t info 'json:{"driver":"qcow2","file":{"driver":"raw","offset":0,"file":{"driver":"file","filename":"a.qcow2"}}}'
	t info 'json:{}'
	t info 'json:[1]'
	t info 'json:{"filename":"a.qcow2"}'
	t info 'json:{"driver":"qcow2"}'
	t info 'json:{"driver":"nosuch","file.filename":"a.qcow2"}'
	t info 'json:{"driver":"qcow2","foo":"x","file.filename":"a.qcow2"}'
	t info --image-opts file.filename=a.qcow2
	t info --image-opts driver=qcow2,file.filename=a.qcow2
	t info --image-opts driver=qcow2,file.driver=raw,file.file.filename=a.qcow2
	t info --image-opts driver=raw,offset=512,size=1024,file.filename=a.qcow2
	t info --image-opts a.qcow2
	t info --image-opts filename=a.qcow2
	t info --image-opts driver=qcow2,foo=bar,file.filename=a.qcow2
	t info --image-opts driver=nosuch,file.filename=a.qcow2
	t info --image-opts -f qcow2 file.filename=a.qcow2
	t info nofile
	t info ''
	t info foo:bar
	t info -f nosuch a.qcow2
	t info -f qcow2 r.raw
	t info .
}

chains() {
	"$QI" create -q -f qcow2 a.qcow2 1M
	"$QI" create -q -f qcow2 -b a.qcow2 -F qcow2 b.qcow2
	"$QI" create -q -f qcow2 -b b.qcow2 -F qcow2 c.qcow2 2M
	mkdir dir
	"$QI" create -q -f qcow2 -b ../c.qcow2 -F qcow2 dir/d.qcow2
	t info --backing-chain dir/d.qcow2
	t info --backing-chain --output=json dir/d.qcow2
	t info dir/d.qcow2
	t info --backing-chain a.qcow2
	t info --backing-chain --image-opts file.filename=b.qcow2
	"$QI" create -q -f qcow2 -u -b self.qcow2 -F qcow2 other.qcow2 1M
	mv other.qcow2 self.qcow2
	t info --backing-chain self.qcow2
	t info self.qcow2
	"$QI" create -q -f qcow2 -u -b two.qcow2 -F qcow2 one.qcow2 1M
	"$QI" create -q -f qcow2 -u -b one.qcow2 -F qcow2 two.qcow2 1M
	"$QI" create -q -f qcow2 -u -b one.qcow2 -F qcow2 three.qcow2 1M
	t info --backing-chain three.qcow2
	"$QI" create -q -f qcow2 -u -b nofile -F qcow2 lost.qcow2 1M
	t info lost.qcow2
	t info --backing-chain lost.qcow2
	t info --backing-chain 'json:{"driver":"qcow2","file":{"driver":"file","filename":"b.qcow2"}}'
}

same_as_qemu info names
same_as_qemu info-chain chains

# Snapshots and their table: the image is qemu-img's.
if command -v qemu-img >/dev/null; then
	qemu-img create -q -f qcow2 s.qcow2 10M
	qemu-img snapshot -c s1 s.qcow2
	qemu-img snapshot -c 'a name that is longer than its column' s.qcow2
	qemu-img info s.qcow2 >theirs
	"$QEMU_IMG_LINK" info s.qcow2 >ours
	is_output ours theirs 'table of snapshots'
	qemu-img info --output=json s.qcow2 >theirs
	"$QEMU_IMG_LINK" info --output=json s.qcow2 >ours
	is_output ours theirs 'snapshots in JSON'
else
	skip 'snapshots' 'qemu-img is not installed'
fi

# Limits: QEMU 10.2's names of them, and the values that are ours.
"$PLATTER" create -q -f qcow2 -o extended_l2=on sub.qcow2 1M
"$PLATTER" create -q -f qcow2 -b sub.qcow2 -F qcow2 oversub.qcow2
is "$("$PLATTER" info --limits sub.qcow2 | sed -n '/^Block limits:/,/^Format/s/^  *//p' | sort | tr '\n' ';')" \
	'discard alignment: 65536;max iov: 1024;min mem alignment: 1;opt mem alignment: 4096;request alignment: 1;write zeroes alignment: 2048;' \
	'info --limits'
is "$("$PLATTER" info --limits --backing-chain --output=json oversub.qcow2 | jq -c '[.[].limits."write-zeroes-alignment"]')" \
	'[65536,2048]' 'info --limits of a chain'
is "$("$PLATTER" info --output=json sub.qcow2 | jq .limits)" null 'no limits unasked'

# A terminal gets no control characters out of an image, and no lines that are not ours; a pipe gets the bytes.
cat >terminal.py <<'END'
import os, pty, sys
pid, fd = pty.fork()
if not pid:
    os.execv(sys.argv[1], sys.argv[1:])
try:
    while True:
        os.write(1, os.read(fd, 4096) or sys.exit())
except OSError:
    pass
END
name=$'a\e[31mred\nbell\a\xc2\x9b'
"$PLATTER" create -q -f qcow2 -u -b "$name" -F qcow2 hostile.qcow2 1M
"$PLATTER" create -q -f qcow2 named.qcow2 1M
"$PLATTER" snapshot -c "$name" named.qcow2
like "$("$PLATTER" snapshot -l named.qcow2 | tr '\n' '+')" $'a\e\\[31mred\\+bell' 'a pipe gets the bytes of a name'
if python3 -c 'import pty' 2>/dev/null; then
	for command in 'info hostile.qcow2' 'info named.qcow2' 'snapshot -l named.qcow2' 'chain hostile.qcow2'; do
		out=$(python3 terminal.py "$PLATTER" $command 2>&1 | tr -d '\r')
		like "$out" '[a ]\?\[31mred[ ?]bell\?\?\?' "a terminal is shown the name: $command"
		is "$(printf '%s' "$out" | tr -d '\n' | grep -c '[[:cntrl:]]')" 0 "and no control character: $command"
	done
else
	skip 'names on a terminal' 'no python3'
fi

# Nothing but the named file is opened, and nothing is said beside the result.
"$PLATTER" create -q -f qcow2 -u -b nofile -F qcow2 lost.qcow2 1M
is "$("$PLATTER" info lost.qcow2 2>&1 >/dev/null)" '' 'info opens no backing file and prints nothing on stderr'
ok '--untrusted makes no difference to info' "$PLATTER" info --untrusted lost.qcow2
fails 1 'info --backing-chain --untrusted refuses the backing file' "$PLATTER" info --backing-chain --untrusted lost.qcow2
if [ "$SANITIZER" = 0 ]; then
	ok 'info runs in 1 GiB of address space' bash -c "ulimit -v 1048576; '$PLATTER' info lost.qcow2"
fi
done_testing
