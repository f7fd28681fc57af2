#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# What is wrong between the layers of a chain, by what they hold; and damage in any of them, seen from the top.  First chains of
# a few blocks, where each range is known; then some of the recovery report's (recovery_chain.py), other ones each time.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
requires python3 qemu-img qemu-io

create() { "$PLATTER" create -q "$@"; }
put() { "$PLATTER" io -f "$1" -c "$2" "$3" >/dev/null; }
# later FILE...: written after what has been made so far; sooner: before
later() { touch -d '+10 seconds' "$@"; }
sooner() { touch -d '-10 seconds' "$@"; }
# ranges IMAGE [OPTION...]: "ID SEVERITY LAYER start+length ..." of what verify finds changed, and its status
ranges() {
	local image=$1

	shift
	"$PLATTER" chain verify --output=json "$@" "$image" >verify.json 2>verify.err
	python3 -c '
import json, sys
print("\n".join(" ".join([c["id"], c["severity"], c["layer"], *("%d+%d" % (r["start"], r["length"]) for r in c["ranges"])])
                for c in json.load(open("verify.json"))["changes"]), sys.argv[1])' $?
}
# report IMAGE: the lists of --rescue, findings with the layer that they are of, and the status
report() {
	"$PLATTER" convert --rescue --report r.json -f qcow2 -O raw "$1" out.raw 2>rescue.err
	python3 -c '
import json, sys
r = json.load(open("r.json"))
for k in ("lost", "inferred"):
    print(k, *("%d+%d" % (x["start"], x["length"]) for x in r[k]))
print(*sorted({f["id"] + ":" + f.get("image", "") for f in r["findings"] if f["severity"] != "note"}), sys.argv[1])' $?
}

# Two images on one base; one of them is committed into it.
K=1024
made=$(: >x && stat -c %W x)
if [ "${made:-0}" = 0 ] || [ "$made" = - ]; then
	skip 'who was made before' 'this filesystem does not say when a file was made'
else
	create -f qcow2 base 1M
	put qcow2 'write -P 1 0 1M' base
	sooner base
	for i in left right; do create -f qcow2 -o cluster_size=4k -b base -F qcow2 $i; done
	put qcow2 'write -P 2 0 4k' left
	for ((i = 0; i < 12; i++)); do put qcow2 "write -P $((i + 10)) $((i * 8))k 4k" right; done
	put qcow2 'write -z 512k 4k' right
	is "$(ranges left)" ' 0' 'two images on a base: nothing has changed'
	cp base base.0
	"$PLATTER" commit -q -d right
	later base
	want='8192+4096 16384+4096 24576+4096 32768+4096 40960+4096 49152+4096 57344+4096 65536+4096 73728+4096 81920+4096 90112+4096'
	is "$(ranges left)" "C-COMMIT corruption left $want 524288+4096 2" \
		'one was committed: what of that shows through the other, to the block'
	like "$("$PLATTER" chain verify left)" '4096 bytes at 524288' '  for a person'
	is "$(report left)" "lost $want 524288+4096
inferred
C-COMMIT:left 2" '  --rescue: it is lost, and nothing else is'
	"$PLATTER" check --deep --output=json left >deep.out 2>&1
	is "$? $(grep -c '"id": "C-COMMIT"' deep.out)" '2 1' '  check --deep'
	is "$(ranges right)" 'C-COMMIT note right 0' '  the committed one shows what it did'
	fails 2 '  for headers alone it was written to' "$PLATTER" chain left
	# another program, which nobody knows of
	rm right
	is "$(ranges left)" 'C-CHANGED corruption left 4096+1044480 2' 'nobody says who has written to the base: all that is read from it'
	is "$(report left)" 'lost
