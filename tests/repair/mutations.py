#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
"""Images of which anything may be anything: random mutations of a sound image of each format.

    mutations.py COUNT SEED [--formats qcow2,vpc,...] [--shapes q64k,...] [--mib N] [--only NUMBER] [--keep DIR] [-v]

A disk with a real filesystem (tests/fixtures/guest.py) is put into each shape once, and COUNT times one to eight
mutations are made: bits turned, numbers replaced by such as are at a limit, sectors and clusters cleared, filled,
copied over others or swapped, the end cut off or drawn out; three in four of what the map does not give to the guest, which is where
the format's own structures are.  Of each mutant it is required that

 - no command crashes, spends more than 10 s of processor time or takes 1 GiB of memory (with a sanitizer: only
   crashes count, and a minute), and none that only reads changes it;
 - convert --rescue shows every block that `qemu-img convert --salvage` reads right;
 - what repair leaves qemu-img finds no error in, where repair says that nothing is wrong;
 - a second repair has nothing to do: it changes no byte, and says what the first one said at its end;
 - undo gives every byte back.

One line for each that is not so, with the mutant's number; the exit status says whether there was one.  The last lines
count, by shape, what survives of the guest's blocks, what each tool reads right, and what is wrong in neither list
(silent: not judged here; a mutation of a guest's data is no concern of the map's and is not counted).
"""
import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
FIXTURES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'fixtures')
sys.path[:0] = [FIXTURES, os.path.dirname(os.path.abspath(__file__))]
import image # noqa: E402
from recovery import write_sparse # noqa: E402

PLATTER = os.environ.get('PLATTER', 'platter')
SANITIZER = os.environ.get('SANITIZER', '0') == '1'
BLOCK = 4096
ZERO = bytes(BLOCK)
TABLES = 5 * BLOCK # of a GPT, rounded up
CPU = 60 if SANITIZER else 10
MEMORY = 1 << 30
SECRET = ['--object', 'secret,id=s,data=mutations']

# Beside the shapes of image.py: name: (format, options of create, key's option or none).
MORE = {
    'qcow1': ('qcow', '', ''),
    'qcow1-aes': ('qcow', 'encrypt.format=aes,encrypt.key-secret=s', 'encrypt.key-secret'),
    'luks': ('luks', 'key-secret=s,iter-time=10', 'key-secret'),
    'q64k-luks': ('qcow2', 'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10', 'encrypt.key-secret'),
}
SHAPES = ['q64k', 'q64k-snapshot', 'q64k-bitmap', 'q4k-packed', 'q16k-subclusters', 'q512', 'q64k-luks',
          'v-dynamic', 'v-small', 'v-fixed', 'raw', 'luks', 'qcow1', 'qcow1-aes']


def limits():
    resource.setrlimit(resource.RLIMIT_CPU, (CPU, CPU + 5))
    if not SANITIZER: # (which reserves terabytes of addresses)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def run(*args, bound=False):
    p = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=600,
                       preexec_fn=limits if bound else None, env={**os.environ, 'LC_ALL': 'C'})
    return p.returncode, p.stdout.decode(errors='replace')


def must(*args):
    for _ in range(5): # (on a busy machine QEMU cannot measure how slow a key has to be)
        status, out = run(*args)
        if 'CPU usage' not in out:
            break
    if status:
        sys.exit('%s: status %d: %s' % (' '.join(args), status, out))
    return out


def read(path):
    with open(path, 'rb') as f:
        return f.read()


class Shape:
    """A sound image, and how it is opened."""

    def __init__(self, name, raw, seed, top):
        self.name = name
        self.fmt, options, key = MORE.get(name) or image.SHAPES[name][:2] + ('',)
        self.path = os.path.join(top, 'sound-' + name)
        if name in MORE:
            must('qemu-img', 'convert', *(SECRET if key else []), '-O', self.fmt, *(['-o', options] if options else []), raw,
                 self.path)
        else:
            image.make(name, raw, seed, self.path)
        self.key = key
        self.data = read(self.path)
        self.truth = read(raw)
        self.own, self.where = self.places()

    def source(self, path):
        """Options and name for a command that opens it."""
        if self.key:
            return [*SECRET, '--image-opts', 'driver=%s,file.filename=%s,%s=s' % (self.fmt, path, self.key)]
        return ['-f', self.fmt, path]

    def places(self):
        """What the map leaves of the file, as (offset, length), and where guest blocks lie: {guest: host}."""
        where, taken = {}, []
        if not self.key:
            for e in json.loads(must('qemu-img', 'map', '--output=json', '-f', self.fmt, self.path)):
                if e['data'] and not e['zero'] and 'offset' in e:
                    taken.append((e['offset'], e['length']))
                    for at in range(-e['start'] % BLOCK, e['length'], BLOCK):
                        where[e['start'] + at] = e['offset'] + at
        if self.fmt in ('raw', 'luks') or not taken: # (tables of the guest's own, or a header)
            return [(0, min(len(self.data), 1 << 20)), (max(0, len(self.data) - 65536), 65536)], where
        own, at = [], 0
        for off, n in sorted(taken):
            if off > at:
                own.append((at, off - at))
            at = max(at, off + n)
        if len(self.data) > at:
            own.append((at, len(self.data) - at))
        return own, where


