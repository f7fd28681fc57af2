#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# LUKS, as a format and inside qcow2, against qemu-img, qemu-io and cryptsetup: each reads what the
# others wrote, in every cipher that both sides have; key slots that others have added and erased;
# what is said of an image; wrong secrets, which are refused in the same words and write nothing.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io
. "$srcdir/tests/peer/peer.sh"
. "$srcdir/tests/peer/crypt.sh"

CRYPTSETUP=$(command -v cryptsetup || true)

# passes FILE PASSPHRASE: cryptsetup unlocks it.
passes() {
	printf %s "$2" | "$CRYPTSETUP" open --test-passphrase --type luks1 --key-file=- "$1" 2>&1
}

# same_info DESCRIPTION IMAGE [OPTION...]
same_info() {
	local format

	for format in human json; do
		is "$("$PLATTER" info --output=$format "${@:3}" "$2" 2>&1 | grep -vE 'actual-size|disk size')" \
			"$(qemu-img info --output=$format "${@:3}" "$2" 2>&1 | grep -vE 'actual-size|disk size')" \
			"$1: info, $format"
	done
}

# ---- ciphers -------------------------------------------------------------------------------------

# (qemu-img measures for seconds how fast it is, so it makes only some of the images.)
K=key-secret=s,iter-time=1
turns luks $K,cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv $(((1 << 20) + 1536)) them
for options in '' cipher-alg=aes-128 cipher-alg=aes-192 cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv \
	cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,hash-alg=sha512 \
	cipher-mode=cbc,ivgen-alg=plain,hash-alg=ripemd160 \
	cipher-mode=xts,ivgen-alg=essiv,hash-alg=sha1 cipher-mode=ctr,hash-alg=sha384 \
	cipher-alg=aes-256,cipher-mode=ecb,hash-alg=sha224 \
	cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=md5; do
	sampled || continue
	turns luks "$K${options:+,$options}" $(((1 << 20) + 1536)) us
done

K=encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1
turns qcow2 $K,cluster_size=4k 3146240 them
for options in '' cluster_size=512 cluster_size=2M extended_l2=on,cluster_size=16k compat=0.10 \
	data_file=d.raw preallocation=metadata encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv \
	encrypt.cipher-alg=aes-192,cluster_size=4k; do
	sampled || continue
	case $options in *2M*) size=10485760 ;; *512*) size=300032 ;; *) size=3146240 ;; esac
	turns qcow2 "$K${options:+,$options}" $size us
done
rm -f d.raw

# ---- conversion ----------------------------------------------------------------------------------

truncate -s 3M data.raw
seq 1 60000 | dd of=data.raw conv=notrunc bs=512 seek=777 status=none
head -c 90000 "$PLATTER" | dd of=data.raw conv=notrunc bs=512 seek=3000 status=none
for format in luks qcow2; do
	o=key-secret=s,iter-time=10
	[ $format = luks ] || o=encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10
	ok "convert to $format" "$PLATTER" convert "${S[@]}" -O $format -o $o data.raw ours.$format
	both_read $format ours.$format data.raw "converted to $format"
	ok "convert to $format over it, verified" "$PLATTER" convert "${S[@]}" --verify -O $format -o $o data.raw ours.$format
	both_read $format ours.$format data.raw "converted to $format again"
	ok "convert from $format" "$PLATTER" convert "${S[@]}" --image-opts "$(spec $format ours.$format)" -O raw back.raw
	is_file_equal back.raw data.raw "converted from $format"
	ok "convert -n to $format" "$PLATTER" convert -n "${S[@]}" --image-opts --target-image-opts \
		driver=raw,file.filename=data.raw "$(spec $format ours.$format)"
	both_read $format ours.$format data.raw "converted into an existing $format"
	same_info "$format by us" ours.$format
	same_info "$format by us, with the key" "$(spec $format ours.$format)" "${S[@]}" --image-opts
	is "$("$PLATTER" map --output=json "${S[@]}" --image-opts "$(spec $format ours.$format)" 2>&1)" \
		"$(qemu-img map --output=json "${S[@]}" --image-opts "$(spec $format ours.$format)" 2>&1)" \
		"$format: map"
done
grep -q '77777' ours.luks ours.qcow2 && fail 'nothing of the data is in the file' || pass 'nothing of the data is in the file'
ok 'cinder: no driver named' "$PLATTER" convert "${S[@]}" --image-opts \
	encrypt.format=luks,encrypt.key-secret=s,file.filename=ours.qcow2 -O luks -o key-secret=n,iter-time=10 other.luks
ok 'the json form' "$PLATTER" compare "${S[@]}" \
	"json:{'driver':'qcow2','encrypt':{'format':'luks','key-secret':'s'},'file':{'driver':'file','filename':'ours.qcow2'}}" \
	data.raw
ok 'the json form with dots' "$PLATTER" compare "${S[@]}" \
	'json:{"driver":"qcow2","encrypt.key-secret":"s","file.driver":"file","file.filename":"ours.qcow2"}' data.raw
