#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# commit into every kind of base, from every kind of overlay, at every depth: what the disk shows stays what it was,
# qemu-img reads it in the base, and the overlay is empty or as it was.  Then the same, killed at any moment; and with
# errors in the base, which must keep the overlay as it is.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img
. "$srcdir/tests/peer/peer.sh"

make() { # FORMAT FILE SIZE [BASE BASE_FORMAT]
	"$PLATTER" create -q -f "$1" ${4:+-b "$4" -F "${5/vhd/vpc}"} "$2" "$3" || fail "create $*"
}

fill() { # FORMAT FILE MODEL COUNT
	next_seed
	"$WRITER" -f "$1" -m "$3" "$2" "random $4 $seed" || fail "write $2" "seed $seed"
}

# chain BASE_FORMAT MID_FORMAT TOP_FORMAT SIZES...: model.raw is what top shows.
chain() {
	rm -f base mid top model.raw
	case $1 in
	fixed) make vhd base "$4" && rm base && "$PLATTER" create -q -f vhd -o subformat=fixed base "$4" ;;
	*) make "$1" base "$4" ;;
	esac
	local base=${1/fixed/vhd}
	truncate -s "$("$PLATTER" info -f "$base" --output=json base | grep '"virtual-size"' | tail -1 | tr -dc 0-9)" model.raw
	fill "$base" base model.raw 30
	make "$2" mid "$5" base "$base"
	truncate -s "$("$PLATTER" info -f "$2" --output=json mid | grep '"virtual-size"' | tail -1 | tr -dc 0-9)" model.raw
	fill "$2" mid model.raw 30
	make "$3" top "$6" mid "$2"
	truncate -s "$("$PLATTER" info -f "$3" --output=json top | grep '"virtual-size"' | tail -1 | tr -dc 0-9)" model.raw
	fill "$3" top model.raw 30
}

same() { # FORMAT FILE TEXT: platter sees the model in it
	local out

	out=$("$PLATTER" compare -f "$1" -F raw "$2" model.raw 2>&1) && pass "$3" || fail "$3" "seed $seed" "$out"
}

theirs() { # FORMAT FILE TEXT: so does qemu-img, where it can
	local out

	out=$(qemu-img compare -f "${1/vhd/vpc}" -F raw "$2" model.raw 2>&1) && pass "$3" || fail "$3" "seed $seed" "$out"
}

sound() { # FORMAT FILE
	[ "$1" = raw ] || ok "  $2 is sound" "$PLATTER" check -q -f "$1" "$2"
}

M=1048576
for way in "raw qcow2 qcow2 $((4 * M)) $((4 * M)) $((4 * M))" "qcow2 qcow2 qcow2 $((3 * M)) $((4 * M)) $((5 * M))" \
	"raw qcow2 qcow2 $((5 * M)) $((3 * M)) $((4 * M))" "vhd qcow2 qcow2 $((4 * M)) $((4 * M)) $((6 * M))" \
	"fixed vhd qcow2 $((4 * M)) $((4 * M)) $((4 * M))" "vhd vhd vhd $((8 * M)) $((8 * M)) $((8 * M))" \
	"raw vhd vhd $((8 * M)) $((8 * M)) $((8 * M))"; do
	sampled || continue
	read -r -a w <<<"$way"
	text="${w[*]:0:3}"
	chain "${w[@]}"
	same "${w[2]}" top "$text: made"
	ok "$text: into the next" "$PLATTER" commit -f "${w[2]}" top
	same "${w[2]}" top '  it shows the same'
	sound "${w[1]}" mid
	sound "${w[2]}" top
	is "$("$PLATTER" map -f "${w[2]}" --output=json top | grep -c '"depth": 0.*"data": true')" 0 '  and is empty'
	same "${w[1]}" mid '  it is there'
	[ "${w[1]}" = vhd ] || theirs "${w[1]}" mid '  qemu-img finds it there'
	fill "${w[2]}" top model.raw 20
	cp top before
	base=${w[0]/fixed/vhd}
	ok "$text: into the last" "$PLATTER" commit -f "${w[2]}" -b base top
	is_file_equal top before '  it is as it was'
	sound "$base" base
	# (a base that is longer keeps what it has behind the disk's end)
	size=$(stat -c %s model.raw)
	"$PLATTER" convert -f "$base" -O raw base got.raw
	is "$(cmp -n "$size" got.raw model.raw 2>&1)" '' '  it is there'
	qemu-img convert -f "${base/vhd/vpc}" -O raw base got.raw 2>/dev/null
	is "$(cmp -n "$size" got.raw model.raw 2>&1)" '' '  qemu-img finds it there'
done

# Killed.
for way in "raw qcow2 qcow2" "raw vhd vhd"; do
	read -r -a w <<<"$way"
	chain "${w[@]}" $((8 * M)) $((8 * M)) $((8 * M))
	for i in 1 2 3 4; do
		"$PLATTER" commit -q -r 20M -f "${w[2]}" top >/dev/null 2>&1 &
		sleep "0.$((RANDOM % 30 + 10))"
		kill -9 $! 2>/dev/null
		wait $! 2>/dev/null
		same "${w[2]}" top "$way: killed, $i: it shows the same"
		[ "$i" = 3 ] && fill "${w[2]}" top model.raw 10
	done
	ok "$way: once more" "$PLATTER" commit -f "${w[2]}" top
	same "${w[1]}" mid '  it is there'
	same "${w[2]}" top '  it shows the same'
done

# Errors below.
for event in flush_to_disk write_aio l2_update; do
	chain raw qcow2 qcow2 $((4 * M)) $((4 * M)) $((4 * M))
	cp top before
	cp mid mid.before
	printf '[inject-error]\nevent = "%s"\nerrno = "5"\nonce = "off"\n' $event >rules
	fails 1 "$event fails in the base" "$PLATTER" commit "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",
		\"filename\":\"top\"},\"backing\":{\"driver\":\"qcow2\",\"file\":{\"driver\":\"blkdebug\",\"config\":\"rules\",
		\"image\":{\"driver\":\"file\",\"filename\":\"mid\"}}}}"
	is_file_equal top before '  the overlay is as it was'
	same qcow2 top '  and shows the same'
	ok '  once more' "$PLATTER" commit -f qcow2 top
	same qcow2 mid '  and it is there'
done
done_testing
