#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Includes follow the layers of docs/architecture.md: arrows point down only.
#
#	cli  fuse  serve                 include/platter.h, their own headers, and those headers of
#	                                 base/ that are header-only (checked.h, cleanup.h...): the
#	                                 programs link the public API and nothing else
#	convert  snapshot  repair        whole-image work; not one another
#	guestfs
#	block
#	formats                          registry.c alone names the drivers
#	raw qcow2 qcow vhd ... vmfs     the drivers: formats/, crypt/, io/, base/ and themselves; no
#	                                 other driver, no threads
#	crypt
#	io
#	base
#
# config.h belongs to no layer.  Tests and benchmarks may include anything.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"

drivers='raw|qcow2|qcow|vhd|luks|vmdk|vdi|vhdx|vmfs'

# The folders that a folder may include from, itself and the public header apart.
allowed() {
	case $1 in
	base) ;;
	io) echo 'base' ;;
	crypt) echo 'io|base' ;;
	formats) echo 'crypt|io|base' ;;
	block) echo 'formats|crypt|io|base' ;;
	guestfs) echo 'block|formats|crypt|io|base' ;;
	convert | snapshot | repair) echo 'guestfs|block|formats|crypt|io|base' ;;
	cli | fuse | serve) echo '-' ;;
	*) echo 'formats|crypt|io|base' ;; # a driver
	esac
}

# violations ROOT: one line each, "file: what".
violations() {
	local root=$1 file folder header from line folders

	IFS='|' read -r -a folders <<<"$drivers"
	(
		cd "$root" || exit
		find base io crypt formats block guestfs convert snapshot repair cli fuse serve \
			"${folders[@]}" -name '*.[ch]' 2>/dev/null | sort |
		while read -r file; do
			folder=${file%%/*}
			while read -r header; do
				from=${header%%/*}
				case $header in
				platter.h | config.h | "$folder"/*) continue ;;
				*/*) ;;
				*) echo "$file: \"$header\" is not a path from the root"; continue ;;
				esac
				if [[ $folder =~ ^(cli|fuse|serve)$ && $from = base &&
					! -e ${header%.h}.c ]]; then
					continue
				fi
				[ "$file" = formats/registry.c ] && [[ $from =~ ^($drivers)$ ]] && continue
				[[ $from =~ ^($(allowed "$folder"))$ ]] || echo "$file: includes $header"
			done < <(sed -nE 's/^[ \t]*#[ \t]*include[ \t]*"([^"]*)".*/\1/p' "$file")

			if [[ $folder =~ ^($drivers)$ ]]; then
				line=$(grep -nE '\b(pthread_create|thrd_create|fork|vfork|clone)[ \t]*\(' \
					"$file" | head -n 1)
				[ -z "$line" ] || echo "$file: a driver starts threads: $line"
				grep -qE '^[ \t]*#[ \t]*include[ \t]*"base/pool\.h"' "$file" &&
					echo "$file: a driver uses the pool"
			elif [ "$file" != formats/registry.c ]; then
				line=$(grep -noE "\b(plt_)?($drivers)_driver\b" "$file" | head -n 1)
				[ -z "$line" ] || echo "$file: names a driver: $line"
			fi
		done
	)
}

isnt "$(find "$srcdir/base" "$srcdir/io" -name '*.c' | wc -l)" 0 'there are sources to look at'
is "$(violations "$srcdir")" '' 'includes point down only'

# Each rule catches its breach, and lets pass what it should.
mkdir -p planted/{base,io,formats,block,convert,raw,qcow2,cli}
cd planted || exit 1
touch base/error.c
plant() {
	local file=$1

	shift
	printf '%s\n' '#include <stdio.h>' "$@" >"$file"
}
plant base/good.c '#include "base/good.h"' '#include "platter.h"'
plant io/good.c '#include "base/error.h"' '#include "io/store.h"'
plant qcow2/good.c '#include "formats/driver.h"' '#include "qcow2/ondisk.h"' '#include "io/store.h"'
plant block/good.c '#include "formats/driver.h"' '#include "base/pool.h"'
plant formats/registry.c '#include "qcow2/qcow2.h"' 'x = &plt_qcow2_driver;'
plant cli/good.c '#include "platter.h"' '#include "cli/text.h"' '#include "base/checked.h"'
is "$(violations .)" '' 'what the layers allow passes'

breach() {
	plant "$@"
	like "$(violations .)" "^$1: " "$1: $2"
	rm "$1"
}
breach base/bad.c '#include "io/store.h"'
breach io/bad.c '#include "formats/driver.h"'
breach formats/bad.c '#include "raw/raw.h"'
breach formats/bad.c '	&qcow2_driver,'
breach formats/bad.h '  #  include "block/engine.h"'
breach raw/bad.c '#include "qcow2/qcow2.h"'
breach raw/bad.c '#include "block/engine.h"'
breach raw/bad.c '#include "cli/text.h"'
breach raw/bad.c 'pthread_create(&t, NULL, f, NULL);'
breach raw/bad.c '#include "base/pool.h"'
breach block/bad.c '#include "convert/copy.h"'
breach block/bad.c '#include "qcow2/qcow2.h"'
breach convert/bad.c '#include "snapshot/chain.h"'
breach cli/bad.c '#include "formats/options.h"'
breach cli/bad.c '#include "base/error.h"'
breach io/bad.c '#include "store.h"'
done_testing
