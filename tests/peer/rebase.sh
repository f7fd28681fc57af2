#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# rebase between random chains, shorter, longer, of other clusters, with layers in common or none: the image shows the
# same to us and to qemu-img, and where both chains lead to the same layer it holds nothing more.  Then the same, killed
# at any moment; and with errors when the image is written.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img
. "$srcdir/tests/peer/peer.sh"

K=65536

fill() { # FILE MODEL COUNT [FORMAT]
	next_seed
	"$WRITER" -f "${4:-qcow2}" -m "$2" "$1" "random $3 $seed" || fail "write $1" "seed $seed"
}

make() { # FILE SIZE OPTIONS BASE FORMAT
	"$PLATTER" create -q -f qcow2 -o "$3" ${4:+-b "$4" -F "$5"} "$1" "$2" || fail "create $*"
}

# old.raw <- mid <- top, whose content is model.raw; and others to move it to.
chain() { # SIZE_OF_MID SIZE_OF_TOP OPTIONS
	rm -f ./*.raw mid top new fork flat
	truncate -s $((60 * K)) old.raw model.raw new.raw
	fill old.raw model.raw 20 raw
	make mid "$1" cluster_size=4k old.raw raw
	truncate -s "$1" model.raw
	cp model.raw fork.raw
	fill mid model.raw 20
	make fork "$1" cluster_size=64k old.raw raw
	fill fork fork.raw 10
	make top "$2" "$3" mid qcow2
	truncate -s "$2" model.raw
	fill top model.raw 20
	make new $((48 * K)) cluster_size=512
	cp --reflink=never old.raw flat
	"$WRITER" new 'random 30 '$seed >/dev/null
}

moved() { # TEXT
	local out

	out=$("$PLATTER" compare -f qcow2 -F raw top model.raw 2>&1) || { fail "$1" "seed $seed" "$out"; return; }
	out=$(qemu-img compare -f qcow2 -F raw top model.raw 2>&1) || { fail "$1: qemu-img" "seed $seed" "$out"; return; }
	# what was killed may have left clusters that nobody has
	out=$(qemu-img check -f qcow2 top 2>&1)
	case $? in 0 | "${2:-0}") pass "$1" ;; *) fail "$1: check" "seed $seed" "${out:0:500}" ;; esac
}

own() { # how many bytes the image holds itself
	"$PLATTER" map --output=json top | grep '"depth": 0, "present": true' | sed 's/.*length": \([0-9]*\).*/\1/' |
		paste -sd+ | bc
}

for way in "$((60 * K)) $((60 * K)) cluster_size=64k" "$((40 * K)) $((60 * K)) cluster_size=4k" \
	"$((80 * K)) $((70 * K)) extended_l2=on" "$((60 * K)) $((50 * K)) compat=0.10" \
	"$((60 * K)) $((60 * K)) cluster_size=2M" "$((60 * K)) $((60 * K)) cluster_size=512"; do
	read -r -a w <<<"$way"
	for to in 'old.raw raw' 'flat raw' 'fork qcow2' 'new qcow2' 'mid qcow2' ''; do
		sampled || continue
		read -r -a n <<<"$to"
		chain "${w[@]}"
		before=$(own)
		ok "$way: to ${n[0]:-nothing}" "$PLATTER" rebase -f qcow2 -b "${n[0]:-}" ${n[1]:+-F ${n[1]}} top
		moved '  it shows the same'
		[ "${n[0]:-}" != mid ] || is "$(own)" "$before" '  nothing had to be copied'
	done
done

