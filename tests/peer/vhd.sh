#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# VHD against qemu-img and qemu-io, and libvhdi where it is installed: new images are the same bytes but
# for what is random; each reads what the other wrote, turn by turn, also after a resize; conversion both
# ways; chains of differencing disks, which of these only libvhdi knows.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io
. "$srcdir/tests/peer/peer.sh"

VHDI=
for python in python3 /usr/bin/python3; do
	"$python" "$srcdir/tests/peer/vhdi.py" - >/dev/null 2>&1 && VHDI=$python
done
[ -n "$VHDI" ] || skip 'libvhdi reads what platter writes' 'its Python module is not installed'

# both_read FILE MODEL DESCRIPTION: one point; our check has nothing to say either
both_read() {
	local out

	out=$(qemu-img compare -f vpc -F raw "$1" "$2" 2>&1) || { fail "$3" "qemu-img: $out" "seed $seed"; return; }
	out=$("$PLATTER" compare -f vpc -F raw "$1" "$2" 2>&1) || { fail "$3" "platter: $out" "seed $seed"; return; }
	out=$("$PLATTER" check -f vpc "$1" 2>&1) || { fail "$3" "platter check"; return; }
	case $out in 'No errors were found on the image.'*) ;; *) fail "$3" "check: $out" "seed $seed"; return ;; esac
	pass "$3"
}

# vhdi FILE MODEL DESCRIPTION
vhdi() {
	[ -n "$VHDI" ] || return 0
	"$VHDI" "$srcdir/tests/peer/vhdi.py" v.raw "$1" || fail "$3: libvhdi"
	is_file_equal v.raw "$2" "$3: libvhdi"
}

vhd_by_them() {
	qemu-io -t unsafe -f vpc "$1" <"$2" >io.log 2>&1
	! grep -iE '^(qemu-io: |.*(failed|error|invalid|not aligned|nrecognized|command not found))' io.log
}

# Without time, checksum and identity, at both ends.
masked() {
	local end

	end=$(($(stat -c %s "$1") - 512))
	cp --sparse=always "$1" masked.tmp
	for at in 0 $end; do
		[ "$(dd if="$1" bs=1 skip=$at count=8 status=none | tr -d '\0')" = conectix ] || continue
		dd if=/dev/zero of=masked.tmp bs=1 seek=$((at + 24)) count=4 conv=notrunc status=none
		dd if=/dev/zero of=masked.tmp bs=1 seek=$((at + 64)) count=20 conv=notrunc status=none
	done
	mv masked.tmp "$2"
}

# ---- new images ----------------------------------------------------------------------------------

for options in subformat=dynamic subformat=fixed subformat=dynamic,force_size subformat=fixed,force_size; do
	for size in 512 34816 35328 1M 1049088 5M 100M 130G 2040G 2041G; do
		sampled || continue
		case $options:$size in *fixed*:*G) continue ;; esac
		rm -f p.vhd q.vhd
		p=$("$PLATTER" create -f vpc -o $options p.vhd $size 2>&1)
		is "$?" "$(qemu-img create -f vpc -o $options q.vhd $size >q.out 2>&1; echo $?)" "create $options $size"
		p=${p//platter:/qemu-img:}
		is "${p//p.vhd/q.vhd}" "$(cat q.out)" "create $options $size: what is said"
		[ -e q.vhd ] && [ -e p.vhd ] || continue
		masked p.vhd p.masked
		masked q.vhd q.masked
		is_file_equal p.masked q.masked "create $options $size: the same bytes"
		is "$("$PLATTER" info -f vpc p.vhd | grep 'virtual size')" "$(qemu-img info -f vpc q.vhd | grep 'virtual size')" \
			"create $options $size: the size"
	done
done

# ---- turns ---------------------------------------------------------------------------------------

turns() {
	local options=$1 size=$2 who text="${1:-defaults} $2"

	for who in us them; do
		case $who:$options in them:*block_size* | them:*azure*) continue ;; esac
		rm -f t.vhd m.raw
		case $who in
		us) "$PLATTER" create -q -f vpc ${options:+-o "$options"} t.vhd "$size" ;;
		them) qemu-img create -q -f vpc ${options:+-o "$options"} t.vhd "$size" ;;
		esac || { fail "$text: create by $who"; continue; }
		qemu-img convert -f vpc -O raw t.vhd m.raw
		next_seed
		"$WRITER" -f vpc -m m.raw t.vhd "random 60 $seed" || fail "$text: our turn" "seed $seed"
		both_read t.vhd m.raw "$text: made by $who, our turn"
		vhdi t.vhd m.raw "$text: made by $who, our turn"
		next_seed
		"$WRITER" -f vpc -q t.vhd "random 60 $seed" | grep -vE 'discard|write -c' >steps
		vhd_by_them t.vhd steps || fail "$text: their turn" "seed $seed"
		qemu-img convert -f vpc -O raw t.vhd m.raw
		both_read t.vhd m.raw "$text: made by $who, their turn"
		next_seed
		"$WRITER" -f vpc -m m.raw t.vhd "random 60 $seed" || fail "$text: our second turn" "seed $seed"
		both_read t.vhd m.raw "$text: made by $who, our second turn"
		# larger, twice beyond what the table has room for, and smaller: they open it, and go on
		for to in $((size * 3 / 512 * 512)) $((300 << 20)) $((size / 1024 * 512)); do
			"$PLATTER" resize -q -f vpc --shrink t.vhd $to || fail "$text: resize to $to"
			truncate -s $to m.raw
			both_read t.vhd m.raw "$text: made by $who, resized to $to"
			next_seed
			"$WRITER" -f vpc -q t.vhd "random 10 $seed" | grep -vE 'discard|write -c' >steps
			vhd_by_them t.vhd steps || fail "$text: their turn after a resize" "seed $seed"
			qemu-img convert -f vpc -O raw t.vhd m.raw
			is "$(stat -c %s m.raw)" $to "$text: made by $who, they know the size $to"
			both_read t.vhd m.raw "$text: made by $who, resized to $to, their turn"
		done
	done
}

