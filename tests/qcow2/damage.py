#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
"""Damage a qcow2 image: damage.py IMAGE OUT SEED prints what it did.

Changes one to three words of its structures (L1 and L2 entries, refcount table and blocks, snapshot
table), with a preference for values that look right, or cuts the file.
"""
import random
import struct
import sys


def be64(data, at):
    return struct.unpack('>Q', data[at:at + 8])[0]


def main():
    src, out, seed = sys.argv[1:4]
    data = bytearray(open(src, 'rb').read())
    rng = random.Random(int(seed))
    bits, = struct.unpack('>I', data[20:24])
    cluster = 1 << bits
    l1_size, l1_off, rt_off, _, snapshots, snap_off = struct.unpack('>IQQIIQ', data[36:72])
    incompatible = be64(data, 72) if data[7] == 3 else 0
    entry = 16 if incompatible & 16 else 8
    mask = 0xfffffffffffe00
    l1 = [l1_off + 8 * i for i in range(l1_size)]
    tables = [t for t in (be64(data, at) & mask for at in l1) if t]
    l2 = [t + entry * i for t in tables for i in range(cluster // entry)
          if any(data[t + entry * i:t + entry * i + entry])]
    blocks = [b for b in (be64(data, rt_off + 8 * i) for i in range(4)) if b]
    clusters = (len(data) + cluster - 1) // cluster

    def value(old):
        place = rng.randrange(clusters) << bits
        return rng.choice([
            0, old ^ 1 << rng.randrange(64), old ^ 1 << rng.randrange(64), old ^ 1 << 63, place,
            place | 1 << 63, place | 1 << 63, old + cluster, old + 512, clusters << bits | 1 << 63,
            1 << 62 | rng.getrandbits(40), cluster | 1 << 63, 3 * cluster | 1 << 63, old | 1,
        ]) & (1 << 63) - 1 | rng.choice([0, 1 << 63])

    done = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        kind = rng.choice(['l1', 'l2', 'l2', 'l2', 'table', 'block', 'snapshot', 'cut', 'empty'])
        if kind == 'cut':
            if rng.random() < .7:
                continue
            at = rng.randrange(4 * cluster, len(data))
            del data[at:]
            done.append(f'cut {at:#x}')
            continue
        if kind == 'block':
            at = rng.choice(blocks) + rng.randrange(min(cluster, 2 * clusters + 8))
            if at < len(data):
                data[at] = rng.choice([0, 1, 2, 255])
                done.append(f'block {at:#x}')
            continue
        if kind == 'snapshot' and not snapshots:
            continue
        at = {'l1': lambda: rng.choice(l1), 'l2': lambda: rng.choice(l2),
              'empty': lambda: rng.choice(tables) + 8 * rng.randrange(cluster // 8),
              'table': lambda: rt_off + 8 * rng.randrange(4),
              'snapshot': lambda: snap_off + rng.randrange(7) * 8}[kind]()
        if at + 8 > len(data):
            continue
        old = be64(data, at)
        new = value(old)
        data[at:at + 8] = struct.pack('>Q', new)
        done.append(f'{kind} {at:#x}: {old:#x} -> {new:#x}')
    open(out, 'wb').write(data)
    print('; '.join(done))


main()
