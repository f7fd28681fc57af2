#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# chain: the layers of an image, what each supplies, and everything that can be wrong between them; and folders.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"

create() { "$PLATTER" create -q "$@"; }
put() { "$PLATTER" io -f "$1" -c "$2" "$3" >/dev/null; }

# of FILE KEY [IMAGE]: a value of one layer, from the JSON
of() {
	"$PLATTER" chain --output=json "${3:-top}" | awk -v file="$1" -v key="\"$2\":" '
		/^    \{/ { name = value = ""; list = 0 }
		$1 == "\"filename\":" { name = $2; gsub(/[",]/, "", name) }
		list && /\]/ { list = 0 }
		list { v = $1; gsub(/[",]/, "", v); value = value (value ? " " : "") v }
		$1 == key && $2 == "[" { list = 1 }
		$1 == key && $2 != "[" { value = $2; gsub(/[",]/, "", value) }
		/^    \}/ && name == file { print value }'
}

create -f raw base 4M
put raw 'write 2M 1M' base
create -f qcow2 -b base -F raw mid 4M
put qcow2 'write 1M 1M' mid
put qcow2 'write -z 0 1M' mid
create -f qcow2 -b mid -F qcow2 top 4M
put qcow2 'write 1M 512k' top

ok 'a sound chain' "$PLATTER" chain top
is "$("$PLATTER" chain top | sed 's/^ *//; s/  .*supplies/:/')" "top: 512 KiB (25 %)
\`- mid: 512 KiB (25 %)
\`- base: 1 MiB (50 %)" 'from the top down, with shares'
is "$(of top data) $(of mid data) $(of base data)" '524288 524288 1048576' 'the same for a program'
is "$(of mid backing-image) $(of mid overlays) $(of top overlays) $(of base format)" 'base 1 0 raw' 'who depends on whom'

# Each kind of trouble, one at a time.
wrong() { # IMAGE LAYER WHAT STATUS TEXT
	is "$(of "$2" wrong "$1")" "$3" "$5"
	"$PLATTER" chain "$1" >out
	is "$?" "$4" '  status'
	is "$(grep -c '!' out)" "$(wc -w <<<"$3")" '  and words'
}

ids() { # IMAGE: the ids of what chain says of it and its layers
	"$PLATTER" chain "$1" | sed -n 's/.*! .*\[\(C-[A-Z]*\)\]$/\1/p' | sort -u | paste -sd' '
}
deep() { # IMAGE STATUS IDS
	"$PLATTER" check --deep --output=json "$1" >deep.out 2>/dev/null
	is "$? $(sed -n 's/.*"id": "\(C-[A-Z]*\)".*/\1/p' deep.out | sort -u | paste -sd' ')" "$2 $3" "  $1: check --deep, too"
}

create -f qcow2 -b base -F raw long 8M
wrong long long backing-shorter 0 'a backing file that is shorter'
create -f qcow2 -u -b gone -F raw lost 1M
wrong lost lost backing-lost 2 'a missing one'
create -f qcow2 -u -b lost -F qcow2 over 1M
wrong over lost backing-lost 2 'further down'
create -f qcow2 -u -b two -F qcow2 one 1M
create -f qcow2 -u -b one -F qcow2 two 1M
"$PLATTER" chain one >out
is "$?" 2 'a circle: status'
like "$(of one wrong one), $(of two wrong one)" '^loop.*, loop' '  both are in it'
create -f qcow2 self 1M
"$PLATTER" rebase -u -b self -F qcow2 self
like "$(of self wrong self)" '^loop' 'one of itself alone'
create -f qcow2 -u -b top -F vpc odd 4M
is "$(of odd wrong odd)" backing-format-differs 'another format than is recorded'
create -f qcow2 guest 4M
create -f qcow2 -u -b guest -F raw asraw 196608
is "$(of asraw wrong asraw) $(of guest format asraw)" 'backing-looks-like raw' 'what is recorded as raw is raw, whatever it looks like'
create -f qcow2 -u -b two -F qcow2 bad 1M
printf 'QFI\373\0\0\0\3garbage' >broken
create -f qcow2 -u -b broken -F qcow2 onbroken 1M
is "$(of broken wrong onbroken)" unreadable 'one that does not open'
fails 1 'the image itself does not open' "$PLATTER" chain broken
fails 1 'there is no such file' "$PLATTER" chain nofile
made=$(stat -c %W mid)
if [ "${made:-0}" = 0 ] || [ "$made" = - ]; then
	skip 'a backing file that was written since' 'this filesystem does not say when a file was made'
else
	touch -d "@$((made + 100))" base
	is "$(of mid wrong)" backing-changed 'a backing file that was written since'
	fails 2 '  status' "$PLATTER" chain top
	is "$(ids mid)" C-CHANGED '  C-CHANGED'
	deep mid 2 C-CHANGED
	touch -d "@$((made + 200))" mid
	is "$(of mid wrong)" backing-rewritten 'but the image was written after that: a merge does so, too'
	ok '  status' "$PLATTER" chain mid
	touch -d "@$((made - 100))" base mid
fi

# Findings by the names of the catalogue, here and in check --deep.
is "$(ids lost)" C-LOST 'C-LOST'
deep lost 2 C-LOST
deep over 2 C-LOST
is "$(ids one)" C-CYCLE 'C-CYCLE'
deep one 2 C-CYCLE
is "$(ids odd)" C-FMT 'C-FMT'
is "$(ids long)" C-SIZE 'C-SIZE'
deep long 0 C-SIZE
deep top 0 ''
is "$(ids onbroken)" C-OPEN 'C-OPEN'
deep onbroken 2 C-OPEN
mkdir -p store/a
create -f raw store/a/m.img 1M
create -f qcow2 -u -b /elsewhere/store/a/m.img -F raw store/child 1M
is "$(ids store/child)" C-MOVED 'C-MOVED: by the end of the stored path'
is "$(of store/child moved-to store/child)" store/a/m.img '  says where'
deep store/child 2 C-MOVED
create -f qcow2 -u -b /gone/m.img -F raw store/a/beside 1M
is "$(of store/a/beside moved-to store/a/beside)" store/a/m.img '  beside the image'
mkdir deep
(
	cd deep || exit
	create -f qcow2 -o cluster_size=512 0 64k
	for ((i = 1; i < 258; i++)); do
		echo $i
	done | xargs -P2 -I{} sh -c "'$PLATTER' create -q -f qcow2 -o cluster_size=512 -u -b \$(({} - 1)) -F qcow2 {} 64k"
	touch -r 0 -- * # (two at a time: a parent may have been made after its child)
)
like "$(ids deep/257)" C-DEPTH 'C-DEPTH'
is "$(ids deep/250)" '' '  a chain of 251 layers opens'
ok '  indeed' "$PLATTER" map deep/250
rm -r deep
mkdir merged
create -f raw merged/base 1M
(cd merged && create -f qcow2 -b base -F raw left && create -f qcow2 -b base -F raw right)
touch -d '2020-01-01' merged/left # (one of two, and written last before its base)
like "$(ids merged)" C-ORPHAN 'C-ORPHAN: what a merge may have left'

# VHD: by ids.
create -f vhd p.vhd 8M
create -f vhd -b p.vhd -F vpc c.vhd
is "$(of c.vhd parent-id c.vhd)" "$(of p.vhd id c.vhd)" 'VHD: the id of the parent'
ok '  sound' "$PLATTER" chain c.vhd
mv p.vhd right.vhd
create -f vhd p.vhd 8M
touch -r right.vhd p.vhd # (or else it was written since, too)
is "$(of c.vhd wrong c.vhd)" backing-lost 'VHD: another disk under that name'

# Policy: nothing but the image is opened.
"$PLATTER" chain --untrusted --output=json top >out 2>&1
is "$(grep -c '"format": "raw"' out)" 0 'untrusted: what the image names is not looked at'

# A folder: those that depend on another below it; raw ones only if they are a layer.
mkdir dir
cd dir || exit 99
create -f raw base 1M
create -f raw alone.img 1M
echo text >notes
for i in 1 2 3; do create -f qcow2 -b base -F raw child$i; done
create -f qcow2 -b child2 -F qcow2 leaf
cd ..
ok 'a folder' "$PLATTER" chain dir
is "$("$PLATTER" chain dir | sed 's/  [a-z].*//')" "dir/base
\`- dir/child1
\`- dir/child2
   \`- dir/leaf
\`- dir/child3
5 images, 3 that no other depends on, 0 with something wrong" '  as a tree'
rm dir/child2
fails 2 'one layer is deleted' "$PLATTER" chain dir
is "$(of dir/leaf wrong dir)" backing-lost '  and who depended on it is named'
ok 'an empty folder' "$PLATTER" chain "$(mktemp -d -p .)"
qemu-img create -q -f qcow2 -u -b "$(printf 'x\033[31m\ny')" -F qcow2 hostile 1M
like "$("$PLATTER" chain hostile)" 'x[?][[]31m y' 'a name with control characters is one line, and orders a terminal nothing'

# The verbs: what is no command line of theirs.
fails 1 'no such verb' "$PLATTER" chain look top
fails 1 'an option of another verb' "$PLATTER" chain verify -d top
fails 1 'show takes none of them' "$PLATTER" chain --into parent top
fails 1 'neither parent nor child' "$PLATTER" chain coalesce --into base top mid
fails 1 'coalesce: no layer' "$PLATTER" chain coalesce top
cp top verify
ok 'an image whose name is a verb' "$PLATTER" chain verify
ok '  and the verb' "$PLATTER" chain verify verify
is "$("$PLATTER" chain verify top)" "$("$PLATTER" hash top)" 'verify: the digest that hash prints'
digest=$("$PLATTER" hash top | cut -d' ' -f1)
ok '  the same' "$PLATTER" chain verify --against "$digest" top
ok '  as an image' "$PLATTER" chain verify --against verify top
fails 2 '  another' "$PLATTER" chain verify --against base top
fails 2 '  another digest' "$PLATTER" chain verify --against "$(tr 0-9 1-90 <<<"$digest")" top
like "$("$PLATTER" chain verify --output=json --against verify top)" '"same": true' '  for a program'
done_testing
