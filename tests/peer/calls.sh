# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Sourced after tests/peer/peer.sh by the tests that make the same calls to qemu-img and to a link of that
# name to platter, each in a folder of its own.

# q ARGUMENTS: one call; what it says goes to the log.  No stdin, as libvirt has it.
q() {
	printf '$ %s\n' "$*"
	"$QI" "$@" </dev/null >out 2>err
	printf 'status %d\n' $?
	sed -e 's/^/out: /' out
	sed -e 's/^/err: /' err
	rm -f out err
}

filter() {
	sed -E -e 's/disk size: .*/disk size: SIZE/' -e 's/"actual-size": [0-9]+/"actual-size": SIZE/' \
		-e "s#$SCRATCH/(a|b)/#/#g"
}

# call NAME FUNCTION: FUNCTION's calls, by each program in a folder of its own, where the files of
# prepare() lie.  One point for what is said, one for each image that has been made.
call() {
	local who file text

	for who in a b; do
		rm -rf "${SCRATCH:?}/$who"
		mkdir "$SCRATCH/$who"
		cp -a "$SCRATCH/given/." "$SCRATCH/$who"
		if [ $who = a ]; then QI=qemu-img; else QI=$QEMU_IMG_LINK; fi
		(cd "$SCRATCH/$who" && "$2") 2>&1 | filter >"$SCRATCH/$who.log"
	done
	is_output "$SCRATCH/b.log" "$SCRATCH/a.log" "$1: says the same"
	is "$(cd "$SCRATCH/b" && find . -type f | sort)" "$(cd "$SCRATCH/a" && find . -type f | sort)" "$1: makes the same files"
	for file in "$SCRATCH"/a/*; do
		file=${file##*/}
		[ -e "$SCRATCH/given/$file" ] && cmp -s "$SCRATCH/given/$file" "$SCRATCH/a/$file" &&
			cmp -s "$SCRATCH/given/$file" "$SCRATCH/b/$file" && continue
		text=$(same_image "$file" 2>&1)
		is "$text" '' "$1: $file is the same"
	done
}

# same_image FILE: how a/FILE and b/FILE differ.
same_image() {
	local a b

	a=$(qemu-img info --output=json "$SCRATCH/a/$1" | filter)
	b=$(qemu-img info --output=json "$SCRATCH/b/$1" | filter)
	[ "$a" = "$b" ] || printf 'info:\n%s\n%s\n' "$a" "$b"
	case $a in
	*'"format": "qcow2"'*)
		case $1 in
		*-preallocated) # where its tables lie is not agreed on
			cmp -n 40 "$SCRATCH/a/$1" "$SCRATCH/b/$1"
			cmp -i 60 -n 452 "$SCRATCH/a/$1" "$SCRATCH/b/$1"
			;;
		*) cmp -n 512 "$SCRATCH/a/$1" "$SCRATCH/b/$1" ;;
		esac
		(cd "$SCRATCH/b" && qemu-img check -q "$1")
		;;
	*'"format": "vpc"'*) ;; # its blocks are not all allocated by both
	*) [ "$(stat -c %s "$SCRATCH/a/$1")" = "$(stat -c %s "$SCRATCH/b/$1")" ] || echo 'lengths differ' ;;
	esac
	# (A data file is looked for in the current folder.)
	(cd "$SCRATCH/a" && qemu-img convert -O raw "$1" "$SCRATCH/a.raw")
	(cd "$SCRATCH/b" && qemu-img convert -O raw "$1" "$SCRATCH/b.raw")
	cmp "$SCRATCH/a.raw" "$SCRATCH/b.raw"
}