ok 'check needs no key' "$PLATTER" check ours.qcow2
for format in luks qcow2; do
	ok "an image over $format needs no key" "$PLATTER" create -q -f qcow2 -b ours.$format -F $format over.qcow2
	is "$(qemu-img info --output=json over.qcow2 | jq '."virtual-size"')" 3145728 "an image over $format has its size"
	b=backing.$(spec $format ours.$format | sed 's/,/,backing./g')
	ok "an image over $format reads it" "$PLATTER" compare "${S[@]}" --image-opts \
		"driver=qcow2,file.filename=over.qcow2,$b" driver=raw,file.filename=data.raw
	refused "an image over $format, without the key" map over.qcow2
done

# ---- secrets -------------------------------------------------------------------------------------

before=$(cat ours.luks ours.qcow2 | cksum; stat -c %Y ours.luks ours.qcow2)
for format in luks qcow2; do
	refused "$format: wrong secret" convert "${S[@]}" --image-opts "$(spec $format ours.$format w)" -O raw x.raw
	refused "$format: wrong secret, to be written" convert -n "${S[@]}" --image-opts --target-image-opts \
		driver=raw,file.filename=data.raw "$(spec $format ours.$format w)"
	refused "$format: no such secret" convert "${S[@]}" --image-opts "$(spec $format ours.$format x)" -O raw x.raw
	refused "$format: no secret" convert -O raw ours.$format x.raw
	refused "$format: map without" map ours.$format
done
refused 'another format of encryption' map "${S[@]}" --image-opts "encrypt.format=aes,$(spec qcow2 ours.qcow2)"
refused 'encryption of what is not encrypted' map "${S[@]}" --image-opts \
	driver=raw,encrypt.key-secret=s,file.filename=data.raw
is "$(cat ours.luks ours.qcow2 | cksum; stat -c %Y ours.luks ours.qcow2)" "$before" 'nothing has been written'

printf %s "$PASS" >pass
base64 <pass >pass64
key=$(head -c 32 /dev/urandom | base64)
iv=$(head -c 16 /dev/urandom | base64)
if command -v openssl >/dev/null; then
	hex() { printf %s "$1" | base64 -d | od -An -v -tx1 | tr -d ' \n'; }
	secret=$(openssl enc -aes-256-cbc -a -K "$(hex "$key")" -iv "$(hex "$iv")" <pass)
	printf %s "$secret" | base64 -d >pass.enc
else
	secret=
