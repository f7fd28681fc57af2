# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Sourced after tests/peer/peer.sh by the proofs of encrypted images.
#
#	S           the secrets, as arguments of both programs: s (PASS), w (wrong), n (another)
#	spec FORMAT FILE
#	            the image with its key, for --image-opts
#	theirs COMMAND...
#	            qemu-img, again if it fails to time its key derivation, as it does on a busy machine
#	both_read FORMAT FILE MODEL DESCRIPTION
#	            one point: both programs read MODEL from it
#	turns FORMAT OPTIONS SIZE [WHO...]
#	            made by us, then by them (or by WHO); we write, they write, we write; after each turn both read
#	            what the model says

PASS=hunter2
S=(--object "secret,id=s,data=$PASS" --object secret,id=w,data=wrong --object secret,id=n,data=another)
export PASS

spec() {
	case $1 in
	luks) echo "driver=luks,key-secret=${3:-s},file.filename=$2" ;;
	*) echo "driver=$1,encrypt.key-secret=${3:-s},file.filename=$2" ;;
	esac
}

theirs() {
	local i out status

	for i in {1..40}; do
		out=$(qemu-img "$@" 2>&1)
		status=$?
		case $out in *'Unable to get accurate CPU usage'*) sleep 0.$((RANDOM % 9 + 1)) ;; *) break ;; esac
	done
	[ $status -eq 0 ] || echo "$out"
	return $status
}

both_read() {
	local out

	out=$(qemu-img compare "${S[@]}" --image-opts "$(spec "$1" "$2")" "driver=raw,file.filename=$3" 2>&1) ||
		{ fail "$4" "qemu-img: $out" "seed $seed"; return; }
	out=$("$PLATTER" compare "${S[@]}" --image-opts "$(spec "$1" "$2")" "driver=raw,file.filename=$3" 2>&1) ||
		{ fail "$4" "platter: $out" "seed $seed"; return; }
	pass "$4"
}

# refused DESCRIPTION ARGUMENT...: both fail, and say the same; we leave no target.
refused() {
	local text=$1 p q

	shift
	q=$(qemu-img "$@" 2>&1)
	rm -f x.*
	fails 1 "$text" "$PLATTER" "$@"
	p=$("$PLATTER" "$@" 2>&1)
	is "${p//platter:/qemu-img:}" "$q" "$text: the same words"
	[ -z "$(compgen -G 'x.*')" ] || fail "$text: a file was left"
}

# As by_them.
encrypted_by_them() {
	qemu-io -t unsafe "${S[@]}" --image-opts "$(spec "$1" "$2")" <"$3" >io.log 2>&1
	! grep -iE '^(qemu-io: |.*(failed|error|invalid|not aligned|nrecognized|command not found))' io.log
}

turns() {
	local format=$1 options=$2 size=$3 who text="$1 ${2:-defaults}"

	shift 3
	[ $# -gt 0 ] || set -- us them
	for who; do
		rm -f t.img d.raw m.raw
		case $who in
		us) "$PLATTER" create -q -f "$format" "${S[@]}" ${options:+-o "$options"} t.img "$size" ;;
		them) theirs create -q -f "$format" "${S[@]}" ${options:+-o "$options"} t.img "$size" ;;
		esac || { fail "$text: create by $who"; continue; }
		qemu-img convert "${S[@]}" --image-opts "$(spec "$format" t.img)" -O raw m.raw
		next_seed
		"$WRITER" -k "$PASS" -f "$format" -m m.raw t.img "random 60 $seed" || fail "$text: our turn" "seed $seed"
		both_read "$format" t.img m.raw "$text: made by $who, our turn"
		next_seed
		"$WRITER" -k "$PASS" -f "$format" -q t.img "random 60 $seed" | grep -vE 'discard|write -c' >steps
		encrypted_by_them "$format" t.img steps || fail "$text: their turn" "seed $seed"
		qemu-img convert "${S[@]}" --image-opts "$(spec "$format" t.img)" -O raw m.raw
		both_read "$format" t.img m.raw "$text: made by $who, their turn"
		next_seed
		"$WRITER" -k "$PASS" -f "$format" -m m.raw t.img "random 60 $seed" || fail "$text: our turn" "seed $seed"
		both_read "$format" t.img m.raw "$text: made by $who, our second turn"
		[ "$format" != qcow2 ] ||
			is "$(qemu-img check "${S[@]}" --image-opts "$(spec qcow2 t.img)" 2>&1 | head -n 1)" \
				'No errors were found on the image.' "$text: made by $who, in order"
	done
}
