#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# What thirty layers cost a reader, against the same disk in one image (there "peer" is ours too) and against qemu-img; one
# layer less; a folder of 500 images.
# shellcheck source=bench/lib.sh
. "$(dirname "$(readlink -f "$0")")/lib.sh"

MIB=512

# layers NAME COUNT: NAME.0 with data all over, each layer above it with 200 pieces of 64 KiB and 400 of 4 KiB
layers() {
	local i k below=

	[ -f "$1.$2" ] && return
	RANDOM=7
	for ((i = 0; i <= $2; i++)); do
		"$PLATTER" create -q -f qcow2 ${below:+-b "$below" -F qcow2} "$1.$i" ${MIB}M
		if [ "$i" = 0 ]; then
			echo "write -q -P 17 0 ${MIB}M"
		else
			for ((k = 0; k < 200; k++)); do
				echo "write -q -P $((i + k & 127 | 1)) $((RANDOM % (MIB * 16) * 65536)) 64k"
			done
			for ((k = 0; k < 400; k++)); do
				echo "write -q -P $((i + k & 127 | 1)) $((RANDOM % (MIB * 16) * 65536 + RANDOM % 16 * 4096)) 4k"
			done
		fi | "$PLATTER" io -f qcow2 "$1.$i" >/dev/null 2>&1
		below=$1.$i
	done
}

layers thirty 30
[ -f flat.qcow2 ] || "$PLATTER" convert -O qcow2 thirty.30 flat.qcow2
read_all="-c $((MIB * 16)) -s 65536 -d 16 -f qcow2"
read_small="-c 60000 -s 4096 -S 69632 -d 32 -f qcow2"
row "read 30 layers, 64 KiB (peer: ours, one image)" "$PLATTER bench $read_all thirty.30" "$PLATTER bench $read_all flat.qcow2" \
	'>= 0.67'
row "read 30 layers, 64 KiB" "$PLATTER bench $read_all thirty.30" "qemu-img bench $read_all thirty.30" '>= 1'
row "read 30 layers, 4 KiB apart (peer: ours, one image)" "$PLATTER bench $read_small thirty.30" \
	"$PLATTER bench $read_small flat.qcow2" '>= 0.67'
row "read 30 layers, 4 KiB apart" "$PLATTER bench $read_small thirty.30" "qemu-img bench $read_small thirty.30" '>= 1'
row "map of 30 layers" "$PLATTER map --output=json thirty.30" "qemu-img map --output=json thirty.30" -

layers ten 10
copies='rm -f w.*; for i in 0 1 2 3 4 5 6 7 8 9 10; do cp ten.$i w.$i; done
	for i in 1 2 3 4 5 6 7 8 9 10; do qemu-img rebase -u -b w.$((i - 1)) -F qcow2 w.$i; done'
row "coalesce of a layer (peer: rebase)" "$PLATTER chain coalesce -q --into child w.10 w.5" "qemu-img rebase -b w.4 -F qcow2 w.6" - \
	"$copies"
rm -f w.*

if [ ! -d folder ]; then
	mkdir folder
	for ((i = 0; i < 500; i++)); do
		"$PLATTER" create -q -f qcow2 ${below:+-u -b "$below" -F qcow2} folder/$i 1G
		below=$((RANDOM % (i + 1)))
	done
fi
row "chain of a folder with 500 images (peer: info of each)" "$PLATTER chain folder || [ \$? = 2 ]" \
	'for i in folder/*; do qemu-img info $i || exit; done' 'under 2 s'
