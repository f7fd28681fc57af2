#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# amend of key slots, as a command: what qemu-img refuses is refused in its words and changes nothing;
# what it does is done, and the passphrases that are left open the image for both, and for cryptsetup.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img
. "$srcdir/tests/peer/peer.sh"
. "$srcdir/tests/peer/crypt.sh"

CRYPTSETUP=$(command -v cryptsetup || true)
S+=(--object secret,id=bin,data=/w==,format=base64)

# opens FORMAT FILE: which of the secrets open it for us, and for them: "s+n s+n".
opens() {
	local who id ids

	for who in "$PLATTER" qemu-img; do
		ids=
		for id in s w n; do
			"$who" map --output=json "${S[@]}" --image-opts "$(spec "$1" "$2" $id)" >/dev/null 2>&1 && ids+=+$id
		done
		printf '%s ' "${ids#+}"
	done
}

# amends FORMAT EXPECTED OPTIONS [ARGUMENT...]: by our command, with the key that opens it now.
amends() {
	local format=$1 want=$2 options=$3

	shift 3
	ok "$format: $options $*" "$PLATTER" amend "${S[@]}" --image-opts "$(spec "$format" a.img "$key")" \
		-o "${options//@/$p}" "$@"
	is "$(opens "$format" a.img)" "$want $want " "$format: $options: what opens it"
}

# Both refuse it; the image stays.
both_refuse() {
	local format=$1 options=${2//@/$p} before q

	shift 2
	before=$(cksum <a.img)
	q=$(qemu-img amend "${S[@]}" --image-opts "$(spec "$format" a.img s)" -o "$options" "$@" 2>&1) &&
		fail "$format: $options: they did it"
	q=${q//qemu-img:/platter:}
	is "$("$PLATTER" amend "${S[@]}" --image-opts "$(spec "$format" a.img s)" -o "$options" "$@" 2>&1)" "${q% }" "$format: $options: the same words"
	is "$(cksum <a.img)" "$before" "$format: $options: the image is as it was"
}

for format in luks qcow2; do
	p= o=key-secret=s,iter-time=1 key=s
	[ $format = luks ] || p=encrypt. o=encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1
	"$PLATTER" create -q -f $format "${S[@]}" -o "$o" a.img 4M
	qemu-img convert "${S[@]}" --image-opts "$(spec $format a.img)" -O raw m.raw
	"$WRITER" -k "$PASS" -f $format -m m.raw a.img 'write 1 0 300000' >/dev/null || fail 'writer'
	while read -r options rest; do
		# shellcheck disable=SC2086
		both_refuse $format "$options" $rest
	done <<-'END'
		@state=active
		@state=inactive
		@new-secret=n
		@state=on,@new-secret=n
		@state=active,@new-secret=x
		@state=active,@new-secret=n,@old-secret=s
		@state=active,@new-secret=n,@keyslot=0
		@state=active,@new-secret=n,@keyslot=8
		@state=inactive,@new-secret=n
		@state=inactive,@keyslot=0
		@state=inactive,@keyslot=3
		@state=inactive,@old-secret=s
		@state=inactive,@old-secret=w
		@state=inactive,@old-secret=w,@keyslot=0
		@state=inactive,@old-secret=s,@iter-time=3
		@state=inactive,@keyslot=9
		@state=active,@new-secret=n,@keyslot=9 --force
	END
	amends $format s+n @state=active,@new-secret=n,@iter-time=1
	amends $format s+w+n @state=active,@new-secret=w,@iter-time=1,@keyslot=5
	amends $format s+n @state=inactive,@keyslot=5
	key=n
	amends $format n @state=inactive,@old-secret=s -q
	amends $format s+n @state=active,@new-secret=s,@iter-time=1 -p
	# over an active slot, and with the other options' way of being given
	ok "$format: an active slot, with --force" "$PLATTER" amend "${S[@]}" --force --image-opts \
		-o "${p}state=active" -o "${p}new-secret=w,${p}keyslot=1" -o "${p}iter-time=1" "$(spec $format a.img s)"
	is "$(opens $format a.img)" 's+w s+w ' "$format: the slot has been given to another"
	both_read $format a.img m.raw "$format: the data is what it was"
	if [ -n "$CRYPTSETUP" ] && [ $format = luks ]; then
		is "$("$CRYPTSETUP" luksDump a.img | grep -c ENABLED)" 2 'luksDump knows two slots'
		ok 'cryptsetup opens the new one' "$CRYPTSETUP" open --test-passphrase --type luks1 --key-file=- a.img \
			< <(printf wrong)
	fi
	key=s
	amends $format w @state=inactive,@keyslot=0
	key=w
	amends $format '' @state=inactive,@keyslot=1 --force
done

# Together with other options: what is refused of either leaves both as they were.
"$PLATTER" create -q -f qcow2 "${S[@]}" -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1 a.img 4M
p='' key=s before=$(cksum <a.img)
fails 1 'a bad slot, a good option' "$PLATTER" amend "${S[@]}" --image-opts "$(spec qcow2 a.img)" \
	-o lazy_refcounts=on,encrypt.state=active,encrypt.new-secret=n,encrypt.keyslot=0
is "$(cksum <a.img)" "$before" 'neither is done'
fails 1 'a good slot, a bad option' "$PLATTER" amend "${S[@]}" --image-opts "$(spec qcow2 a.img)" \
	-o refcount_bits=7,encrypt.state=active,encrypt.new-secret=n,encrypt.iter-time=1
is "$(cksum <a.img)" "$before" 'neither is done'
amends qcow2 s+n encrypt.state=active,encrypt.new-secret=n,encrypt.iter-time=1,refcount_bits=8
like "$("$PLATTER" info a.img)" 'refcount bits: 8' 'both are done'
"$PLATTER" create -q -f qcow2 "${S[@]}" -o encrypt.format=aes,encrypt.key-secret=s a.img 4M
truncate -s 256k a.img # (the end of its last cluster, which any opening for writing gives it)
p=encrypt.
both_refuse qcow2 @state=active,@new-secret=n
"$PLATTER" create -q a.qcow2 1M
fails 1 'an image that is not encrypted' "$PLATTER" amend -o encrypt.state=active a.qcow2
is "$("$PLATTER" amend -f luks -o help | sed 1d)" "$(qemu-img amend -f luks -o help | sed 1d)" 'the options of luks'
done_testing
