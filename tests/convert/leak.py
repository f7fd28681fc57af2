# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
"""leak.py IMAGE N: counts of N clusters behind the end of a qcow2 file, with random bytes in them, become 1."""
import os
import struct
import sys

with open(sys.argv[1], 'r+b') as f:
    f.seek(20)
    bits, = struct.unpack('>I', f.read(4))
    f.seek(48)
    table, = struct.unpack('>Q', f.read(8))
    f.seek(0, 2)
    cluster = (f.tell() + (1 << bits) - 1) >> bits
    for n in range(int(sys.argv[2])):
        per = (1 << bits) // 2
        f.seek(table + (cluster + n) // per * 8)
        block, = struct.unpack('>Q', f.read(8))
        assert block
        f.seek(block + (cluster + n) % per * 2)
        f.write(struct.pack('>H', 1))
        f.seek((cluster + n) << bits)
        f.write(os.urandom(1 << bits))
