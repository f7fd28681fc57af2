# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
"""
measure.py PLATTER SEED N: N times, an image of some content, of some format, perhaps a snapshot of it, and options of a
new one: `measure --exact` gives the length of the file that `convert` makes, and refuses what convert refuses; without
--exact what it requires is never less, but where preallocated metadata makes a long file of holes.
"""
import json
import os
import random
import subprocess
import sys

platter, seed, times = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
random.seed(seed)
SECRET = ['--object', 'secret,id=s,data=measured']


def run(*args):
    return subprocess.run([platter, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def must(*args):
    r = run(*args)
    assert r.returncode == 0, (args, r.stderr)


def source():
    size = random.choice([0, 512, 65536, 1 << 20, 3 << 20, (5 << 20) + 512 * 7, 20 << 20, 100 << 20, 1 << 30])
    with open('s.raw', 'wb') as f:
        f.truncate(size)
        for _ in range(random.randint(0, 30)):
            at = random.randrange(0, max(1, size)) // 512 * 512
            n = min(random.choice([512, 4096, 65536, 300000]), size - at)
            f.seek(at)
            f.write(os.urandom(n) if random.random() < .7 else bytes(n))
    kind = random.choice(['raw', 'raw', 'qcow2', 'snapshot', 'vpc'])
    if kind == 'raw':
        return ['-f', 'raw'], [], 's.raw'
    name = 's.img'
    if os.path.exists(name):
        os.unlink(name)
    form = 'vpc' if kind == 'vpc' else 'qcow2'
    must('convert', '-f', 'raw', '-O', form, 's.raw', name)
    if kind == 'snapshot' and size >= 65536:
        must('snapshot', '-c', 'one', name)
        must('io', '-f', 'qcow2', '-c', 'write -q 0 64k', name)
        return ['-f', form], ['-l', 'one'], name
    return ['-f', form], [], name


def options(form):
    o = []
    if form == 'qcow2':
        extended = random.random() < .25
        o.append('cluster_size=%d' % (1 << random.randint(14 if extended else 9, 21)))
        old = False
        if extended:
            o.append('extended_l2=on')
        elif random.random() < .3:
            o.append('compat=0.10')
            old = True
        if not old and random.random() < .4:
            o.append('refcount_bits=%d' % (1 << random.randint(0, 6)))
        if random.random() < .35:
            o.append('preallocation=' + random.choice(['off', 'metadata', 'falloc', 'full']))
        if not old and random.random() < .1:
            o.append('lazy_refcounts=on')
        if random.random() < .15:
            o += ['encrypt.format=luks', 'encrypt.key-secret=s', 'encrypt.iter-time=10']
    elif form == 'raw':
        if random.random() < .5:
            o.append('preallocation=' + random.choice(['off', 'falloc', 'full']))
    elif form == 'vpc':
        if random.random() < .4:
            o.append('subformat=fixed')
        if random.random() < .5:
            o.append('force_size=on')
    elif form == 'luks':
        o += ['key-secret=s', 'iter-time=10']
    return ['-o', ','.join(o)] if o else []


wrong = 0
for i in range(times):
    src, snapshot, name = source()
    form = random.choice(['qcow2'] * 5 + ['raw', 'vpc', 'luks'])
    o = options(form)
    both = [*SECRET, *src, *snapshot, '-O', form, *o]
    m = run('measure', '--exact', '--output=json', *both, name)
    bound = run('measure', '--output=json', *both, name)
    if os.path.exists('t'):
        os.unlink('t')
    c = run('convert', *both, name, 't')
    what = '%s of %s (%d bytes)' % (' '.join(both), name, os.path.getsize('s.raw'))
    if c.returncode or m.returncode:
        if (c.returncode == 0) != (m.returncode == 0):
            wrong += 1
            print('run', i, what, 'measure:', m.stderr.strip(), 'convert:', c.stderr.strip())
        continue
    exact, length = json.loads(m.stdout)['required'], os.path.getsize('t')
    if exact != length:
        wrong += 1
        print('run', i, what, 'measure:', exact, 'the file:', length)
    if bound.returncode == 0 and json.loads(bound.stdout)['required'] < length and 'preallocation=metadata' not in ''.join(o):
        wrong += 1
        print('run', i, what, 'requires:', json.loads(bound.stdout)['required'], 'the file:', length)
sys.exit(wrong != 0)