inferred 4096+1044480
C-CHANGED:left 2' '  --rescue: it is inferred'
	create -f qcow2 -o cluster_size=4k -b base -F qcow2 elsewhere
	mkdir d
	mv elsewhere d/right
	"$PLATTER" rebase -u -b ../base -F qcow2 d/right
	for ((i = 0; i < 12; i++)); do put qcow2 "write -P $((i + 10)) $((i * 8))k 4k" d/right; done
	like "$(ranges left --search d)" '^C-COMMIT corruption left 8192[+]4096' '  but one in a folder of --search does'
	rm -r d
	create -f qcow2 -o cluster_size=4k -b base -F qcow2 right
	for ((i = 0; i < 40; i++)); do put qcow2 "write -P $((i % 2 ? 1 : i + 40)) $((512 + i * 8))k 4k" right; done
	is "$(ranges left)" 'C-CHANGED corruption left 4096+1044480 2' '  what another has written again here and there is no commit'
	rm right
	create -f qcow2 golden 1M
	"$PLATTER" snapshot -c monday golden
	create -f qcow2 -b golden -F qcow2 child
	touch -d '+1 hour' golden
	like "$("$PLATTER" chain child)" "what it was then may be in its internal snapshot 'monday' .taken [01] seconds before" \
		'  a snapshot from before is named'
	# large clusters copy what lies beside
	cp base.0 base
	sooner base
	rm -f left
	for i in left right; do create -f qcow2 -b base -F qcow2 $i; done
	for ((i = 0; i < 9; i++)); do put qcow2 "write -P $((i + 10)) $((i * 64))k 4k" right; done
	"$PLATTER" commit -q -d right
	later base
	is "$(report left)" 'lost
inferred 0+589824
C-COMMIT:left 2' 'of clusters larger than what a guest writes nobody knows which part: inferred'
	# a commit of its own that has stopped
	cp base.0 base
	put qcow2 'write -P 10 0 4k' base
	for ((i = 1; i < 9; i++)); do put qcow2 "write -P $((i + 10)) $((i * 64))k 4k" base; done
	put qcow2 'write -P 99 900k 4k' right
	sooner right
	later base
	is "$(ranges right)" 'C-COMMIT note right 0' 'a commit of its own that has stopped'
	is "$(report right)" 'lost
inferred
0' '  costs nothing'
	# a layer that was left out
	rm -f base* left right
	create -f qcow2 base 1M
	put qcow2 'write -P 1 0 1M' base
	create -f qcow2 -b base -F qcow2 mid
	put qcow2 'write -P 2 0 256k' mid
	put qcow2 'write -P 3 512k 256k' mid
	create -f qcow2 -b mid -F qcow2 top
	put qcow2 'write -P 4 4k 4k' top
	is "$(ranges top)" ' 0' 'a chain of three'
	"$PLATTER" rebase -u -b base -F qcow2 top
	is "$(ranges top)" 'C-REBASE corruption top 65536+196608 524288+262144 2' 'a layer is left out: what it holds is missing there'
	"$PLATTER" check --deep -q top 2>/dev/null
	is $? 2 '  check --deep'
	is "$("$PLATTER" chain repair --yes --search . top | grep -c 'is to stand on .*mid')" 1 '  and is put back by what the top has copied of it'
	is "$(ranges top)" ' 0' '  which is right'
	# one unit of 4 KiB is enough, if all that it has speaks for it
	rm top*
	create -f qcow2 -o cluster_size=4k -b mid -F qcow2 top
	put qcow2 'write -P 2 8k 4k' top
	"$PLATTER" rebase -u -b base -F qcow2 top
	is "$(ranges top)" 'C-REBASE corruption top 0+8192 12288+249856 524288+262144 2' '  one unit of it is enough'
	"$PLATTER" chain repair --yes --search . top >/dev/null 2>&1
	is "$(ranges top)" ' 0' '  to put it back, too'
	# images of one template, one after the other, of which each has begun with the same
	rm -f base mid top*
	create -f qcow2 base 1M
	put qcow2 'write -P 1 0 1M' base
	for i in one two three; do
		create -f qcow2 -b base -F qcow2 $i
		put qcow2 'write -P 5 0 32k' $i
	done
	put qcow2 'write -P 6 36k 4k' one
	put qcow2 'write -P 6 512k 4k' one
	put qcow2 'write -P 7 44k 4k' two
	sooner one two
	is "$(ranges three)" ' 0' 'images of a template, one after the other, that have begun with the same: nothing is left out'
	rm two
	sooner one
	is "$(ranges three)" 'C-REBASE note three 0' '  where there is one beside it, nobody can know: a note'
	rm -f base one three
