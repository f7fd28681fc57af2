#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# A disk in pieces: a file that was split, and a folder of objects that a striped disk was exported as, by name and as
# a node; what cannot be known is refused by name, and nothing is written.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires split python3

refused() {
	"$PLATTER" info "$1" >out 2>&1
	is $? 1 "$3"
	like "$(cat out)" "$2" '  says so'
}

# ---- split files
head -c 1000448 /dev/urandom >disk
split -b 300000 -d -a 3 disk disk.
split -b 100000 disk x
split -b 300000 -d -a 3 --numeric-suffixes=1 --additional-suffix=.vmdk disk disk-f
for name in disk.000 xaa disk-f001.vmdk; do
	ok "$name" "$PLATTER" convert -O raw "pieces:$name" got
	is_file_equal got disk '  all pieces are there'
done
ok 'compared' "$PLATTER" compare -q -F raw "pieces:$PWD/xaa" disk
is "$("$PLATTER" hash "pieces:disk.000" | cut -d' ' -f1)" "$("$PLATTER" hash disk | cut -d' ' -f1)" 'the same digest'
ok 'as a node' "$PLATTER" compare -q --image-opts driver=raw,file.driver=pieces,file.filename=disk.000 \
	driver=raw,file.filename=disk
ok 'as JSON' "$PLATTER" compare -q -F raw 'json:{"driver":"raw","file":{"driver":"pieces","filename":"xaa"}}' disk
"$PLATTER" convert -O raw --image-opts driver=raw,offset=299520,size=1024,file.driver=pieces,file.filename=disk.000 got
is_file_equal got <(dd if=disk bs=512 skip=585 count=2 2>/dev/null) 'a part of it, across two pieces'
"$PLATTER" convert -q --rescue -f raw -O raw pieces:disk.000 got
is_file_equal got disk 'with --rescue'

"$PLATTER" io -f raw -c 'write 0 512' pieces:disk.000 >out 2>&1
like "$(cat out)" 'in pieces is only read' 'no piece is written to'
"$PLATTER" repair -f raw --yes pieces:disk.000 >out 2>&1
is $? 1 'nor by a repair'
cat disk.00? | cmp -s - disk
is $? 0 '  and none has changed'

mv disk.001 away
refused pieces:disk.000 "'disk.001' is missing, and later pieces" 'a piece that is missing'
mv away disk.001
: >disk.004
ok 'an empty piece at the end' "$PLATTER" compare -q -F raw pieces:disk.000 disk
rm disk.004
mkdir disk.004
refused pieces:disk.000 'is no regular file' 'a folder among the pieces'
rmdir disk.004
refused pieces:disk 'with a name that counts' 'a name without a counter'
refused pieces:none.000 'No such file' 'a first piece that is not there'
refused pieces: 'requires a file name' 'no name'
refused 'json:{"driver":"raw","file":{"driver":"pieces","filename":"xaa","stripes":2}}' "the option 'stripes'" 'an unknown option'
refused 'json:{"driver":"raw","file":{"driver":"pieces","filename":"xaa","object-size":4096}}' 'has no meaning' 'a size of objects that are none'
printf KDMV >s-s001.vmdk
printf x >s-s002.vmdk
refused pieces:s-s001.vmdk 'sparse extent of a VMDK' 'sparse extents are no bytes of the disk'

# ---- an image in pieces, with a backing file beside it
"$PLATTER" create -q -f raw base.raw 1M
"$PLATTER" io -f raw -c 'write -q -P 7 0 1M' base.raw
"$PLATTER" create -q -f qcow2 -b base.raw -F raw top.qcow2
"$PLATTER" io -c 'write -q -P 9 64k 64k' top.qcow2
split -b 100000 -d -a 3 top.qcow2 top.
mkdir in
mv top.0?? base.raw in
ok 'an image in pieces, and its backing file beside them' "$PLATTER" convert -O raw pieces:in/top.000 got
is "$(python3 -c 'd = open("got", "rb").read(); print(d == b"\7" * 65536 + b"\t" * 65536 + b"\7" * (len(d) - 131072))')" True \
	'  read through'

# ---- objects
python3 - <<'EOF2'
import os, random
random.seed(3)
os.mkdir('rbd')
size = 8192
disk = bytearray()
for i in sorted(random.sample(range(400), 300)) + [401]:
    data = random.randbytes(size if i % 7 else random.randrange(1, size))
    disk += bytes(i * size - len(disk))
    disk += data
    with open('rbd/rbd_data.ab12.%016x' % i, 'wb') as f:
        f.write(data)
disk += bytes(402 * size - len(disk))
open('want', 'wb').write(disk)
open('rbd/rbd_header.ab12', 'wb').write(b'not one of them')
EOF2
ok 'a folder of objects' "$PLATTER" convert -O raw pieces:rbd got
is_file_equal got want '  each where its number says, and zeros where there is none'
ok 'a little at a time' "$PLATTER" compare -q -F raw pieces:rbd/rbd_data.ab12 want
"$PLATTER" map --output=json pieces:rbd >map.json
is "$(python3 -c 'import json; print(any(e["zero"] and not e["data"] for e in json.load(open("map.json"))))')" True 'holes are known'
is "$("$PLATTER" info --output=json --image-opts driver=raw,file.driver=pieces,file.filename=rbd,file.size=4M | python3 -c \
	'import json, sys; print(json.load(sys.stdin)["virtual-size"])')" 4194304 'the size of the disk may be said'
refused 'json:{"driver":"raw","file":{"driver":"pieces","filename":"rbd","size":4096}}' 'lie behind a size' 'a size that is too small'
refused 'json:{"driver":"raw","file":{"driver":"pieces","filename":"rbd","object-size":4096}}' 'and they are of 4096' \
	'objects that are larger than they can be'
: >rbd/rbd_data.cd34.0000000000000000
refused pieces:rbd 'objects of several disks' 'two disks in one folder'
ok 'one of the two, by its name' "$PLATTER" compare -q -F raw pieces:rbd/rbd_data.ab12 want
mkdir empty
refused pieces:empty 'no objects of a striped disk' 'a folder without objects'
mkdir odd
head -c 5000000 /dev/zero >odd/a.0000000000000000
refused pieces:odd 'option object-size' 'objects whose size is not known'
head -c 100 /dev/zero >odd/a.7fffffffffffffff
refused 'json:{"driver":"raw","file":{"driver":"pieces","filename":"odd","object-size":8388608}}' 'behind the largest disk' 'a number beyond all disks'
rm odd/a.7fffffffffffffff
refused 'json:{"driver":"raw","file":{"driver":"pieces","filename":"odd","object-size":9223372036854775807}}' 'behind the largest disk' \
	'objects as large as all there can be'
done_testing
