#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# check: both forms, counts and exit statuses.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
. "$srcdir/tests/cli/transcript.sh"

checks() {
	"$QI" create -q -f qcow2 a.qcow2 1M
	truncate -s 1M r.raw
	t check a.qcow2
	t check --output=json a.qcow2
	t check -q a.qcow2
	t check -q --output=json a.qcow2
	t check -f qcow2 -U a.qcow2
	t check --image-opts driver=qcow2,file.filename=a.qcow2
	t check --image-opts -f qcow2 a.qcow2
	t check r.raw
	t check -f raw r.raw
	t check -q r.raw
	t check nofile
	t check -f qcow2 r.raw
}

same_as_qemu check checks

# Unlike qemu-img's, the check of an image needs no other file.
mkfifo pipe
"$PLATTER" create -q -f qcow2 -u -b pipe -F raw onpipe.qcow2 1M
ok 'the backing file is not opened' timeout 5 "$PLATTER" check onpipe.qcow2
"$PLATTER" create -q -f qcow2 -u -b nofile -F raw lost.qcow2 1M
ok 'nor missed' "$PLATTER" check lost.qcow2

# Damage: a cluster that nothing uses, and one that is used and not counted.
"$PLATTER" create -q -f qcow2 d.qcow2 1M
truncate -s 327680 d.qcow2
poke d.qcow2 $((131072 + 2 * 4)) '\0\1'
fails 3 'a leak: status 3' "$PLATTER" check d.qcow2
like "$("$PLATTER" check d.qcow2 2>/dev/null)" '^1 leaked clusters were found on the image\.$' 'a leak: counted'
is "$("$PLATTER" check --output=json d.qcow2 2>/dev/null | grep -c '"leaks": 1')" 1 'a leak: in JSON'
poke d.qcow2 $((131072 + 3 * 2)) '\0\0'
fails 2 'a reference without a count: status 2' "$PLATTER" check d.qcow2
like "$("$PLATTER" check d.qcow2 2>/dev/null)" '^1 errors were found on the image\.$' 'errors: counted'
like "$("$PLATTER" check d.qcow2 2>/dev/null)" '^Data may be corrupted, or further' 'errors: what that means'
cp d.qcow2 before
"$PLATTER" check d.qcow2 >/dev/null 2>&1
is_file_equal d.qcow2 before 'check writes nothing'
if is_qemu_7; then
	for form in human json; do
		qemu-img check --output=$form d.qcow2 >theirs 2>theirs.err
		"$QEMU_IMG_LINK" check --output=$form d.qcow2 >ours 2>ours.err
		is_output ours theirs "damage, $form: as qemu-img"
		is_output ours.err theirs.err "damage, $form: findings as qemu-img"
	done
else
	skip 'damage as qemu-img' 'qemu-img 7.2 is not installed'
fi
done_testing