fi
n=0
while read -r -a words; do
	n=$((n + 1))
	args=()
	for w in "${words[@]}"; do
		w=${w//KEY/$key} w=${w//IV/$iv} w=${w//CRYPT/$secret}
		args+=(--object "$w")
	done
	[[ ${words[*]} != *CRYPT* && ${words[*]} != *pass.enc* || -n $secret ]] || continue
	q=$(qemu-img compare "${args[@]}" --image-opts "$(spec luks ours.luks)" driver=raw,file.filename=data.raw 2>&1)
	q=$? p=$("$PLATTER" compare "${args[@]}" --image-opts "$(spec luks ours.luks)" driver=raw,file.filename=data.raw 2>&1)
	is "$?" "$q" "secrets: ${words[*]}"
done <<'END'
secret,id=s,data=hunter2
secret,id=s,file=pass
secret,id=s,file=pass,format=raw
secret,id=s,file=pass64,format=base64
secret,id=s,data=aHVudGVyMg==,format=base64
qom-type=secret,id=s,data=hunter2
{"qom-type":"secret","id":"s","data":"hunter2"}
secret,id=m,data=KEY,format=base64 secret,id=s,keyid=m,iv=IV,data=CRYPT,format=base64
secret,id=m,data=KEY,format=base64 secret,id=s,keyid=m,iv=IV,file=pass.enc
END
# What is refused is refused with status 1 (2 for compare, when the image is not opened).
for bad in secret,id=s secret,id=s,data=a,file=pass secret,id=s,data=a,format=hex secret,data=a secret,id=s,file=nope \
	secret,id=s,data=a=,format=base64 secret,id=s,data=a,keyid=k secret,id=s,data=a,foo=b secret,id=1s,data=a \
	foo,id=s,data=a '{"qom-type":"secret","id":"s","data":7}' '{"id":"s"'; do
	fails 1 "refused: $bad" "$PLATTER" info --object "$bad" ours.luks
done
fails 1 'refused: an id twice' "$PLATTER" info --object secret,id=s,data=a --object secret,id=s,data=b ours.luks
printf '\377\376' >bin
like "$("$PLATTER" map --object secret,id=s,file=bin --image-opts "$(spec luks ours.luks)" 2>&1)" 'not valid UTF-8' \
	'a passphrase that is no text'
for o in serpent-256 twofish-256 cast5-128; do
	like "$("$PLATTER" create -f luks "${S[@]}" -o key-secret=s,cipher-alg=$o x.luks 1M 2>&1)" "'$o' is not supported" \
		"$o is refused by name"
done
[ -e x.luks ] && fail 'no file was made' || pass 'no file was made'
if theirs create -q -f luks "${S[@]}" -o key-secret=s,iter-time=1,cipher-alg=serpent-256 serpent.luks 1M >/dev/null; then
	same_info 'serpent by them' serpent.luks
	like "$("$PLATTER" map "${S[@]}" --image-opts "$(spec luks serpent.luks)" 2>&1)" "'serpent'.* is not supported" \
		'a serpent image is refused by name'
fi

# ---- key slots -----------------------------------------------------------------------------------

# opens FORMAT FILE SECRET: how both end, "p q".
opens() {
	"$PLATTER" compare "${S[@]}" --image-opts "$(spec "$1" "$2" "$3")" driver=raw,file.filename=data.raw >/dev/null 2>&1
	printf '%s ' $?
	qemu-img compare "${S[@]}" --image-opts "$(spec "$1" "$2" "$3")" driver=raw,file.filename=data.raw >/dev/null 2>&1
	printf '%s' $?
}

for format in luks qcow2; do
	p=
	[ $format = luks ] || p=encrypt.
	ok "$format: they add a slot" theirs amend "${S[@]}" --image-opts "$(spec $format ours.$format)" \
		-o "${p}state=active,${p}new-secret=n,${p}keyslot=3,${p}iter-time=1"
	is "$(opens $format ours.$format n)" '0 0' "$format: their slot opens"
	ok "$format: we add a slot" "$WRITER" -k another -f $format ours.$format 'slot active wrong -1'
	is "$(opens $format ours.$format w)" '0 0' "$format: our slot opens"
	is "$(opens $format ours.$format s)" '0 0' "$format: the first slot still does"
	ok "$format: we erase the first" "$WRITER" -k another -f $format ours.$format 'slot inactive hunter2 -1'
	is "$(opens $format ours.$format s)" '2 2' "$format: it opens no more"
	ok "$format: they erase ours" theirs amend "${S[@]}" --image-opts "$(spec $format ours.$format n)" \
		-o "${p}state=inactive,${p}old-secret=w"
	is "$(opens $format ours.$format w)" '2 2' "$format: it opens no more"
	fails 1 "$format: the last one is kept" "$WRITER" -k another -f $format ours.$format 'slot inactive another -1'
	fails 1 "$format: an active one is kept" "$WRITER" -k another -f $format ours.$format 'slot active wrong 3'
	is "$(opens $format ours.$format n)" '0 0' "$format: the data is still there"
	same_info "$format: slots" ours.$format
done
is "$(qemu-img check "${S[@]}" --image-opts "$(spec qcow2 ours.qcow2 n)" 2>&1 | head -n 1)" \
	'No errors were found on the image.' 'qcow2: in order after all that'

# ---- cryptsetup ----------------------------------------------------------------------------------

if [ -z "$CRYPTSETUP" ]; then
	skip 'cryptsetup' 'it is not installed'
	done_testing
fi
ok 'cryptsetup unlocks what we made' passes other.luks another
fails 2 'and not with another passphrase' passes other.luks hunter2
ok 'cryptsetup unlocks a slot that we added' "$WRITER" -k another -f luks other.luks 'slot active third 5'
ok '  the slot' passes other.luks third
like "$("$CRYPTSETUP" luksDump other.luks 2>&1)" 'Cipher mode:[[:space:]]+xts-plain64' 'luksDump knows the cipher'
is "$("$CRYPTSETUP" luksDump other.luks | grep -c ENABLED)" 2 'luksDump knows the slots'
is "$("$CRYPTSETUP" luksUUID other.luks)" "$("$PLATTER" info other.luks | sed -n 's/^ *uuid: //p')" 'and the UUID'
i=0
for cipher in aes-xts-plain64:256:sha256 aes-xts-plain:512:sha1 aes-cbc-essiv:sha256:256:sha512 aes-cbc-plain64:192:ripemd160 \
	aes-cbc-essiv:sha256:128:sha256; do
	sampled || continue
	hash=${cipher##*:} cipher=${cipher%:*}
	bits=${cipher##*:} cipher=${cipher%:*}
	rm -f c.luks
	truncate -s 5M c.luks
	if ! printf %s "$PASS" | "$CRYPTSETUP" -q luksFormat --type luks1 --pbkdf-force-iterations 1000 --cipher "$cipher" \
		--key-size "$bits" --hash "$hash" --key-file=- c.luks >cs.log 2>&1; then
		skip "cryptsetup $cipher" "$(head -n 1 cs.log)"
		continue
	fi
	next_seed
	[ "$bits" != 192 ] || { # it unlocks with us; QEMU 7.2 ends in an assertion for this length of key
		ok "made by cryptsetup: $cipher, $bits bits, $hash" "$WRITER" -k "$PASS" -f luks c.luks 'slot active another 6'
		ok '  it unlocks the slot that we added' passes c.luks another
		continue
	}
	qemu-img convert "${S[@]}" --image-opts "$(spec luks c.luks)" -O raw m.raw
	"$WRITER" -k "$PASS" -f luks -m m.raw c.luks "random 40 $seed" 'slot active another 6' || fail 'writer'
	both_read luks c.luks m.raw "made by cryptsetup: $cipher, $bits bits, $hash"
	ok '  it unlocks the slot that we added' passes c.luks another
	same_info "  $cipher" c.luks
done
done_testing
