#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Compressed conversion: zlib and zstd, speed and size.
# shellcheck source=bench/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"

standard
out='rm -f out.a out.b out.c out.d'
row "raw -> qcow2 -c zlib, peer -m 16 -W" "$PLATTER convert -t unsafe -c -O qcow2 std.raw out.a" \
	"qemu-img convert -t unsafe -c -m 16 -W -O qcow2 std.raw out.b" '8 x' "$out"
"$PLATTER" convert -t unsafe -c -O qcow2 std.raw out.a
qemu-img convert -t unsafe -c -m 16 -W -O qcow2 std.raw out.b
size "  output, zlib" out.a out.b 'at most 1.10'
row "raw -> qcow2 -c zlib best" "$PLATTER convert -t unsafe -c --compress-level best -O qcow2 std.raw out.c" \
	"qemu-img convert -t unsafe -c -m 16 -W -O qcow2 std.raw out.d" '1 x' "rm -f out.c out.d"
"$PLATTER" convert -t unsafe -c --compress-level best -O qcow2 std.raw out.c
size "  output, zlib best" out.c out.b 'at most 1.00'
z='-o compression_type=zstd'
row "raw -> qcow2 -c zstd, peer -m 16 -W" "$PLATTER convert -t unsafe -c $z -O qcow2 std.raw out.c" \
	"qemu-img convert -t unsafe -c $z -m 16 -W -O qcow2 std.raw out.d" '2 x' "rm -f out.c out.d"
"$PLATTER" convert -t unsafe -c $z -O qcow2 std.raw out.c
qemu-img convert -t unsafe -c $z -m 16 -W -O qcow2 std.raw out.d
size "  output, zstd" out.c out.d 'at most 1.00'
row "compressed qcow2 (zlib) -> raw" "$PLATTER convert -t unsafe -O raw out.b out.e" \
	"qemu-img convert -t unsafe -m 16 -W -O raw out.b out.f" '4 x' 'rm -f out.e out.f'
row "compressed qcow2 (zstd) -> raw" "$PLATTER convert -t unsafe -O raw out.d out.e" \
	"qemu-img convert -t unsafe -m 16 -W -O raw out.d out.f" '2.5 x' 'rm -f out.e out.f'
rm -f out.*
