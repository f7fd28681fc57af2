#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# measure --exact is the length of the file that convert makes, to the byte: over random content, formats, snapshots and options.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires python3 jq
seed=${PLT_SEED:-$RANDOM}
echo "# PLT_SEED=$seed"
times=25
[ "$SANITIZER" = 1 ] && times=8
ok 'the length of what convert makes' python3 -B "$srcdir/tests/convert/measure.py" "$PLATTER" "$seed" $times

exact() { "$PLATTER" measure --exact --output=json "$@" | jq .required; }
for o in '' cluster_size=4k,refcount_bits=64 extended_l2=on preallocation=metadata,cluster_size=512 preallocation=full; do
	rm -f e
	"$PLATTER" create -q -f qcow2 ${o:+-o $o} e 77M
	is "$(exact -O qcow2 ${o:+-o $o} --size 77M)" "$(stat -c %s e)" "an empty image${o:+ with $o}"
done
rm -f e && "$PLATTER" create -q -f vpc e 77M
is "$(exact -O vpc --size 77M)" "$(stat -c %s e)" 'an empty VHD'
seq 1 3000000 >c.raw && truncate -s %65536 c.raw
"$PLATTER" convert -c -m 1 -f raw -O qcow2 c.raw c.qcow2
n=$(exact -c -f raw -O qcow2 c.raw) length=$(stat -c %s c.qcow2)
[ $((n - length)) -le 65536 ] && [ $((length - n)) -le 65536 ] && pass 'compressed, within a cluster' ||
	fail 'compressed, within a cluster' "$n, the file $length"
is "$("$PLATTER" measure -c -O qcow2 c.raw 2>&1 | grep -c exact)" 1 'how far data compresses is told by reading it alone'
"$PLATTER" measure --exact -f raw -O qcow2 -o data_file=d c.raw >log 2>&1
is "$?/$(grep -c 'external data file' log)/$([ -e d ] && echo made)" 1/1/ 'with an external data file it is refused'
done_testing
