# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
"""
pv.py FILE NAME:FIRST[+COUNT][,FIRST+COUNT...][:WORD=VALUE...]...: FILE, which has the size already, becomes a physical volume
of LVM with logical volumes that lie on its extents of 1 MiB; WORD=VALUE goes into the first segment ("type", "origin" ...).
"""
import struct
import sys

SECTOR, START = 512, 2048


def crc(data, value=0xf597a6cf):
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xedb88320 if value & 1 else 0)
    return value


with open(sys.argv[1], 'r+b') as f:
    size = f.seek(0, 2)
    ident = 'abcdefGHIJKLmnopQRSTuvwxYZ012345'
    dashed = '-'.join([ident[:6]] + [ident[i:i + 4] for i in range(6, 26, 4)] + [ident[26:]])
    count = (size // SECTOR - START) // 2048
    text = 'vg {\nid = "x"\nstatus = ["RESIZEABLE", "READ", "WRITE"]\nextent_size = 2048\nphysical_volumes {\npv0 {\n' \
        'id = "%s"\ndevice = "/dev/sd}a" # a hint\nstatus = ["ALLOCATABLE"]\npe_start = %d\npe_count = %d\n}\n}\n' \
        'logical_volumes {\n' % (dashed, START, count)
    for lv in sys.argv[2:]:
        name, pieces, *words = lv.split(':')
        more = dict(w.split('=') for w in words)
        pieces = [list(map(int, p.split('+'))) for p in pieces.split(',')]
        text += '%s {\nid = "y"\nstatus = ["READ", "WRITE"%s]\nsegment_count = %d\n' % (
            name, '' if 'hidden' in more else ', "VISIBLE"', len(pieces))
        at = 0
        for i, (first, n) in enumerate(pieces):
            text += 'segment%d {\nstart_extent = %d\nextent_count = %d\ntype = "%s"\nstripe_count = 1\nstripes = [\n"%s", %d\n]\n' % (
                i + 1, at, n, more.get('type', 'striped'), more.get('pv', 'pv0'), first)
            if 'origin' in more and not i:
                text += 'origin = "%s"\n' % more['origin']
            text += '}\n'
            at += n
        text += '}\n'
    text = (text + '}\n}\n# end\n').encode() + b'\0'
    meta, length = 4096, START * SECTOR - 4096
    # the text begins near the end of its ring, and goes on behind its header
    at = length - 700
    label = bytearray(SECTOR)
    struct.pack_into('<8sQ', label, 0, b'LABELONE', 1)
    struct.pack_into('<I8s', label, 20, 32, b'LVM2 001')
    struct.pack_into('<32sQ', label, 32, ident.encode(), size)
    struct.pack_into('<6Q', label, 72, START * SECTOR, 0, 0, 0, meta, length)
    struct.pack_into('<I', label, 16, crc(label[20:]))
    head = bytearray(SECTOR)
    struct.pack_into('<16sIQQ', head, 4, b' LVM2 x[5A%r0N*>', 1, meta, length)
    struct.pack_into('<QQII', head, 40, at, len(text), crc(text), 0)
    struct.pack_into('<I', head, 0, crc(head[4:]))
    for where, data in ((SECTOR, label), (meta, head), (meta + at, text[:700]), (meta + SECTOR, text[700:])):
        f.seek(where)
        f.write(data)
