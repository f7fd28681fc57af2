#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Damage to encrypted images.  What the guest has written is evidence only to who can read it: with the secret, clusters of
# a lost L2 table find their places; without it they are named.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
requires qemu-img python3 mke2fs debugfs

secret=(--object 'secret,id=s,data=correct horse')
# of IMAGE: how it is named so that it can be read
image() {
	echo "driver=qcow2,encrypt.key-secret=s,file.filename=$1"
}

python3 "$srcdir/tests/fixtures/guest.py" ext4 64 "${PLT_SEED:-7}" disk.raw >/dev/null || skip_all 'no filesystem can be made'
"$PLATTER" convert "${secret[@]}" -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,cluster_size=4k \
	disk.raw sound.qcow2
cp sound.qcow2 d.qcow2
python3 - d.qcow2 <<'PY' # the second L2 table with much in it
import random, struct, sys
f = open(sys.argv[1], 'r+b')
d = f.read()
tables = [t & (1 << 56) - 512 for t in struct.unpack_from('>16Q', d, struct.unpack_from('>Q', d, 40)[0])]
full = [t for t in tables if t and sum(map(bool, struct.unpack_from('>512Q', d, t))) > 100]
f.seek(full[1])
f.write(random.Random(1).randbytes(4096))
PY
cp d.qcow2 before
"$PLATTER" convert "${secret[@]}" --rescue --report with.json --image-opts "$(image d.qcow2)" -O raw got.raw 2>out
python3 - with.json <<'PY' >judged
import json, sys
lists = json.load(open(sys.argv[1]))
named = [(r['start'], r['start'] + r['length']) for k in ('lost', 'inferred') for r in lists[k]]
a, b = open('disk.raw', 'rb').read(), open('got.raw', 'rb').read()
wrong = [i for i in range(0, len(a), 4096) if a[i:i + 4096] != b[i:i + 4096]]
print(sum(not any(s < i + 4096 and i < e for s, e in named) for i in wrong), len(wrong))
PY
read -r silent wrong <judged
is "$silent" 0 'a lost L2 table, with the secret: nothing is wrong that is not named'
"$PLATTER" repair -q --yes d.qcow2 >out 2>&1
is $? 2 'without it what is lost is named'
"$PLATTER" convert "${secret[@]}" --image-opts "$(image d.qcow2)" -O raw got.raw
all=$(cmp -l got.raw disk.raw | awk '{ print int(($1 - 1) / 4096) }' | uniq | wc -l)
ok "with the secret $wrong blocks are wrong, without it $all" [ $((wrong * 3)) -lt "$all" ]
"$PLATTER" undo -q d.qcow2.platter-undo
"$PLATTER" repair -q --yes "${secret[@]}" --image-opts "$(image d.qcow2)" >out 2>&1
is $? 2 'repair with the secret'
qemu-img check -q "${secret[@]}" --image-opts "$(image d.qcow2)" >out 2>&1
like $? '^[03]$' 'and qemu-img finds no error'
ok 'undo' "$PLATTER" undo -q d.qcow2.platter-undo
is_file_equal d.qcow2 before 'the very bytes'
done_testing
