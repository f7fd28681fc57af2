#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# What a person meets who repairs an image for the first time: that a lost header is said before anything else is done with
# the file, what is shown of a plan and of what is lost, that a mistake is refused before any work, and that the command
# which takes the repair back can be pasted.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"

"$PLATTER" create -q -f qcow2 sound.qcow2 8M
"$PLATTER" create -q -f vpc -o force_size=on sound.vhd 8M
for f in sound.qcow2 sound.vhd; do # (no zeros, and not the beginning of a disk)
	"$PLATTER" io -c 'write -P 0x41 0 3M' -c 'write -P 0x42 5M 1M' "$f" >/dev/null
done

# ---- a header that is gone
for f in sound.qcow2 sound.vhd; do
	is "$("$PLATTER" info "$f" 2>&1 >/dev/null)" '' "$f: nothing is said of a sound image"
	cp "$f" d
	zero d 0 512
	"$PLATTER" info d >out 2>err
	is "$? $(grep -c 'file format: raw' out)" '0 1' '  without its header it is taken for raw'
	like "$(cat err)" "'d' looks like a .* image whose header is gone, and is taken for raw: 'check' and 'repair'" '  and that is said'
	is "$("$PLATTER" info -f raw d 2>&1 >/dev/null)" '' '  not to who says that it is raw'
	"$PLATTER" check d >/dev/null 2>&1
	is $? 2 '  check finds the damage'
	ok '  --rescue shows the disk' "$PLATTER" compare -q --rescue d "$f"
	ok '  repair brings it back' "$PLATTER" repair -q --yes d
	"$PLATTER" undo -q d.platter-undo
done
head -c 3M /dev/urandom >noise
is "$("$PLATTER" info noise 2>&1 >/dev/null)" '' 'bytes that are nothing are no image'
zero noise 0 512
printf cxsparse | dd of=noise bs=512 seek=1 conv=notrunc status=none
is "$("$PLATTER" info noise 2>&1 >/dev/null)" '' 'nor is a mark without what belongs to it'

# ---- what is shown
cp sound.qcow2 d.qcow2
truncate -s 2M d.qcow2 # (the header, three tables and 27 clusters of data are left of 64)
cp d.qcow2 was
yes n | "$PLATTER" repair --interactive d.qcow2 >out 2>err
is $? 1 'who says no has no repair'
like "$(cat out)" 'Nothing has been changed' '  and is told so'
ok '  the image is as it was' cmp d.qcow2 was
is "$(grep -c '^corruption:.*Q-ENT-OUTSIDE' out)" 11 'of many findings of a kind the first ten are shown, and how many there are'
like "$(cat out)" 'corruption: ... and 27 more, which --report lists [[]Q-ENT-OUTSIDE]' '  so'
unlike "$(cat out)" 'corruption: ERROR' '  not said twice'
like "$(cat out)" 'After it the structure is sound; 2.31 MiB of the disk are lost; 5.69 MiB rest on less than proof[.]' 'that the structure is sound hides no loss'
"$PLATTER" repair --yes d.qcow2 >out 2>/dev/null
is $? 2 '  nor does the status'
like "$(cat out)" 'with --report FILE repair writes it down' '  and it is said how to keep the list'
"$PLATTER" repair --yes d.qcow2 >out 2>/dev/null
is "$? $(tail -n 1 out)" '0 There is nothing that can be repaired; nothing is wrong.' 'the second time there is nothing to do'
"$PLATTER" create -q -f qcow2 -u -b gone.raw -F raw top.qcow2 8M
is "$("$PLATTER" repair top.qcow2 2>&1 | tail -n 1)" 'There is nothing that can be repaired.' 'without its backing file'
like "$("$PLATTER" repair top.qcow2 2>&1)" 'note: .*chain repair.*gone.raw.*No such file.*C-LOST' '  nobody says that all is right'
cp d.qcow2 base.qcow2
"$PLATTER" create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2
like "$("$PLATTER" repair top.qcow2)" 'nothing is wrong' 'over a sound backing file all is right'
zero base.qcow2 65536 65536 # (its refcount table)
is "$("$PLATTER" repair top.qcow2 | sed "s/^note: '.*\\/base.qcow2'/note: 'base.qcow2'/" | tr '\n' ' ')" \
	"note: 'base.qcow2', which the image stands on, is damaged: that is put right by a repair of that file [C-DAMAGED] \
There is nothing that can be repaired. " 'over a damaged one that is said'

# ---- what cannot be is refused before any work
cp was d.qcow2
rm -f d.qcow2.platter-undo
for wrong in '--report d.qcow2' '--report no/where' '--output was' '--output new --undo-file other' \
	'--dry-run --plan d.qcow2' '--dry-run --plan no/where'; do
	# shellcheck disable=SC2086
	"$PLATTER" repair --yes $wrong d.qcow2 >out 2>err
	is "$? $(cat out)" '1 ' "repair $wrong: refused at once"
	is "$(wc -l <err)" 1 "  in one line"
	ok '  the image is as it was' cmp d.qcow2 was
done

# ---- taking it back
"$PLATTER" repair -q --yes d.qcow2 2>/dev/null
like "$("$PLATTER" undo d.qcow2 2>&1)" "'d.qcow2' is not an undo journal; beside it lies '.*/d.qcow2.platter-undo'" \
	'undo of the image itself: its journal is named'
ok '  which is it' "$PLATTER" undo -q d.qcow2.platter-undo
ok '  the image is as it was' cmp d.qcow2 was
name=$'-it\'s \\a\nname\e[31m.qcow2'
cp was "./$name"
"$PLATTER" repair --yes -- "$name" >out 2>/dev/null
line=$(grep -a 'This takes it back: ' out)
unlike "$line" $'\e' 'a name with everything in it: the terminal gets none of it'
PATH=$SCRATCH/.bin:$PATH
eval "${line#*back: }" >/dev/null
ok '  the command that takes the repair back can be pasted' cmp "./$name" was
if mount -t tmpfs -o size=2100k none "$(mkdir full && echo full)" 2>/dev/null; then
	cp was full/d.qcow2
	head -c 1M /dev/zero >full/rest 2>/dev/null
	"$PLATTER" repair -q --yes full/d.qcow2 >out 2>err
	like "$? $(tail -n 1 err)" '^1 .*no room for the undo journal; nothing has been changed; --undo-file' 'no room for the journal: said so'
	umount full
else
	skip 'no room for the journal' 'no tmpfs can be mounted here'
fi
done_testing
