#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Every operation on every part of two clusters in every state: one program puts the clusters into
# their states, the other does the rest, and both ways round.  A cell is two clusters; an image holds
# all 5292 of them.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io
. "$srcdir/tests/peer/peer.sh"

cells=5292
rm -f m.raw
head -c $((cells * 1024)) /dev/zero | tr '\0' 'b' >back.raw
for options in cluster_size=512 cluster_size=512,compat=0.10 cluster_size=512,refcount_bits=1 \
	cluster_size=512,compression_type=zstd cluster_size=512,lazy_refcounts=on \
	cluster_size=512,backing_file=back.raw,backing_fmt=raw \
	cluster_size=512,compat=0.10,backing_file=back.raw,backing_fmt=raw; do
	sampled || continue
	for who in us them; do
		next_seed
		qemu-img create -q -f qcow2 -o $options cells.qcow2 $((cells * 1024))
		if [ $who = us ]; then # they prepare, we act; and the other way round
			"$WRITER" -q cells.qcow2 "cells prepare $seed 1" >steps
			by_them cells.qcow2 steps >steps.failed || true
			model_of cells.qcow2 m.raw
			ok "cells, $options: all acts" "$WRITER" -f qcow2 -m m.raw cells.qcow2 "cells act $seed 1"
			agree cells.qcow2 '  on what they have prepared' m.raw
		else
			model_of cells.qcow2 m.raw
			"$WRITER" -f qcow2 -m m.raw cells.qcow2 "cells prepare $seed 1"
			agree cells.qcow2 "cells, $options: prepared by us" m.raw
			"$WRITER" -q cells.qcow2 "cells act $seed 1" >steps
			by_them cells.qcow2 steps >steps.failed || true
			agree cells.qcow2 '  they act on it'
		fi
	done
done
# Subclusters: a share of the cells, a different one each time.
for options in extended_l2=on,cluster_size=16k extended_l2=on,cluster_size=16k,backing_file=back.raw,backing_fmt=raw; do
	next_seed
	qemu-img create -q -f qcow2 -o $options cells.qcow2 16M
	"$WRITER" -q cells.qcow2 "cells prepare $seed 11" >steps
	by_them cells.qcow2 steps >steps.failed || true
	model_of cells.qcow2 m.raw
	ok "cells, $options: acts" "$WRITER" -f qcow2 -m m.raw cells.qcow2 "cells act $seed 11"
	agree cells.qcow2 '  on what they have prepared' m.raw
	"$WRITER" -q cells.qcow2 "cells act $((seed + 5)) 11" >steps
	by_them cells.qcow2 steps >steps.failed || true
	agree cells.qcow2 '  and they on that'
done
done_testing
