#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Encrypted images: against qemu-img, and the rate of the cipher against OpenSSL's own.
# shellcheck source=bench/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"

standard
S='--object secret,id=s,data=bench'
# shellcheck disable=SC2086
[ -f std.luks ] || "$PLATTER" convert $S -O luks -o key-secret=s,iter-time=10 std.raw std.luks || exit 1
row "luks -> raw" "$PLATTER convert -t unsafe $S --image-opts -O raw driver=luks,key-secret=s,file.filename=std.luks o.raw" \
	"qemu-img convert -t unsafe $S --image-opts -O raw driver=luks,key-secret=s,file.filename=std.luks o.raw" '2 x'
row "raw -> luks" "$PLATTER convert -t unsafe $S -O luks -o key-secret=s,iter-time=10 std.raw o.luks" \
	"qemu-img convert -t unsafe $S -O luks -o key-secret=s,iter-time=10 std.raw o.luks" '2 x'
rm -f o.raw o.luks
# MB/s on all cores; a new initial vector for each 512 bytes costs OpenSSL itself the most.
cp std.luks w.luks
"$BENCH_BIN/cryptbench" w.luks bench "$BENCH_RUNS" | awk '
	{ v[$1] = $2 }
	END {
		f = "%-52s %9.0f %9.0f %6.2fx   %s\n"
		printf f, "AES-XTS reads, MB/s; peer OpenSSL by 512 bytes", v["reads"], v["sectors"], v["reads"] / v["sectors"], "0.8 x"
		printf f, "AES-XTS writes, MB/s; peer OpenSSL by 512 bytes", v["writes"], v["sectors"], v["writes"] / v["sectors"], "0.8 x"
		printf f, "AES-XTS cipher, MB/s; peer OpenSSL by 512 bytes", v["cipher"], v["sectors"], v["cipher"] / v["sectors"], "1 x"
		printf f, "AES-XTS cipher, MB/s; peer openssl speed, 16 KiB", v["cipher"], v["speed"], v["cipher"] / v["speed"], ""
	}'
rm -f w.luks
