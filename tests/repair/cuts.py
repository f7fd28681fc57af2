# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
"""What a power cut in the middle of a repair leaves: made from the image before, the image after and the finished
journal, by what docs/formats/undo.md promises and nothing else.

As long as the journal is *complete*, each sector of the image is its before or its after, its length either, the mark
(the corrupt bit of a qcow2) any; before that the image is untouched and the journal means nothing.
"""
import struct

SECTOR = 512
WRITING, COMPLETE = 1, 2
MARK = 79 # of a qcow2 of version 3: the lowest byte of its incompatible features

TABLE = []
for n in range(256):
    for _ in range(8):
        n = n >> 1 ^ 0x82F63B78 if n & 1 else n >> 1
    TABLE.append(n)


def crc32c(data):
    c = 0xFFFFFFFF
    for b in data:
        c = TABLE[(c ^ b) & 255] ^ c >> 8
    return c ^ 0xFFFFFFFF


def in_state(journal, state):
    head = journal[:12] + struct.pack('<I', state) + journal[16:508]
    return head + struct.pack('<I', crc32c(head)) + journal[512:]


def states(before, after, journal, rnd, n):
    """n times (what, image, journal)."""
    longer = len(after) > len(before)
    wide = before + bytes(len(after) - len(before))
    changed = [at for at in range(0, len(after), 65536) if wide[at:at + 65536] != after[at:at + 65536]]
    changed = [s for at in changed for s in range(at, min(at + 65536, len(after)), SECTOR)
               if wide[s:s + SECTOR] != after[s:s + SECTOR]]
    marked = before[:8] == b'QFI\xfb\0\0\0\3'
    for i in range(n):
        how = rnd.choice(['prefix', 'mixture', 'mixture', 'nothing', 'everything', 'writing'])
        if how == 'writing':
            part = in_state(journal, WRITING)[:rnd.randrange(0, len(journal) // SECTOR + 1) * SECTOR]
            lost = rnd.randrange(0, len(part) + 1) // SECTOR * SECTOR # (sectors reach the disk in any order)
            yield 'while the journal is written', before, bytes(lost) + part[lost:] if rnd.random() < 0.5 else part
            continue
        if how == 'prefix':
            k = rnd.randrange(len(changed) + 1)
            done = set(changed[:k])
        else:
            share = {'mixture': rnd.random(), 'nothing': 0, 'everything': 1.1}[how]
            done = {s for s in changed if rnd.random() < share}
        image = bytearray(wide)
        for s in done:
            image[s:s + SECTOR] = after[s:s + SECTOR]
        if longer and not any(s + SECTOR > len(before) for s in done) and rnd.random() < 0.5:
            del image[len(before):]
        if marked: # it comes off when all else is durable
            image[MARK] = rnd.choice([before[MARK], before[MARK] | 2, after[MARK] if how == 'everything' else before[MARK] | 2])
        yield '%s, %d of %d sectors' % (how, len(done), len(changed)), bytes(image), in_state(journal, COMPLETE)