# ---- mutations -----------------------------------------------------------------------------------

def place(shape, data, rnd, unit):
    """A place for a mutation of @unit bytes."""
    k = rnd.random()
    if k < 0.75 and shape.own:
        off, n = rnd.choice(shape.own)
        if k < 0.25: # (where structures begin)
            n = min(n, 512)
        at = off + rnd.randrange(max(1, n))
    else:
        at = rnd.randrange(max(1, len(data)))
    return min(at // unit * unit, max(0, len(data) - unit) // unit * unit)


def number(data, rnd, size):
    top = 1 << 8 * size
    length = len(data)
    return rnd.choice([0, 1, top - 1, top >> 1, (top >> 1) - 1, length, length // 512, length & -65536, 65536, 512, 511, 9, 63,
                       rnd.randrange(top), 1 << rnd.randrange(8 * size), rnd.randrange(max(1, length)) & -512]) % top


def mutate(shape, rnd):
    """(mutated bytes, what was done)."""
    data, said = bytearray(shape.data), []
    for _ in range(rnd.choice([1, 1, 1, 2, 2, 3, 5, 8])):
        how = rnd.choice(['bit', 'number', 'number', 'number', 'sector', 'cluster', 'copy', 'swap', 'end', 'add'])
        if not data:
            break
        if how == 'bit':
            at = place(shape, data, rnd, 1)
            data[at] ^= 1 << rnd.randrange(8)
        elif how == 'number':
            size = rnd.choice([4, 8, 8])
            at = place(shape, data, rnd, size)
            n = number(data, rnd, size)
            data[at:at + size] = n.to_bytes(size, rnd.choice(['big', 'big', 'big', 'little']))
            how += ' %#x' % n
        elif how == 'add': # (the next one, or the one before)
            at = place(shape, data, rnd, 8)
            n = int.from_bytes(data[at:at + 8], 'big') + rnd.choice([1, -1, 512, 65536, -65536])
            data[at:at + 8] = (n % (1 << 64)).to_bytes(8, 'big')
        elif how in ('sector', 'cluster'):
            unit = 512 if how == 'sector' else rnd.choice([4096, 65536])
            at = place(shape, data, rnd, unit)
            unit = min(unit, len(data) - at)
            data[at:at + unit] = rnd.choice([bytes(unit), b'\xff' * unit, rnd.randbytes(unit)])
        elif how in ('copy', 'swap'):
            unit = rnd.choice([8, 512, 4096, 65536])
            at, other = place(shape, data, rnd, unit), place(shape, data, rnd, unit)
            one, two = bytes(data[at:at + unit]), bytes(data[other:other + unit])
            unit = min(len(one), len(two))
            data[other:other + unit] = one[:unit]
            if how == 'swap':
                data[at:at + unit] = two[:unit]
            how += ' %#x' % other
        elif rnd.random() < 0.5:
            at = len(data)
            data += rnd.choice([bytes(rnd.randrange(1, 70000)), rnd.randbytes(rnd.choice([1, 511, 512, 65536]))])
        else:
            at = rnd.choice([rnd.randrange(len(data)), len(data) - min(len(data), rnd.choice([1, 512, 4096, 65536]))])
            del data[at:]
        said.append('%s at %#x' % (how, at))
    return bytes(data), said


# ---- what becomes of them ------------------------------------------------------------------------

def touches(ranges, at):
    return any(a < at + BLOCK and at < b for a, b in ranges)


def remove(*names):
    for name in names:
        if os.path.exists(name):
            os.unlink(name)


class Mutant:
    def __init__(self, shape, data, top):
        self.shape, self.data, self.top = shape, data, top
        self.path, self.out = os.path.join(top, 'mutant'), os.path.join(top, 'out')
        self.bad = []
        self.counts = dict.fromkeys(('survive', 'ours', 'stock', 'silent'), 0)

    def command(self, allowed, *args):
        status, text = run(PLATTER, *args, bound=True)
        if status not in allowed or 'Sanitizer' in text or 'runtime error:' in text:
            self.bad.append('%s: status %d: %s' % (' '.join(args), status, text[-600:]))
        return status, text

    def result(self):
        out = read(self.out) if os.path.exists(self.out) else b''
        remove(self.out)
        return out

    def look(self):
        source = self.shape.source(self.path)
        self.command((0, 1), 'info', *source)
        self.command((0, 1, 2, 3, 63), 'check', '-q', *source)
        self.command((0, 1), 'map', '--output=json', *source)
        self.command((0, 1, 2, 3, 63), 'check', '-q', '--deep', *source)
        report = self.out + '.json'
        status, text = self.command((0, 1, 2, 3), 'convert', '-q', '--rescue', '--report', report, *source, '-O', 'raw', self.out)
        ours = self.result()
        named = []
        if status != 1 and os.path.exists(report):
            with open(report) as f:
                said = json.load(f)
            named = [(r['start'], r['start'] + r['length']) for k in ('lost', 'inferred') for r in said.get(k, [])]
        remove(report)
        run('qemu-img', 'convert', '-q', '--salvage', *source, '-O', 'raw', self.out)
        self.compare(ours, self.result(), named, status, text)
        if read(self.path) != self.data:
            self.bad.append('a command that reads has changed the image')
            write_sparse(self.path, self.data)

    def compare(self, ours, stock, named, status, text):
        truth, worse = self.shape.truth, []
        changed = self.changed_blocks()
        silent = []
        for at in range(0, len(truth), BLOCK):
            t = truth[at:at + BLOCK]
            if t == ZERO:
                continue
            right = ours[at:at + BLOCK] == t
            self.counts['survive'] += at not in changed
            self.counts['ours'] += right
            if stock[at:at + BLOCK] == t:
                self.counts['stock'] += 1
                # (a raw disk's partition tables are made anew)
                if not right and not (self.shape.fmt == 'raw' and (at < TABLES or at >= len(truth) - TABLES)):
                    worse.append(at)
            if not right and ours and at not in changed and not touches(named, at):
                silent.append(at)
        self.counts['silent'] = len(silent)
        if worse:
            self.bad.append('convert --rescue (status %d): %d blocks that qemu-img reads are not right, from %#x on: %s' %
                            (status, len(worse), worse[0], text[-400:]))

    def changed_blocks(self):
        """Guest blocks whose own bytes are gone; of those whose place is not known, all."""
        s = self.shape
        return {g for g in range(0, len(s.truth), BLOCK)
                if g not in s.where or s.data[s.where[g]:s.where[g] + BLOCK] != self.data[s.where[g]:s.where[g] + BLOCK]}

    def repair(self):
        source, journal = self.shape.source(self.path), self.path + '.platter-undo'
        status, text = self.command((0, 1, 2, 3), 'repair', '--yes', *source)
        after = read(self.path)
        if status == 1 and after != self.data:
            self.bad.append('repair failed and has changed the image: ' + text[-600:])
        if status == 0 and self.shape.fmt == 'qcow2' and not self.shape.key:
            peer, said = run('qemu-img', 'check', '-q', *source)
            if peer not in (0, 3):
                self.bad.append('repair says that all is right, and qemu-img check: ' + said[-600:])
        if status != 1:
            again, said = self.command((0, 1, 2, 3), 'repair', '--yes', *source)
            if read(self.path) != after:
                self.bad.append('repaired (status %d) once more (status %d), it is another image: %s| %s' %
                                (status, again, text[-900:], said[-900:]))
            elif again == 1 or again > status and status == 0:
                self.bad.append('repair: status %d, and once more: status %d: %s' % (status, again, said[-600:]))
        for name in (journal + '.2', journal):
            if os.path.exists(name):
                undone, said = self.command((0,), 'undo', '-q', name)
        if read(self.path) != self.data:
            self.bad.append('undo does not give the bytes back')
        for name in os.listdir(self.top):
            if 'platter-undo' in name:
                os.unlink(os.path.join(self.top, name))

    def go(self):
        write_sparse(self.path, self.data)
        self.look()
        self.repair()


def main():
    p = argparse.ArgumentParser()
    p.add_argument('count', type=int)
    p.add_argument('seed', type=int)
    p.add_argument('--formats', default='')
    p.add_argument('--shapes', default=','.join(SHAPES))
    p.add_argument('--mib', type=int, default=32)
    p.add_argument('--only', type=int)
    p.add_argument('--keep')
    p.add_argument('-v', '--verbose', action='store_true')
    args = p.parse_args()
    os.environ['PATH'] += ':/usr/sbin:/sbin'
    top, failed = tempfile.mkdtemp(prefix='mutations.'), 0
    try:
        raw = os.path.join(top, 'guest.raw')
        must(sys.executable, '-B', os.path.join(FIXTURES, 'guest.py'), 'ext4', str(args.mib), str(args.seed), raw, '0', 'old')
        for name in args.shapes.split(','):
            shape = Shape(name, raw, args.seed, top)
            if args.formats and shape.fmt not in args.formats.split(','):
                continue
            sums, bad = {}, 0
            for i in range(args.count) if args.only is None else [args.only]:
                data, said = mutate(shape, random.Random('%d %s %d' % (args.seed, name, i)))
                m = Mutant(shape, data, top)
                m.go()
                for k, n in m.counts.items():
                    sums[k] = sums.get(k, 0) + n
                if m.bad or args.verbose:
                    print('%s number %d of seed %d (%s): %s' % (name, i, args.seed, '; '.join(said), m.counts), flush=True)
                    for b in m.bad:
                        print('    ' + b.replace('\n', '\n        '), flush=True)
                if m.bad:
                    bad += 1
                    if args.keep:
                        write_sparse(os.path.join(args.keep, '%s-%d.img' % (name, i)), data)
            print('# %s: %d mutants, %d not as they must be; %s' % (name, args.count if args.only is None else 1, bad, sums), flush=True)
            failed += bad
    finally:
        shutil.rmtree(top)
    sys.exit(1 if failed else 0)


main()