fi

# Damage in each layer: findings have its name, and what is lost is said in terms of the top.
l2() { # the L2 table of an image with one of them
	python3 -c 'import struct, sys
d = open(sys.argv[1], "rb").read()
l1 = struct.unpack_from(">Q", d, 40)[0]
print(struct.unpack_from(">Q", d, l1)[0] & 0xfffffffffffe00)' "$1"
}
break_entries() { # IMAGE CLUSTER...
	local at image=$1

	at=$(l2 "$image")
	shift
	for i; do printf '\x80\0\0\x40\0\0\0\0' | dd of="$image" bs=1 seek=$((at + 8 * i)) conv=notrunc status=none; done
}
create -f qcow2 -o cluster_size=4k base 128k
put qcow2 'write -P 1 0 128k' base
create -f qcow2 -o cluster_size=4k -b base -F qcow2 mid
put qcow2 'write -P 2 32k 64k' mid
create -f qcow2 -o cluster_size=4k -b mid -F qcow2 top
put qcow2 'write -P 3 64k 64k' top
sooner base mid top
mkdir sound
cp -p base mid top sound
for layers in base mid top 'base top' 'base mid top'; do
	cp -p sound/* .
	lost=
	for l in $layers; do # entry 0 shows base, 8 mid, 16 the top; those that are covered (20) do not matter
		case $l in
		base) break_entries base 0 9 20 && lost="$lost 0+4096" ;;
		mid) break_entries mid 8 20 && lost="$lost 32768+4096" ;;
		top) break_entries top 16 && lost="$lost 65536+4096" ;;
		esac
	done
	got=$(report top)
	is "$(head -n 1 <<<"$got")" "lost$lost" "damaged: $layers: what is lost at the top"
	for l in $layers; do like "$(tail -n 1 <<<"$got")" "Q-[A-Z0-9-]*:$l( |\$)" "  a finding of $l"; done
	"$PLATTER" check --deep --output=json top >deep.out 2>/dev/null
	is $? 2 '  check --deep'
	cmp -s base sound/base || like "$(cat deep.out)" '"image": "base"' '  names the base'
done
# A table that was written over by a few words of another structure: what it had nobody knows, and what lies below shows.
cp -p sound/* .
at=$(l2 mid)
dd if=mid of=mid bs=4096 skip=1 seek=$((at / 4096)) count=1 conv=notrunc status=none
is "$(report top | head -n 1)" lost 'a table is written over: nothing of what lies below is lost'
is "$(head -c 32768 out.raw | tr -d '\001' | wc -c)" 0 '  it shows'
# What a layer has lost for good a donor of the whole disk gives to that layer; what lies beside it comes from below.
cp -p sound/* .
"$PLATTER" convert -f qcow2 -O raw top donor.raw
break_entries mid 8 20
cp mid mid.0
"$PLATTER" repair --yes --donor donor.raw mid >out 2>&1
is "$? $(grep -c 'bytes that are lost are taken' out)" '2 1' 'a layer gets from a donor what it has lost'
"$PLATTER" convert -f qcow2 -O raw top out.raw
is_file_equal out.raw donor.raw '  and the top shows what it did'
fails 3 '  qemu-img finds the clusters that nobody knew a place for, and nothing else' qemu-img check -q mid
undone mid mid.0 '  taken back'
rm -rf base mid* top sound donor.raw

# All layers are damaged: what lower ones would be repaired to says where tables of the upper one belong, and that a base
# whose id is gone is the one.
head -c 16M /dev/urandom >disk.raw
head -c 64k disk.raw >again
"$PLATTER" convert -f raw -O vpc -o force_size=on disk.raw base
create -f vpc -b base -F vpc mid
put vpc 'write -P 2 1M 64k' mid
put vpc 'write -s again 0 64k' mid
create -f qcow2 -o cluster_size=4k -b mid -F vpc top
c=()
for ((i = 0; i < 24; i++)); do c+=(-c "write -P $i $((i % 6 * 2080 + i * 8))k 1k"); done
"$PLATTER" io -f qcow2 "${c[@]}" top >/dev/null
"$PLATTER" convert -f qcow2 -O raw top sound.raw
l1=$((16#$(od -An -tx1 -j 40 -N 8 top | tr -d ' \n')))
dd if=/dev/zero of=top bs=8 seek=$((l1 / 8)) count=8 conv=notrunc status=none
for i in base mid; do
	for at in 0 $(($(stat -c %s $i) - 512)); do dd if=/dev/zero of=$i bs=512 seek=$((at / 512)) count=1 conv=notrunc status=none; done
done
like "$(report top)" 'V-FTR-3:base V-FTR-3:mid V-PARENT:mid' 'three layers: each is rescued'
is_file_equal out.raw sound.raw '  what two are rescued to tells where tables of the third belong'
for i in vpc:base vpc:mid qcow2:top; do "$PLATTER" repair -q --yes -f ${i%:*} ${i#*:} >out 2>&1; done
"$PLATTER" convert -f qcow2 -O raw top out.raw
is_file_equal out.raw sound.raw '  repaired one by one they show the same'
rm -f base* mid* top* ./*.raw again

# A chain of VHDs is opened without opening each file for each layer above it.
create -f vpc 0.vhd 8M
for ((i = 1; i < 24; i++)); do create -f vpc -b $((i - 1)).vhd -F vpc $i.vhd; done
if command -v strace >/dev/null && strace -f -e trace=openat true 2>/dev/null; then
	strace -f -e trace=openat -o opens "$PLATTER" map --rescue 23.vhd >/dev/null
	n=$(grep -c '\.vhd"' opens)
	[ "$n" -lt 120 ] && pass '--rescue of 24 VHDs opens each a few times' || fail '--rescue of 24 VHDs opens each a few times' "$n files were opened"
else
	skip '--rescue of 24 VHDs opens each a few times' 'strace cannot be used'
fi
rm -f ./*.vhd

# Chains with a guest; what is wrong is in the lists, whatever is wrong.
command -v mke2fs >/dev/null && command -v debugfs >/dev/null || done_testing
seed=${PLT_SEED:-$RANDOM}
echo "# PLT_SEED=$seed"
[ "$(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1)" -gt 400000 ] 2>/dev/null && [ -w /dev/shm ] && export TMPDIR=/dev/shm
python3 -B "$srcdir/tests/repair/recovery.py" --mib 48 --guests ext4 --shapes c-qcow2,c-small,c-vpc,c-mixed,c-raw --no-peer --times 1 \
	--seed "$seed" --deep --states got -v >out 2>&1
is $? 0 'undo gives every byte back, nothing is changed by reading, no program fails' || diag "$(cat out)"
# (a layer that was left out, and of which the top holds nothing, nobody knows of)
is "$(grep -v C-REBASE got | grep -c 'silent')" 0 'nothing is wrong that is in neither list' || diag "$(cat out)"
is "$(wc -l <got)" 12 'every class'
# Zeros over zeros are no reason to read: a table of zero clusters that the L1 table names 256 times is 128 TiB of them.
python3 - <<'PY'
import struct
cs, n = 1 << 21, 256
for name, backing in ('zeros-base', b''), ('zeros', b'zeros-base'):
    f = open(name, 'wb')
    f.truncate(5 * cs)
    f.write(struct.pack('>4sIQIIQIIQQIIQQQQII', b'QFI\xfb', 3, 112 if backing else 0, len(backing), 21, n * (cs // 8) * cs, 0, n,
                        3 * cs, cs, 1, 0, 0, 0, 0, 0, 6, 104) + bytes(8) + backing)
    f.seek(cs)
    f.write(struct.pack('>Q', 2 * cs))
    f.seek(2 * cs)
    f.write(struct.pack('>5Q', 1, 1, 1, 1, n))
    if backing:
        f.seek(3 * cs)
        f.write(struct.pack('>Q', 4 * cs) * n)
        f.seek(4 * cs)
        f.write(struct.pack('>Q', 1) * (cs // 8))
PY
touch -d '+1 hour' zeros-base
prlimit --cpu=8 "$PLATTER" info --rescue zeros >out 2>&1
ok 'zeros over zeros, 128 TiB of them, written to since: compared in time' [ $? -le 2 ]
done_testing