# Only what differs is read and copied: one cluster of the layer that goes.
rm -f ./*.raw mid top
truncate -s $((60 * K)) old.raw
make mid $((60 * K)) cluster_size=64k old.raw raw
"$WRITER" mid "write 1 $((5 * K)) 512" "zero $((7 * K)) $K" >/dev/null
make top $((60 * K)) cluster_size=64k mid qcow2
qemu-img convert -O raw top model.raw
ok 'one cluster differs' "$PLATTER" rebase -b old.raw -F raw top
is "$(own)" $K '  one cluster is copied'
moved '  it shows the same'

# VHD: the parent's id, time and names; without a parent an image that QEMU reads, too.
vhd_chain() {
	rm -f ./*.raw v.* flat
	"$PLATTER" create -q -f vpc -o force_size=on v.base 8M
	truncate -s 8M model.raw
	fill v.base model.raw 20 vpc
	"$PLATTER" create -q -f vpc -b v.base -F vpc v.mid
	fill v.mid model.raw 20 vpc
	"$PLATTER" create -q -f vpc -b v.mid -F vpc v.top
	fill v.top model.raw 20 vpc
	"$PLATTER" create -q -f vpc -o force_size=on v.other 8M
	"$WRITER" -f vpc v.other "random 20 $seed"
	"$PLATTER" convert -f vpc -O raw v.base flat
}

vhd_moved() { # TEXT
	if "$PLATTER" compare -q -f vpc -F raw v.top model.raw && "$PLATTER" check -q -f vpc v.top; then
		pass "$1"
	else
		fail "$1" "seed $seed"
	fi
}

for to in 'v.base vpc' 'v.other vpc' 'flat raw' ''; do
	read -r -a n <<<"$to"
	vhd_chain
	ok "vhd: to ${n[0]:-nothing}" "$PLATTER" rebase -f vpc -b "${n[0]:-}" ${n[1]:+-F ${n[1]}} v.top
	vhd_moved '  it shows the same'
	is "$("$PLATTER" chain --output=json v.top | sed -n 's/.*"full-backing-filename": "\(.*\)",/\1/p' | head -1)" "${n[0]:-}" \
		'  on the new one'
	mkdir moved
	mv v.* flat moved
	"$PLATTER" compare -q -f vpc -F raw moved/v.top model.raw && pass '  also in another folder' || fail '  also in another folder'
	mv moved/* .
	rmdir moved
done
ok '  and qemu-img reads it' qemu-img compare -q -f vpc -F raw v.top model.raw
vhd_chain
for i in 1 2 3 4 5; do
	to=$([ $((i % 2)) = 0 ] && echo v.base || echo v.other)
	"$PLATTER" rebase -q -f vpc -b "$to" -F vpc v.top >/dev/null 2>&1 &
	sleep "0.0$((RANDOM % 40 + 10))"
	kill -9 $! 2>/dev/null
	wait $! 2>/dev/null
	"$PLATTER" compare -q -f vpc -F raw v.top model.raw && pass "vhd: killed, $i" || fail "vhd: killed, $i" "seed $seed"
done
ok 'vhd: once more' "$PLATTER" rebase -f vpc -b v.other -F vpc v.top
vhd_moved '  it shows the same'
cp v.top before
fails 1 'vhd: a qcow2 as its parent' "$PLATTER" rebase -f vpc -b mid -F qcow2 v.top
fails 1 'vhd: none, without copying' "$PLATTER" rebase -u -f vpc -b '' v.top
is_file_equal v.top before '  nothing is changed'
mv v.other v.renamed
ok 'vhd: only its name' "$PLATTER" rebase -u -f vpc -b v.renamed -F vpc v.top
vhd_moved '  it shows the same'

# Killed.
chain $((60 * K)) $((60 * K)) cluster_size=4k
"$WRITER" -f raw -m new.raw new.raw 'random 60 77'
for i in 1 2 3 4 5 6; do
	"$PLATTER" rebase -q -b flat -F raw top >/dev/null 2>&1 &
	sleep "0.0$((RANDOM % 90 + 10))"
	kill -9 $! 2>/dev/null
	wait $! 2>/dev/null
	if "$PLATTER" compare -q -f qcow2 -F raw top model.raw; then
		pass "killed, $i"
	else
		fail "killed, $i" "seed $seed"
	fi
	[ "$i" = 3 ] && chain $((60 * K)) $((60 * K)) cluster_size=512
done
ok 'once more' "$PLATTER" rebase -b flat -F raw top
moved '  it shows the same' 3

# Errors above.
for event in flush_to_disk write_aio l2_update; do
	chain $((60 * K)) $((60 * K)) cluster_size=4k
	printf '[inject-error]\nevent = "%s"\nerrno = "5"\nonce = "off"\n' $event >rules
	fails 1 "$event fails" "$PLATTER" rebase -b flat -F raw "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"blkdebug\",
		\"config\":\"rules\",\"image\":{\"driver\":\"file\",\"filename\":\"$PWD/top\"}}}"
	like "$("$PLATTER" info top)" 'backing file: mid' '  the old one is recorded'
	ok '  and the image shows the same' "$PLATTER" compare -q -f qcow2 -F raw top model.raw
done
done_testing
