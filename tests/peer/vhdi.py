# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# What libvhdi reads from a chain of VHDs: vhdi.py OUT BASE [CHILD...].  Without OUT (-): only whether the
# module is there.
import sys
import pyvhdi

if sys.argv[1] != '-':
    chain = []
    for name in sys.argv[2:]:
        image = pyvhdi.file()
        image.open(name)
        if chain:
            image.set_parent(chain[-1])
        chain.append(image)
    left = chain[-1].get_media_size()
    with open(sys.argv[1], 'wb') as out:
        while left:
            data = chain[-1].read(min(left, 1 << 20))
            out.write(data)
            left -= len(data)
