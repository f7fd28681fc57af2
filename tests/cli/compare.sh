#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# compare: texts and exit statuses.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
. "$srcdir/tests/cli/transcript.sh"

compares() {
	truncate -s 1M zero.raw
	truncate -s 2M longer.raw
	truncate -s 2M data.raw
	printf x | dd of=data.raw bs=1 seek=65536 conv=notrunc status=none
	truncate -s 2M tail.raw
	printf x | dd of=tail.raw bs=1 seek=1500000 conv=notrunc status=none
	"$QI" create -q -f qcow2 a.qcow2 1M
	"$QI" create -q -f qcow2 -b zero.raw -F raw b.qcow2
	t compare a.qcow2 zero.raw
	t compare -q a.qcow2 zero.raw
	t compare -f qcow2 -F raw a.qcow2 zero.raw
	t compare zero.raw longer.raw
	t compare longer.raw zero.raw
	t compare zero.raw data.raw
	t compare data.raw zero.raw
	t compare -q data.raw zero.raw
	t compare longer.raw data.raw
	t compare zero.raw tail.raw
	t compare tail.raw zero.raw
	t compare -s zero.raw longer.raw
	t compare -s zero.raw data.raw
	t compare -s a.qcow2 zero.raw
	t compare -s -q a.qcow2 zero.raw
	t compare a.qcow2 b.qcow2
	t compare -U a.qcow2 a.qcow2
	t compare nofile zero.raw
	t compare zero.raw nofile
	t compare -F qcow2 a.qcow2 zero.raw
	t compare --image-opts -f raw a b
	t compare --image-opts driver=raw,file.filename=zero.raw driver=qcow2,file.filename=a.qcow2
	t compare -p a.qcow2 a.qcow2
}

same_as_qemu compare compares
done_testing
