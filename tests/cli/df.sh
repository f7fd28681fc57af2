#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# df: what each image takes and may still take, what chains share, and whether the volume would do; figures are held against
# stat, statfs and qemu-img measure.  Headers only: a folder of hundreds of images is soon looked at.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires jq python3

blocks() { echo $(($(stat -c %b "$1") * 512)); }
mkdir d
"$PLATTER" create -q -f qcow2 d/base.qcow2 100M
"$PLATTER" io -c 'write -q 0 20M' d/base.qcow2
"$PLATTER" create -q -f qcow2 -b base.qcow2 -F qcow2 d/mid.qcow2
"$PLATTER" io -c 'write -q 0 3M' d/mid.qcow2
for i in a b; do
	"$PLATTER" create -q -f qcow2 -b mid.qcow2 -F qcow2 d/$i.qcow2
	"$PLATTER" io -c 'write -q 0 1M' d/$i.qcow2
done
"$PLATTER" create -q -f qcow2 -b base.qcow2 -F qcow2 d/one.qcow2
"$PLATTER" create -q -f qcow2 -b one.qcow2 -F qcow2 d/two.qcow2
truncate -s 64M d/disk.raw
"$PLATTER" io -f raw -c 'write -q 0 2M' d/disk.raw
(cd d && "$PLATTER" create -q -f qcow2 -o data_file=x.data x.qcow2 30M)
echo text >d/README
head -c 100000 /dev/zero >d/broken.qcow2
printf 'QFI\373\0\0\0\3' | dd of=d/broken.qcow2 conv=notrunc status=none
"$PLATTER" snapshot -c s d/two.qcow2
"$PLATTER" df --output=json d >json
is "$(jq -r '[.images[].filename] | join(" ")' json)" \
	'd/a.qcow2 d/b.qcow2 d/base.qcow2 d/broken.qcow2 d/disk.raw d/mid.qcow2 d/one.qcow2 d/two.qcow2 d/x.qcow2' 'the images of a folder'
get() { jq ".images[] | select(.filename == \"d/$1\") | .$2" json; }
bad=
for f in a.qcow2 base.qcow2 disk.raw mid.qcow2 two.qcow2; do
	[ "$(get $f allocated)" = "$(blocks d/$f)" ] || bad="$bad $f"
done
is "$bad" '' 'what each takes is what stat says'
is "$(get a.qcow2 exclusive)" "$(blocks d/a.qcow2)" 'an overlay on a shared chain has itself'
is "$(get two.qcow2 exclusive)" "$(($(blocks d/two.qcow2) + $(blocks d/one.qcow2)))" 'and what nobody else needs'
is "$(get base.qcow2 '"shared-by"')/$(get mid.qcow2 '"shared-by"')/$(get one.qcow2 '"shared-by"')" 3/2/1 'who needs what'
is "$(jq .total.shared json)" "$(($(blocks d/base.qcow2) + $(blocks d/mid.qcow2)))" 'the shared part'
is "$(jq '.total | .exclusive + .shared + .reflinked == .allocated' json)" true 'the parts are the whole'
is "$(jq '.total."virtual-size"' json)" $(((100 * 3 + 64 + 30) * 1048576)) 'what has been promised: images that no other stands on'
full=$("$PLATTER" measure --output=json -O qcow2 --size 100M | jq '."fully-allocated"')
is "$(get a.qcow2 growth)" $((full - $(blocks d/a.qcow2))) 'how much an image may grow'
is "$(get two.qcow2 growth)/$(get two.qcow2 snapshots)" "$full/1" 'with a snapshot beside what is there'
is "$(get disk.raw growth)" $((64 * 1048576 - $(blocks d/disk.raw))) 'a raw image to its size'
is "$(get base.qcow2 growth)" null 'what others stand on does not grow'
is "$(get broken.qcow2 why | grep -c .)" 1 'what does not open is named'
is "$(jq '.volumes | length' json)/$(jq '.volumes[0].growth == .total.growth' json)" 1/true 'one volume'
size=$(stat -f -c '%b * %S' d)
is "$(jq '.volumes[0].size' json)" $((size)) 'of its size'

# More than there is.
truncate -s 8000T d/huge.raw 2>/dev/null || truncate -s 15T d/huge.raw
"$PLATTER" df d >log
is "$?/$(grep -c 'too little' log)" 1/1 'a volume that would become full'
rm d/huge.raw
"$PLATTER" df d/a.qcow2 d/disk.raw >log
is "$?/$(grep -c '^5\? *[0-9]* images' log)" 0/1 'named images, and what they stand on'
"$PLATTER" df nowhere >log 2>&1
is "$? $(grep -c nowhere log)" '2 1' 'one that is not there'

# Soon.
mkdir many
many=250
[ "$SANITIZER" = 1 ] && many=30
for ((i = 0; i < many; i++)); do
	cp d/a.qcow2 many/$i.qcow2
	cp d/base.qcow2 many/base$i.qcow2 2>/dev/null
done 2>/dev/null
cp d/mid.qcow2 d/base.qcow2 many
start=$(date +%s%N)
"$PLATTER" df --output=json many >json
took=$((($(date +%s%N) - start) / 1000000))
is "$(jq .total.images json)" $((2 * many + 2)) 'five hundred images'
[ $took -lt $((SANITIZER ? 10000 : 2000)) ] && pass 'in less than two seconds' || fail 'in less than two seconds' "$took ms"
done_testing
