# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# How much of a disk came back:
#
#	blocks.py SOUND GOT BLOCK [NAMED]
#
# prints "wrong right all": blocks of GOT that are neither zero nor what SOUND has there, nor in a range of NAMED
# (lines "offset length"); blocks with content that are right; blocks of SOUND with content.

import sys

sound, got = (open(p, 'rb') for p in sys.argv[1:3])
size = int(sys.argv[3])
named = set()
if len(sys.argv) > 4:
    for line in open(sys.argv[4]):
        off, length = map(int, line.split()[:2])
        named.update(range(off // size, (off + length + size - 1) // size))
zero = bytes(size)
wrong = right = total = i = 0
while True:
    a, b = sound.read(size), got.read(size)
    if not a:
        break
    b = b.ljust(len(a), b'\0')
    if a != zero[:len(a)]:
        total += 1
        right += a == b
    if b != a and b != zero[:len(a)] and i not in named:
        wrong += 1
    i += 1
print(wrong, right, total)
