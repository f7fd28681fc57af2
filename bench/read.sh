#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Reading whole disks: compare and hash.
# shellcheck source=bench/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"

standard
[ -f std.qcow2 ] || qemu-img convert -t unsafe -m 16 -W -O qcow2 std.raw std.qcow2
row "compare raw qcow2" "$PLATTER compare std.raw std.qcow2" "qemu-img compare std.raw std.qcow2" '1.3 x'
row "hash, peer openssl dgst -sha256" "$PLATTER hash std.raw" "openssl dgst -sha256 std.raw" '1.7 x'
