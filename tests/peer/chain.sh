#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# chain flatten and coalesce on random chains of raw, qcow2 and VHD: each layer in both directions, what the image shows
# stays, to us and to qemu-img, and who else stands on the layers sees what it saw.  What would cost somebody something is
# refused and changes nothing.  Then the same, killed at any moment.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img
. "$srcdir/tests/peer/peer.sh"

M=1048576

make() { # FORMAT FILE SIZE [BASE BASE_FORMAT OPTIONS]
	"$PLATTER" create -q -f "$1" ${6:+-o "$6"} ${4:+-b "$4" -F "${5/vhd/vpc}"} "$2" "$3" || fail "create $*"
}

fill() { # FORMAT FILE MODEL COUNT
	next_seed
	"$WRITER" -f "$1" -m "$3" "$2" "random $4 $seed" || fail "write $2" "seed $seed"
}

# chain SIZES FORMAT...: l0 at the bottom; top is the last; model.raw what it shows.
chain() {
	local sizes=$1 i=0 format below= below_format= size

	shift
	rm -f l? top model.raw other was
	for format; do
		size=$(cut -d, -f$((i + 1)) <<<"$sizes")
		name=l$i
		[ $((i + 1)) = $# ] && name=top
		case $format in
		vhd) make vhd $name "$size" "$below" "$below_format" "$([ "$below" ] || echo force_size=on)" ;;
		qcow2) make qcow2 $name "$size" "$below" "$below_format" "cluster_size=$((RANDOM % 2 ? 4096 : 65536))" ;;
		*) make raw $name "$size" ;;
		esac
		truncate -s "$size" model.raw
		fill "$format" $name model.raw 12
		below=$name
		below_format=$format
		i=$((i + 1))
	done
	top_format=$format
}

same() { # TEXT
	local out

	out=$("$PLATTER" compare -q -f "$top_format" -F raw top model.raw 2>&1) || { fail "$1" "seed $seed" "$out"; return; }
	if [ "$qemu_reads" = 1 ]; then
		out=$(qemu-img compare -f qcow2 -F raw top model.raw 2>&1) || { fail "$1: qemu-img" "seed $seed" "$out"; return; }
	fi
	pass "$1"
}

sound() { # FILE...
	local file out

	for file; do
		[ "$("$PLATTER" info --output=json "$file" | sed -n 's/.*"format": "\(.*\)".*/\1/p' | tail -1)" = raw ] && continue
		out=$("$PLATTER" check "$file" 2>&1) || { fail "  $file is sound" "seed $seed" "${out:0:400}"; return; }
	done
	pass '  and is sound'
}

# Each layer, each way.
for way in "$((4 * M)),$((4 * M)),$((4 * M)),$((4 * M)) raw qcow2 qcow2 qcow2" \
	"$((3 * M)),$((5 * M)),$((2 * M)),$((4 * M)) qcow2 qcow2 qcow2 qcow2" \
	"$((8 * M)),$((8 * M)),$((8 * M)),$((8 * M)) vhd vhd vhd vhd" \
	"$((8 * M)),$((8 * M)),$((8 * M)),$((9 * M)) raw vhd vhd qcow2"; do
	read -r -a w <<<"$way"
	qemu_reads=1
	[[ $way == *vhd* ]] && qemu_reads=0
	for layer in 2 1 0; do
		for into in parent child; do
			[ "$layer$into" = 0parent ] && continue
			sampled || continue
			chain "${w[@]}"
			text="${w[*]:1}: layer $layer into its $into"
			d=$((RANDOM % 2))
			rm -rf kept
			mkdir kept
			cp l? kept
			ok "$text" "$PLATTER" chain coalesce $([ $d = 1 ] && echo -d) --into $into -f "$top_format" top l$layer
			same '  the image shows the same'
			sound ./l? top
			is "$("$PLATTER" chain --output=json top | grep -c '"filename"')" 3 '  one layer less'
			changed=
			for f in l?; do
				# (who records when its parent was written is told)
				[ $f = l$((layer + 2)) ] && [[ $way == *vhd* ]] || cmp -s $f kept/$f || changed+=" $f"
			done
			child=$([ $layer = 2 ] || echo " l$((layer + 1))")
			if [ $into = child ]; then
				is "$changed" "$child" '  only the child is written'
			else
				is "$changed" " l$((layer - 1))$child" '  the parent is written, and the child'
				mv kept/l$layer was # (which stands on l0...l3 of this folder)
				"$PLATTER" compare -q l$((layer - 1)) was >/dev/null || [[ $way == *,5242880,* ]] ||
					fail '  the parent has what the layer had'
				rm was
			fi
			is "$([ -e l$layer ] && echo 1)$d" "$([ $d = 0 ] && echo 1)$d" '  its file is deleted only if asked'
		done
	done
	sampled || continue
	chain "${w[@]}"
	ok "${w[*]:1}: flattened" "$PLATTER" chain flatten -f "$top_format" top
	rm l?
	same '  the image shows the same, alone'
	sound top
	ok '  again: nothing to do' "$PLATTER" chain flatten -f "$top_format" top
	# without backing files QEMU reads a VHD, too
	ok '  qemu-img sees it' qemu-img compare -q -f "${top_format/vhd/vpc}" -F raw top model.raw
done

