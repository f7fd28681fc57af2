#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Names inside images, on every command that opens one: what is refused, that the error names it, and
# that a name which points at a device, a FIFO, a socket, or out of the allowed folder is never waited
# for, read or written.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"

mkdir in out
truncate -s 1M in/base.raw out/secret.raw
echo secret | dd of=out/secret.raw conv=notrunc status=none
mkfifo in/fifo
ln -s ../out/secret.raw in/link.raw
ln -s ../out in/folder
ln -s base.raw in/inner.raw
command -v python3 >/dev/null && python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("in/socket")'

# made NAME BACKING [FORMAT]: in/NAME.qcow2 over that, which nobody looks at.
made() {
	"$PLATTER" create -q -f qcow2 -u -b "$2" -F "${3:-raw}" "in/$1.qcow2" 1M || exit 99
}
made good base.raw
made inner inner.raw
made outside ../out/secret.raw
made dots ../in/../out/secret.raw
made absolute "$PWD/out/secret.raw"
made link link.raw
made folder folder/secret.raw
made fifo fifo
made socket socket
made zero /dev/zero
made gone gone.raw
made self self.qcow2 qcow2
made json "json:{\"driver\":\"raw\",\"file\":{\"driver\":\"file\",\"filename\":\"$PWD/out/secret.raw\"}}"
made nested 'json:{"driver":"qcow2","file":{"driver":"qcow2","file":{"driver":"file","filename":"in/good.qcow2"}}}' qcow2
made chain good.qcow2 qcow2
made chain-out outside.qcow2 qcow2
(cd in && "$PLATTER" create -q -f qcow2 -o data_file=../out/data.raw data.qcow2 1M)
cksum out/* >before

# commands IMAGE: each command that opens one, with the status that means "not opened" before it.
commands() {
	cat <<-END
		1 map $1
		1 map --output=json $1
		1 convert -O raw $1 new
		1 convert -O qcow2 in/base.raw $1 new
		2 compare $1 in/base.raw
		2 compare in/base.raw $1
		1 measure $1
		1 measure -O qcow2 $1
		1 hash $1
		1 dd if=$1 of=new
		1 bench -c 1 $1
		1 bench -w -c 1 $1
		1 resize $1 +1M
		1 amend -o lazy_refcounts=on $1
		1 convert -n -f raw -O qcow2 in/base.raw $1
		1 info --backing-chain $1
	END
}

# refused OPTIONS IMAGE WHAT: by every command; the error has WHAT.
refused() {
	local options=$1 image=$2 what=$3 bad='' want args out status

	while read -r want args; do
		# What names no backing file has no chain, and a chain of names opens no data file.
		[[ $args = info* && $image = in/data.qcow2 ]] && continue
		# shellcheck disable=SC2086
		out=$(timeout 10 "$PLATTER" ${args%% *} $options ${args#* } 2>&1 </dev/null)
		status=$?
		[ $status = "$want" ] || bad="$bad [$args: status $status: $out]"
		[[ $out == *"$what"* ]] || bad="$bad [$args: does not name it: $out]"
	done < <(commands "$image")
	is "$bad" '' "${options:-by default}, ${image##*/}: refused by all"
}

for image in good outside fifo socket zero gone json; do
	case $image in
	json) what='json:{' ;;
	good) what="base.raw' is refused" ;;
	outside) what="secret.raw' is refused" ;;
	gone) what="gone.raw' is refused" ;;
	*) what="$image' is refused" ;;
	esac
	refused --untrusted in/$image.qcow2 "$what"
done
refused --untrusted in/data.qcow2 "out/data.raw' is refused"
for image in outside dots absolute link folder; do
	refused '--allow-dir in' in/$image.qcow2 "' is refused: it lies in no folder given with --allow-dir"
done
refused '--allow-dir in' in/json.qcow2 'only plain files in allowed folders may be named'
refused '--allow-dir in' in/nested.qcow2 'only plain files in allowed folders may be named'
refused '--allow-dir in' in/chain-out.qcow2 'it lies in no folder given with --allow-dir'
refused '--allow-dir in' in/data.qcow2 "data.raw' is refused"
refused '--allow-dir in --untrusted' in/good.qcow2 'is not trusted'
refused '--untrusted --allow-dir in' in/good.qcow2 'is not trusted'
# Allowed, as far as the policy goes, and never waited for.
refused '--allow-dir in' in/fifo.qcow2 "fifo'"
refused '--allow-dir in' in/self.qcow2 'self.qcow2'
[ ! -S in/socket ] || refused '--allow-dir in' in/socket.qcow2 "socket'"
refused '--allow-dir /dev' in/zero.qcow2 "/dev/zero'"
refused '' in/fifo.qcow2 "fifo'"
refused '' in/zero.qcow2 "/dev/zero'"

# What passes.
for image in good inner chain; do
	ok "--allow-dir in, $image" "$PLATTER" map --allow-dir in in/$image.qcow2
	ok '  and its whole chain is described' "$PLATTER" info --backing-chain --allow-dir in in/$image.qcow2
done
ok '--allow-dir twice' "$PLATTER" map --allow-dir in --allow-dir out in/outside.qcow2
for image in good outside fifo zero gone json self; do
	ok "--no-backing, $image" timeout 10 "$PLATTER" convert --no-backing --untrusted -O raw in/$image.qcow2 new
	ok '  info' timeout 10 "$PLATTER" info --untrusted in/$image.qcow2
	ok '  check' timeout 10 "$PLATTER" check --untrusted in/$image.qcow2
	is "$("$PLATTER" info --backing-chain --no-backing in/$image.qcow2 2>&1 | grep -c '^image: ')" 1 \
		'  info --backing-chain --no-backing: the image alone'
done
rm -f new

# What the command line itself names is no image's word; what that names in turn is.
"$PLATTER" convert -O raw --no-backing in/good.qcow2 given
for option in --untrusted '--allow-dir out'; do
	# shellcheck disable=SC2086
	ok "$option: convert -B" "$PLATTER" convert $option --verify -O qcow2 -B in/base.raw -F raw given new
	# shellcheck disable=SC2086
	fails 1 "$option: and no longer when it is read" "$PLATTER" convert $option -O raw new new2
	# shellcheck disable=SC2086
	like "$("$PLATTER" convert $option -O qcow2 -B in/good.qcow2 -F qcow2 given new3 2>&1)" "base.raw' is refused" \
		"$option: convert -B of what names another"
	[ -e new3 ] && fail 'a target was left' || pass 'no target is left'
	# shellcheck disable=SC2086
	ok "$option: create -b" "$PLATTER" create $option -q -f qcow2 -b in/base.raw -F raw new
	# shellcheck disable=SC2086
	ok "$option: convert -o data_file" "$PLATTER" convert $option -O qcow2 -o data_file=new.data given new
	rm -f new new.data
done
rm -f new given
is "$(cksum out/*)" "$(cat before)" 'nothing outside was written'
done_testing