turns '' $(((5 << 20) + 77 * 512))
turns force_size $(((9 << 20) + 512))
turns force_size,block_size=512k $((5 << 20))
turns force_size,block_size=64k $((1 << 20))
turns subformat=fixed $((3 << 20))
turns subformat=fixed,force_size $(((3 << 20) + 512))
turns azure $(((3 << 20) + 512))
is $(($(stat -c %s t.vhd) % 512)) 0 'a footer is a whole sector'

# ---- by script -----------------------------------------------------------------------------------

# The same steps by both programs make the same disk; and shuffled, ours makes what the model has.
rm -f p.vhd q.vhd
"$PLATTER" create -q -f vpc -o force_size p.vhd 12M
qemu-img create -q -f vpc -o force_size q.vhd 12M
next_seed
"$WRITER" -f vpc -q p.vhd "random 80 $seed" | grep -vE 'discard|write -c' >steps
vhd_by_them q.vhd steps || fail 'their steps'
ok 'the same steps by platter io' "$PLATTER" io -f vpc p.vhd <steps
ok 'and the same disk' qemu-img compare -f vpc -F vpc p.vhd q.vhd
for i in $(seq 0 47); do
	printf 'aio_write -P %d %dk 200k\n' $((i + 1)) $((i * 256))
done | shuf --random-source="$PLATTER" >steps
echo aio_flush >>steps
rm -f p.vhd
"$PLATTER" create -q -f vpc -o force_size p.vhd 12M
ok 'shuffled, at once' "$PLATTER" io -f vpc p.vhd <steps
for i in $(seq 0 47); do
	printf 'read -P %d %dk 200k\nread -P 0 %dk 56k\n' $((i + 1)) $((i * 256)) $((i * 256 + 200))
done >steps
unlike "$(qemu-io -f vpc -r p.vhd <steps 2>&1)" 'verification failed|rror' 'and qemu-io finds all of it'

# ---- conversion ----------------------------------------------------------------------------------

truncate -s 7340544 data.raw
seq 1 40000 | dd of=data.raw conv=notrunc bs=512 seek=77 status=none
head -c 90000 "$PLATTER" | dd of=data.raw conv=notrunc bs=512 seek=9500 status=none
for options in force_size force_size,subformat=fixed; do
	rm -f p.vhd q.vhd
	"$PLATTER" convert -f raw -O vpc -o $options data.raw p.vhd
	both_read p.vhd data.raw "converted by us, $options"
	vhdi p.vhd data.raw "converted by us, $options"
	qemu-img convert -f raw -O vpc -o $options data.raw q.vhd
	both_read q.vhd data.raw "converted by them, $options"
	"$PLATTER" convert -f vpc -O qcow2 q.vhd x.qcow2
	ok "vhd to qcow2, $options" qemu-img compare -f raw -F qcow2 data.raw x.qcow2
	"$PLATTER" convert -f qcow2 -O vpc -o $options x.qcow2 p.vhd
	both_read p.vhd data.raw "and back, $options"
	is "$("$PLATTER" measure -O vpc -o $options -f raw data.raw 2>&1)" "$(qemu-img measure -O vpc -o $options -f raw data.raw \
		2>&1 | sed 's/^qemu-img:/platter:/')" "measure, $options"
done
"$PLATTER" convert -f raw -O vpc data.raw p.vhd
qemu-img convert -f raw -O vpc data.raw q.vhd
ok 'rounded up to a geometry by both alike' qemu-img compare -s -f vpc -F vpc p.vhd q.vhd
"$PLATTER" convert -f raw -O vpc -o azure data.raw p.vhd
is "$(stat -c %s p.vhd)" $(((8 << 20) + 512)) 'azure: a whole number of MiB, and a footer'
is "$(qemu-img info --output=json -f vpc p.vhd | grep -o '"virtual-size": [0-9]*')" '"virtual-size": 8388608' \
	'azure: qemu-img knows the size'