# A long chain becomes one of two.
qemu_reads=1
chain "$(yes $M | head -12 | paste -sd,)" raw qcow2 qcow2 qcow2 qcow2 qcow2 qcow2 qcow2 qcow2 qcow2 2>/dev/null
before=$("$PLATTER" chain verify top | head -1)
ok 'all but one at once' "$PLATTER" chain coalesce -d top l1 l2 l3 l4 l5 l6 l7 l8
same '  the image shows the same'
is "$("$PLATTER" chain verify top | head -1)" "$before" '  by its digest'
is "$("$PLATTER" chain --output=json top | grep -c '"filename"')" 2 '  two are left'
ok '  and they are sound' "$PLATTER" chain top

# What is refused, and changes nothing.
refused() { # TEXT PATTERN ARGUMENT...
	local text=$1 want=$2 out

	shift 2
	rm -rf kept
	mkdir kept
	cp -a --reflink=auto l? top kept
	out=$("$PLATTER" chain "$@" 2>&1)
	is "$?" 1 "$text"
	like "$out" "$want" '  says why'
	for f in kept/*; do
		cmp -s "$f" "${f#kept/}" || fail "  ${f#kept/} was changed"
	done
}
chain $((8 * M)),$((8 * M)),$((8 * M)),$((8 * M)) raw qcow2 qcow2 qcow2
make qcow2 other 8M l0 raw
refused 'another image stands on the parent' "other' depends on './l0' too" coalesce --into parent top l1
is "$("$PLATTER" chain coalesce --dry-run top l1 | grep -c child)" 1 '  unasked it is merged into the child'
mkdir elsewhere
mv other elsewhere
"$PLATTER" rebase -u -b ../l0 -F raw elsewhere/other
refused '  in a folder that is named' 'elsewhere/*other. depends on' coalesce --into parent --search elsewhere top l1
make qcow2 other 8M l1 qcow2
refused 'another image stands on the layer, which is to go' "depends on it too" coalesce -d top l1
rm other
printf 'QFI\373\0\0\0\003' >broken
refused 'an image that cannot be opened may stand on it' "'[^']*broken', which cannot be opened" coalesce -d top l1
rm broken
refused 'the active layer' 'active layer' coalesce top top
refused 'no layer of the chain' 'Did not find' coalesce top nothere
refused 'the last one, downwards' 'no backing file that it could be merged into' coalesce --into parent top l0
"$PLATTER" snapshot -c s1 l2
refused 'an internal snapshot of the child' "internal snapshot 's1' reads from" coalesce --into child top l1
is "$("$PLATTER" chain coalesce --dry-run top l1 | grep -c 'its parent')" 1 '  unasked the other way'
refused 'an internal snapshot of a layer that is to go' 'not deleted' coalesce -d top l2
refused 'an internal snapshot that would change' 'would change' coalesce --into parent top l2
"$PLATTER" snapshot -c s1 top
refused 'an internal snapshot of what is flattened' "internal snapshot 's1' reads from" flatten top
chain $M,$M,$M,$M raw qcow2 qcow2 qcow2
"$PLATTER" bitmap --add l1 b0
refused 'a bitmap of a layer that is to go' "bitmap 'b0'" coalesce -d top l1
hold qemu-io -f qcow2 top
refused 'somebody has the child' 'lock' coalesce --into parent top l2
let_go

# Bitmaps of who is written stay what they are.
chain $M,$M,$M,$M raw qcow2 qcow2 qcow2
"$PLATTER" bitmap --add top b0
"$WRITER" -f qcow2 -m model.raw top 'write 7 131072 4096'
if command -v qemu-nbd >/dev/null && command -v nbdinfo >/dev/null; then
	before=$(dirty top b0)
	isnt "$before" '' 'a bitmap has something'
	"$PLATTER" chain coalesce -q --into child top l2
	is "$(dirty top b0)" "$before" '  a merge records nothing'
	"$PLATTER" chain flatten -q top
	is "$(dirty top b0)" "$before" '  nor does flatten'
	same '  the image shows the same'
else
	skip 'what a bitmap records' 'qemu-nbd or nbdinfo is not installed'
fi

# Killed.
for way in "raw qcow2 qcow2 qcow2" "vhd vhd vhd vhd"; do
	read -r -a w <<<"$way"
	qemu_reads=1
	[[ $way == *vhd* ]] && qemu_reads=0
	for into in parent child flatten; do
		sampled || continue
		chain $((8 * M)),$((8 * M)),$((8 * M)),$((8 * M)) "${w[@]}"
		[ "$top_format" = qcow2 ] && "$PLATTER" bitmap --add top b0
		command=(coalesce -q --into $into -f "$top_format" top l2)
		[ $into = flatten ] && command=(flatten -q -f "$top_format" top)
		for i in 1 2 3 4 5; do
			"$PLATTER" chain "${command[@]}" >/dev/null 2>&1 &
			sleep "0.0$((RANDOM % 60 + 10))"
			kill -9 $! 2>/dev/null
			wait $! 2>/dev/null
			"$PLATTER" compare -q -f "$top_format" -F raw top model.raw && pass "$way, $into: killed, $i" ||
				fail "$way, $into: killed, $i" "seed $seed"
		done
		"$PLATTER" chain "${command[@]}" >out 2>&1 || grep -q 'Did not find' out || fail '  once more' "$(cat out)"
		same '  once more, and it shows the same'
		[ "$top_format" = qcow2 ] && unlike "$(qemu-img info top)" 'in-use' '  its bitmap is in order'
	done
done
done_testing
