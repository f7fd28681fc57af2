#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# What must be refused before anything is lost: formats without a driver, protocols, data files that
# cannot be had or are being read, devices that are too small, targets that somebody else has made.
# And chains as deep as they may be.
# shellcheck source=tests/lib.sh
. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"

seq 1 300000 | head -c 1M > src.raw
cp src.raw kept.raw

# formats that have a mark but no driver
mark() { # NAME OFFSET BYTES
	truncate -s 0 "foreign.$1"
	truncate -s 1M "foreign.$1"
	printf %b "$3" | dd of="foreign.$1" bs=1 seek="$2" conv=notrunc status=none
	fails 1 "$1 is not taken for raw" "$PLATTER" convert -O raw "foreign.$1" out
	like "$("$PLATTER" info "foreign.$1" 2>&1)" "is a $1 image" '  and is named'
	ok '  its bytes can be had' "$PLATTER" info -f raw "foreign.$1"
}
mark vmdk 0 'KDMV'
mark vhdx 0 'vhdxfile'
mark vpc 0 'conectix'
mark vdi 64 '\x7f\x10\xda\xbe'
[ ! -e out ]
is $? 0 'nothing was made'

# names with a protocol
for name in nbd:localhost:1 ssh://host/x; do
	fails 1 "create $name" "$PLATTER" create -f qcow2 "$name" 1M
	fails 1 "convert to $name" "$PLATTER" convert -f raw src.raw "$name"
	like "$("$PLATTER" convert -f raw src.raw "$name" 2>&1)" "Unknown protocol '${name%%:*}'" '  is said'
	[ ! -e "$name" ]
	is $? 0 '  no such file is made'
done

# data files
fails 1 'a data file that is the source' \
	"$PLATTER" convert -U -f raw -O qcow2 -o data_file=src.raw src.raw out.qcow2
is_file_equal src.raw kept.raw '  the source is as it was'
cp src.raw old.qcow2
ln old.qcow2 link.qcow2
fails 1 'a data file that cannot be made' \
	"$PLATTER" convert -f raw -O qcow2 -o data_file=none/x src.raw old.qcow2
is_file_equal old.qcow2 kept.raw '  the old target is as it was'

# a file that appears while we work
"$PLATTER" convert -r 256k -f raw -O qcow2 src.raw new.qcow2 2> err.log &
job=$!
sleep 0.5
"$PLATTER" create -q -f raw new.qcow2 3M
wait $job
is $? 1 'a target that somebody else makes meanwhile is not replaced'
is "$(stat -c %s new.qcow2)" $((3 << 20)) '  it is theirs'

# a device
if [ "$(id -u)" = 0 ] && truncate -s 512k small.img && loop=$(losetup -f --show small.img 2>/dev/null); then
	printf 'precious' | dd of="$loop" conv=notrunc status=none
	fails 1 'a device that is too small' "$PLATTER" convert -f raw -O raw src.raw "$loop"
	is "$(head -c 8 "$loop")" precious '  keeps its content'
	losetup -d "$loop"
else
	skip 'a device that is too small' 'no loop device'
fi

# chains
"$PLATTER" convert -f raw -O qcow2 src.raw c0.qcow2
for ((i = 1; i < 250; i++)); do
	"$PLATTER" create -q -f qcow2 -u -b "c$((i - 1)).qcow2" -F qcow2 "c$i.qcow2" 1M
done
ok 'a chain of 250 is read' "$PLATTER" convert -O raw c249.qcow2 deep.raw
is_file_equal deep.raw src.raw '  to the bottom'
for ((i = 250; i < 270; i++)); do
	"$PLATTER" create -q -f qcow2 -u -b "c$((i - 1)).qcow2" -F qcow2 "c$i.qcow2" 1M
done
fails 1 'a longer one is refused' "$PLATTER" convert -O raw c269.qcow2 deeper.raw

# zeros over a backing file that only the user named
"$PLATTER" create -q -f qcow2 -o compat=0.10 v2.qcow2 1M
truncate -s 1M zeros.raw
through=driver=qcow2,file.filename=v2.qcow2,backing.driver=raw,backing.file.filename=src.raw
ok 'zeros over a backing file given by hand' \
	"$PLATTER" convert -n -f raw --target-image-opts zeros.raw "$through"
ok '  read as zeros' "$PLATTER" compare --image-opts driver=raw,file.filename=zeros.raw "$through"
done_testing
