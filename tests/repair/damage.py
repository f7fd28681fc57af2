# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Damage to qcow2 images, with a seed:
#
#	damage.py shuffle IMAGE RUN SEED        the clusters of data change places, RUN together
#	damage.py KIND IMAGE SEED
#
# KIND: l2-zero l2-counts (a refcount block lies there) l2-junk l2-half l2-sectors entries (single bits of 2 %) l1-bit
# l2-older (the last entries are not there yet) l1-end (an entry, and half the file) truncated header (512 bytes) cluster
# (the first one) magic field:NAME (of the header, another value) snapshots (the table).  Prints what it did.

import os
import random
import struct
import sys

MASK = 0x00fffffffffffe00
FIELDS = {'version': (4, '>I'), 'backing_offset': (8, '>Q'), 'backing_size': (16, '>I'), 'cluster_bits': (20, '>I'),
          'size': (24, '>Q'), 'crypt': (32, '>I'), 'l1_size': (36, '>I'), 'l1_offset': (40, '>Q'),
          'refcount_table_offset': (48, '>Q'), 'refcount_table_clusters': (56, '>I'), 'nb_snapshots': (60, '>I'),
          'snapshots_offset': (64, '>Q'), 'incompatible': (72, '>Q'), 'refcount_order': (96, '>I'),
          'header_length': (100, '>I'), 'extension_length': (116, '>I')}


class Image:
    def __init__(self, path):
        self.f = open(path, 'r+b')
        self.h = self.read(0, 120)
        self.cs = 1 << struct.unpack('>I', self.h[20:24])[0]
        n, self.l1_at = struct.unpack('>IQ', self.h[36:48])
        self.l1 = [e & MASK for e in self.words(self.l1_at, 8 * n)]
        self.tables = [t for t in self.l1 if t]
        self.block = self.words(struct.unpack('>Q', self.h[48:56])[0], 8)[0]

    def read(self, at, n):
        self.f.seek(at)
        return self.f.read(n)

    def words(self, at, n):
        return struct.unpack('>%dQ' % (n // 8), self.read(at, n).ljust(n, b'\0'))

    def write(self, at, b):
        self.f.seek(at)
        self.f.write(b)

    def word(self, at, value):
        self.write(at, struct.pack('>Q', value))


def shuffle(im, run, rnd):
    entries = []
    for t in im.tables:
        for k, e in enumerate(im.words(t, im.cs)):
            if e & MASK and not e >> 62 & 1:
                entries.append((t + 8 * k, e))
    places = sorted(e & MASK for _, e in entries)
    content = [im.read(e & MASK, im.cs).ljust(im.cs, b'\0') for _, e in entries]
    runs = [range(i, min(i + run, len(entries))) for i in range(0, len(entries), run)]
    rnd.shuffle(runs)
    for place, i in zip(places, (i for r in runs for i in r)):
        im.write(place, content[i])
        im.word(entries[i][0], entries[i][1] & ~MASK | place)
    print(len(entries), 'clusters')


def damage(im, kind, rnd):
    if kind == 'l2-zero':
        for t in im.tables:
            im.write(t, bytes(im.cs))
    elif kind == 'l2-counts':
        for t in im.tables:
            im.write(t, im.read(im.block, im.cs))
    elif kind == 'l2-junk':
        for t in im.tables:
            im.write(t, rnd.randbytes(im.cs))
    elif kind == 'l2-half':
        for t in im.tables:
            im.write(t, rnd.randbytes(im.cs // 2))
    elif kind == 'l2-sectors':
        for t in im.tables:
            for at in range(t, t + im.cs, 512):
                if rnd.random() < 0.2:
                    im.write(at, rnd.randbytes(512))
    elif kind == 'entries':
        n = 0
        for t in im.tables:
            for k, e in enumerate(im.words(t, im.cs)):
                if e and rnd.random() < 0.02:
                    im.word(t + 8 * k, e ^ 1 << rnd.randrange(9, 64))
                    n += 1
        print(n, 'entries')
    elif kind == 'l2-older':
        for t in im.tables:
            used = [k for k, e in enumerate(im.words(t, im.cs)) if e]
            for k in used[len(used) * 3 // 4:]:
                im.word(t + 8 * k, 0)
    elif kind == 'l1-bit':
        i = rnd.choice([i for i, t in enumerate(im.l1) if t])
        bit = rnd.randrange(64)
        im.word(im.l1_at + 8 * i, im.words(im.l1_at + 8 * i, 8)[0] ^ 1 << bit)
        print('entry', i, 'bit', bit)
    elif kind == 'l1-end':
        im.write(im.l1_at, bytes(8))
        im.f.seek(0, os.SEEK_END)
        im.f.truncate(im.f.tell() // 2)
    elif kind == 'truncated':
        im.f.seek(0, os.SEEK_END)
        im.f.truncate(im.f.tell() * 6 // 10 + 777)
    elif kind == 'magic':
        im.write(0, b'BAD!')
    elif kind == 'header':
        im.write(0, rnd.choice([bytes(512), rnd.randbytes(512)]))
    elif kind == 'cluster':
        im.write(0, rnd.choice([bytes(im.cs), rnd.randbytes(im.cs)]))
    elif kind == 'snapshots':
        im.write(struct.unpack('>Q', im.h[64:72])[0], rnd.randbytes(200))
    elif kind.startswith('field:'):
        at, form = FIELDS[kind[6:]]
        value = rnd.choice([0, 1, 0x7fffffff, 0x1234567, struct.unpack_from(form, im.h, at)[0] ^ 1 << rnd.randrange(31)])
        im.write(at, struct.pack(form, value))
        print('value', hex(value))
    else:
        sys.exit('no such damage: ' + kind)


image = Image(sys.argv[2])
if sys.argv[1] == 'shuffle':
    shuffle(image, int(sys.argv[3]), random.Random(int(sys.argv[4])))
else:
    damage(image, sys.argv[1], random.Random(int(sys.argv[3])))
