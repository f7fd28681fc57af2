#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# What must cost the time of the data, not of the virtual size.
# shellcheck source=bench/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"

sparse
out='rm -f out.*'
row "1 TiB with 1 GiB, raw -> qcow2" "$PLATTER convert -t unsafe -O qcow2 sparse.raw out.a" \
	"qemu-img convert -t unsafe -m 16 -W -O qcow2 sparse.raw out.b" 'the time of 1 GiB' "$out"
"$PLATTER" convert -t unsafe -O qcow2 sparse.raw sparse.qcow2
row "1 TiB with 1 GiB, qcow2 -> raw" "$PLATTER convert -t unsafe -O raw sparse.qcow2 out.a" \
	"qemu-img convert -t unsafe -m 16 -W -O raw sparse.qcow2 out.b" 'the time of 1 GiB' "$out"
row "1 TiB with 1 GiB, map" "$PLATTER map --output=json sparse.qcow2" "qemu-img map --output=json sparse.qcow2" -
row "info" "$PLATTER info sparse.qcow2" "qemu-img info sparse.qcow2" 'under 10 ms'
rm -f out.*
