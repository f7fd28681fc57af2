#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# hash: known values, and that the format makes no difference.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"

: >empty
is "$("$PLATTER" hash -f raw empty)" \
	'af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc  empty' 'the empty disk'
truncate -s 10M disk.raw
printf hello | dd of=disk.raw conv=notrunc status=none
printf goodbye | dd of=disk.raw bs=1 seek=5000000 conv=notrunc status=none
sum=$("$PLATTER" hash -f raw disk.raw | cut -d' ' -f1)
like "$sum" '^[0-9a-f]{64}$' 'a digest'
for options in '' '-c' '-o cluster_size=4k'; do
	# shellcheck disable=SC2086
	"$PLATTER" convert -f raw -O qcow2 $options disk.raw disk.qcow2
	is "$("$PLATTER" hash disk.qcow2)" "$sum  disk.qcow2" "qcow2 $options has the same"
done
is "$("$PLATTER" hash -f raw disk.raw --digest sha256 --flat)" "$(sha256sum disk.raw)" '--flat is sha256sum'
is "$("$PLATTER" hash --digest md5 --flat disk.qcow2 | cut -d' ' -f1)" "$(md5sum <disk.raw | cut -d' ' -f1)" \
	'--flat md5 of a qcow2'
isnt "$("$PLATTER" hash -f raw --digest sha256/4k disk.raw)" "$sum  disk.raw" 'the block size counts'
is "$("$PLATTER" hash -f raw --digest sha256/64k disk.raw)" "$sum  disk.raw" '64k is the default'
is "$("$PLATTER" hash -f raw disk.raw empty | wc -l)" 2 'several images'
fails 1 'an unknown digest' "$PLATTER" hash -f raw --digest nosuch disk.raw
fails 1 'one image of two is missing' "$PLATTER" hash -f raw disk.raw nofile
if command -v nbdcopy >/dev/null && command -v nbdkit >/dev/null && nbdcopy --help | grep -q blkhash; then
	is "$(nbdcopy --blkhash -- [ nbdkit --exit-with-parent file disk.raw ] null: | cut -d' ' -f1)" "$sum" 'as nbdcopy'
else
	skip 'as nbdcopy' 'nbdcopy with --blkhash is not installed'
fi
done_testing
