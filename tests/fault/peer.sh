#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# The other side of the power cuts: what qemu-img and qemu-io make of a sample of the states.  They must
# find leaks at most, or clusters counted once that are not marked so (an image that is marked dirty may
# have its counts behind until they have repaired it), and read what platter reads.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io python3
dump=$builddir/tests/fault/dump-states
[ -x "$dump" ] || skip_all 'dump-states was not built (no Check library)'

# allowed JSON LOG: is that all that a cut may leave?
allowed() {
	python3 - "$1" "$2" <<'EOF'
import json, sys
wrong = json.load(open(sys.argv[1])).get('corruptions', 0)
for line in open(sys.argv[2]):
    if 'OFLAG_COPIED' in line and line.rstrip().endswith('refcount=1'):
        wrong -= 1
sys.exit(wrong != 0)
EOF
}

dirty() {
	[ $(($(od -An -tu1 -j79 -N1 "$1") & 1)) -eq 1 ]
}

# look SCENARIO COUNT [RULES-OFF]: sets n, bad_check and bad_read.
look() {
	local scenario=$1 count=$2 i image

	bad_check='' bad_read='' n=0
	rm -rf states
	mkdir states
	if ! "$dump" "$scenario" "${PLT_SEED:-1}" "$count" states "${3:-0}" >dump.log 2>&1; then
		fail "$scenario: states are made" "$(cat dump.log)"
		return
	fi
	for ((i = 0; i < count; i++)); do
		image=states/$i.qcow2
		[ -e "$image" ] || break
		n=$((n + 1))
		if dirty "$image"; then
			qemu-img check -q -r all -f qcow2 "$image" >repair.log 2>&1
		fi
		qemu-img check --output=json -f qcow2 "$image" >check.json 2>check.log
		qemu-img check -f qcow2 "$image" >check.log 2>&1
		allowed check.json check.log || bad_check="$bad_check$(cat check.log)"$'\n'
		qemu-img compare -q -f qcow2 -F raw "$image" "states/$i.raw" >compare.log 2>&1 ||
			bad_read="$bad_read$image: $(cat compare.log)"$'\n'
		# writing to it finds nothing to complain of either
		qemu-io -f qcow2 -c 'write -q -P 5 0 4096' -c 'read -q -P 5 0 4096' "$image" >io.log 2>&1
		[ -s io.log ] && bad_read="$bad_read$image: $(cat io.log)"$'\n'
	done
}

# states SCENARIO COUNT
states() {
	local scenario=$1

	look "$@"
	is "$bad_check" '' "$scenario: qemu-img check finds nothing that may not be in $n states"
	is "$bad_read" '' "$scenario: qemu-img and qemu-io read the same in $n states, and write"
}

states 'refcount table' 6
states 'reuse without backing' 16
states 'version 2' 12
states 'preallocated' 12
states 'compressed, one bit' 12
states 'compressed tail' 12
states 'shared' 16
states 'lazy, small blocks' 20
states 'bitmap' 12
states 'random, 64-bit counts' 16

# Without the rule that a count is lowered only when the removal is durable (bit 6).
look 'reuse without backing' 40 64
isnt "$bad_check" '' 'qemu-img check would find a state that breaks a rule'
done_testing