# 2040 GiB with a little in it: in the time of that little.
"$PLATTER" create -q -f vpc -o force_size huge.vhd 2040G
"$PLATTER" io -c 'write -P 7 0 1M' -c 'write -P 8 1999G 3M' huge.vhd >/dev/null
start=$(date +%s%N)
ok 'a disk of 2040 GiB converts' "$PLATTER" convert -O qcow2 huge.vhd huge.qcow2
is "$("$PLATTER" map --output=json huge.vhd | grep -c '"data": true')" 3 'and has the map of its three blocks'
took=$((($(date +%s%N) - start) / 1000000))
[ "$SANITIZER" = 1 ] || is "$((took < 5000))" 1 "in $took ms"
unlike "$(qemu-io -r -f qcow2 -c 'read -P 7 0 1M' -c 'read -P 8 1999G 3M' huge.qcow2 2>&1)" 'failed' 'with what is in it'
rm -f huge.*

# ---- chains --------------------------------------------------------------------------------------

# Five layers in folders of their own, named in turns by relative and absolute paths.  (libvhdi takes clear
# bits behind a set one of the same byte for set ones, and mixes up layers whose blocks differ in size; so what
# it is shown is written 4 KiB at a time, in blocks of 2 MiB.)
chain() {
	local i unit=$1 text=$2 base_options=$3 names=() parent

	rm -rf c m.raw
	mkdir -p c/d{0,1,2,3,4}
	"$PLATTER" create -q -f vpc -o "$base_options" c/d0/l0.vhd $((5 << 20))
	truncate -s $((5 << 20)) m.raw
	for i in 0 1 2 3 4; do
		names+=("c/d$i/l$i.vhd")
		case $i in
		0) ;;
		1 | 3) "$PLATTER" create -q -f vpc -b ../d$((i - 1))/l$((i - 1)).vhd -F vpc c/d$i/l$i.vhd ;;
		*) "$PLATTER" create -q -f vpc ${unit:+-o block_size=$([ $unit = 4096 ] && echo 2M || echo 512k)} -b "$PWD/c/d$((i - 1))/l$((i - 1)).vhd" -F vpc c/d$i/l$i.vhd ;;
		esac || fail "$text: layer $i"
		next_seed
		RANDOM=$seed
		for _ in $(seq 30); do
			at=$((RANDOM * 32768 + RANDOM)) len=$((1 + RANDOM % 20))
			at=$((at % (5 * 1048576 / unit - len)))
			echo "write -P $((1 + RANDOM % 255)) $((at * unit)) $((len * unit))"
		done >steps
		"$PLATTER" io -f vpc "c/d$i/l$i.vhd" <steps >io.log 2>&1 || fail "$text: layer $i" "$(cat io.log)"
		qemu-io -t unsafe -f raw m.raw <steps >/dev/null 2>&1
		out=$("$PLATTER" compare -f vpc -F raw "c/d$i/l$i.vhd" m.raw 2>&1) || fail "$text: $((i + 1)) layers" "seed $seed" "$out"
		is "$("$PLATTER" check -f vpc "c/d$i/l$i.vhd" 2>&1 | head -n 1)" 'No errors were found on the image.' "$text: layer $i is in order"
		[ "$unit" = 4096 ] && [ -n "$VHDI" ] || continue
		"$VHDI" "$srcdir/tests/peer/vhdi.py" v.raw "${names[@]}" || fail "$text: libvhdi"
		is_file_equal v.raw m.raw "$text: libvhdi reads $((i + 1)) layers"
	done
	ok "$text: flattened" "$PLATTER" convert -f vpc -O vpc -o force_size c/d4/l4.vhd flat.vhd
	both_read flat.vhd m.raw "$text: flattened"
	mkdir c/moved
	mv c/d?/*.vhd c/moved
	ok "$text: all moved into one folder" "$PLATTER" compare -f vpc -F raw c/moved/l4.vhd m.raw
	is "$("$PLATTER" info --backing-chain c/moved/l4.vhd | grep -c '^image:')" 5 "$text: and info shows five"
}

chain 4096 'a chain, 4 KiB' force_size
chain 512 'a chain, sectors' force_size,subformat=fixed
chain 100 'a chain, anything' force_size,block_size=16k
if command -v vhdiinfo >/dev/null; then
	like "$(vhdiinfo c/moved/l4.vhd 2>&1)" 'Parent filename.*l3.vhd' 'vhdiinfo knows the parent'
	like "$(vhdiinfo c/moved/l4.vhd 2>&1)" 'Disk type.*Differential' 'and the kind'
fi
done_testing
