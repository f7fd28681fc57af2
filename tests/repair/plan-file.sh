#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Plans as files: what is written is what is done, now or later, in place or looked through; a person may take
# edits out; and whatever else the file says is refused, line by line, with nothing changed.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io python3

# u64 FILE OFFSET
u64() {
	echo $((16#$(od -An -tx1 -j "$2" -N 8 "$1" | tr -d ' \n')))
}

qemu-img create -q -f qcow2 -o cluster_size=4k sound.qcow2 12M
qemu-io -c 'write -q -P 1 0 1500k' -c 'write -q -P 2 3M 2M' -c 'write -q -P 3 8M 1M' sound.qcow2
cp sound.qcow2 damaged.qcow2
reftable=$(u64 sound.qcow2 48)
yes junk | dd of=damaged.qcow2 bs=4k seek=$((reftable / 4096)) count=1 iflag=fullblock conv=notrunc status=none
cp damaged.qcow2 d.qcow2
sum=$(sha256sum <d.qcow2)

"$PLATTER" repair -q --dry-run --plan plan d.qcow2
is $? 0 'a plan is written'
ok 'each line is JSON' python3 -c 'import json; [json.loads(l) for l in open("plan")]'
is "$(sha256sum <d.qcow2)" "$sum" 'the image is not'
"$PLATTER" convert --rescue --plan plan -O raw d.qcow2 out.raw 2>/dev/null
is $? 0 'it is looked through'
ok 'and shows the disk' qemu-img compare -q -f raw -F qcow2 out.raw sound.qcow2
is "$(sha256sum <d.qcow2)" "$sum" 'the image is still as it was'
ok 'it is followed' "$PLATTER" repair -q --yes --plan plan d.qcow2
ok 'qemu-img finds nothing' qemu-img check -q d.qcow2
ok 'it is the disk' qemu-img compare -q d.qcow2 sound.qcow2
cp d.qcow2 followed.qcow2
undone d.qcow2 damaged.qcow2 'undo'
"$PLATTER" repair -q --yes d.qcow2
is_file_equal d.qcow2 followed.qcow2 'the same as without the file'
rm -f d.qcow2.platter-undo
cp damaged.qcow2 d.qcow2

cp d.qcow2 changed.qcow2
printf '\5' | dd of=changed.qcow2 bs=1 seek=54 conv=notrunc status=none
"$PLATTER" hash --rescue --plan plan changed.qcow2 >/dev/null 2>err
is $? 1 'a plan for an image that has changed since is refused'
like "$(cat err)" 'a plan for another image, or for this one as it was' 'and it is said why'
cp plan plan.old
fails 1 'a plan is not written over the image' "$PLATTER" repair -q --dry-run --plan d.qcow2 d.qcow2
is "$(sha256sum <d.qcow2)" "$sum" 'the image is still as it was'

# What a person may write, and what nobody may.
cat >crc.py <<'PY'
def crc32c(data):
    c = 0xffffffff
    for b in data:
        c ^= b
        for _ in range(8):
            c = c >> 1 ^ (0x82f63b78 if c & 1 else 0)
    return c ^ 0xffffffff
PY
cat >lines.py <<'PY'
import json, os, subprocess, sys
from crc import crc32c
image = open('d.qcow2', 'rb').read()
size = len(image)
head = {"platter_plan": 1, "format": "qcow2", "stores": [{"role": "image", "size": size}]}

def edit(off, n, **kw):
    old = (image[off:off + n] + bytes(n))[:n]
    return dict({"store": "image", "off": off, "len": n, "before_crc": crc32c(old)}, **kw)

good = {
    'nothing': [head],
    'zeros': [head, edit(512, 16, zero=True)],
    'a copy': [head, edit(4096 * 3, 8, copy_from=0)],
    'side by side': [head, edit(600, 4, hex='00112233'), edit(604, 4, zero=True), edit(596, 4, zero=True)],
    'behind the end': [head, {"store": "image", "length": size + 4096}, edit(size, 8, hex='00' * 8)],
    'a finding and lists': [head, {"finding": {"whatever": 1}}, {"lost": {"start": 0, "length": 512, "reason": "x"}},
                            {"inferred": {"start": 0, "length": 5, "reason": "y" * 300, "certainty": "likely"}}],
}
bad = {
    'empty': [],
    'not JSON': ['{'],
    'no object': ['[1]'],
    'a key twice': ['{"platter_plan":1,"platter_plan":1}'],
    'no header': [edit(0, 4, zero=True)],
    'another version': [dict(head, platter_plan=2)],
    'another format': [dict(head, format='vpc')],
    'no format': [dict(head, format='nonesuch')],
    'another size': [dict(head, stores=[{"role": "image", "size": size + 1}])],
    'two stores': [dict(head, stores=head['stores'] * 2)],
    'another store': [head, dict(edit(0, 4, zero=True), store='data')],
    'overlapping': [head, edit(600, 8, zero=True), edit(607, 8, zero=True)],
    'the same twice': [head, edit(600, 8, zero=True), edit(600, 8, zero=True)],
    'behind the end': [head, edit(size - 4, 8, zero=True)],
    'behind the new end': [head, {"store": "image", "length": size + 4}, edit(size, 8, zero=True)],
    'far behind the end': [head, dict(edit(0, 8, zero=True), off=1 << 62)],
    'too long': [head, dict(edit(0, 8, zero=True), len=(1 << 63) - 1)],
    'an offset below 0': [head, dict(edit(0, 8, zero=True), off=-8)],
    'an offset of 2^64': [head, '{"store":"image","off":18446744073709551616,"len":8,"before_crc":0,"zero":true}'],
    'no length': [head, edit(0, 0, hex='')],
    'hex too short': [head, edit(0, 4, hex='001122')],
    'hex too long': [head, edit(0, 4, hex='0011223344')],
    'hex odd': [head, edit(0, 4, hex='001122334')],
    'no hex': [head, edit(0, 4, hex='0011223x')],
    'nothing to do': [head, edit(0, 4)],
    'two things to do': [head, edit(0, 4, hex='00112233', zero=True)],
    'a copy and bytes': [head, edit(0, 4, hex='00112233', copy_from=8)],
    'a copy from outside': [head, edit(0, 4, copy_from=size - 2)],
    'a copy from far outside': [head, edit(0, 4, copy_from=(1 << 63) - 1)],
    'no checksum': [head, {"store": "image", "off": 0, "len": 4, "zero": True}],
    'a wrong checksum': [head, dict(edit(0, 4, zero=True), before_crc=1)],
    'shorter': [head, {"store": "image", "length": size - 1}],
    'two lengths': [head, {"store": "image", "length": size + 4096}, {"store": "image", "length": size + 4096}],
    'much longer': [head, {"store": "image", "length": 1 << 62}],
    'longer for nothing': [head, {"store": "image", "length": size + (64 << 20)}],
    'a list without a reason': [head, {"lost": {"start": 0, "length": 1}}],
    'no certainty': [head, {"inferred": {"start": 0, "length": 1, "reason": "x"}}],
    'another certainty': [head, {"inferred": {"start": 0, "length": 1, "reason": "x", "certainty": "surely"}}],
    'no snapshot': [head, {"lost": {"start": 0, "length": 1, "reason": "x", "snapshot": -1}}],
    'deep': [head, '[' * 100000],
    'a long line': [head, ' ' * (3 << 20) + '{}'],
}
def run(lines):
    with open('p', 'w') as f:
        for l in lines:
            f.write((l if isinstance(l, str) else json.dumps(l)) + '\n')
    return subprocess.run([os.environ['PLATTER'], 'info', '--rescue', '--plan', 'p', 'd.qcow2'],
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
for name, lines in good.items():
    r = run(lines)
    print('good', name, 'ok' if r.returncode in (0, 2, 3) and 'line' not in r.stderr else (r.returncode, r.stderr))
for name, lines in bad.items():
    r = run(lines)
    print('bad', name, 'ok' if r.returncode == 1 and "'p': " in r.stderr and r.stderr.count('\n') == 1 else (r.returncode, r.stderr))
PY
PYTHONDONTWRITEBYTECODE=1 python3 lines.py >out 2>&1
is "$(grep -c ' ok$' out) $(grep -v ' ok$' out)" "$(($(grep -c '^    .[a-zN].*: \[' lines.py))) " 'good lines are taken, bad ones are refused'
is "$(sha256sum <d.qcow2)" "$sum" 'the image is as it was'

# An edit taken out leaves the others valid; a copy is of what was there before.
grep -v '"zero"\|"hex"' plan.old >plan
"$PLATTER" repair -q --yes --plan plan d.qcow2 >/dev/null
is "$? $(sha256sum <d.qcow2)" "2 $sum" 'a plan without its edits does nothing'

# Any bytes instead of some: refused or followed, and nothing worse.
seed=${PLT_SEED:-$RANDOM}
echo "# PLT_SEED=$seed"
python3 - "$seed" <<'PY' >out 2>&1
import os, random, subprocess, sys
r = random.Random(int(sys.argv[1]))
plan = open('plan.old', 'rb').read()
for i in range(60):
    p = bytearray(plan)
    for _ in range(r.randrange(1, 4)):
        at = r.randrange(len(p))
        if r.randrange(2):
            p[at:at + r.randrange(8)] = r.randbytes(r.randrange(8))
        else:
            p[at] = r.choice(b'0123456789{}[],:"-\n')
    open('p', 'wb').write(p)
    x = subprocess.run([os.environ['PLATTER'], 'info', '--rescue', '--plan', 'p', 'd.qcow2'],
                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if x.returncode not in (0, 1, 2, 3):
        print('run', i, x.returncode, x.stderr[-300:])
PY
is "$(cat out)" '' 'any bytes in a plan'
is "$(sha256sum <d.qcow2)" "$sum" 'the image is as it was'

done_testing
