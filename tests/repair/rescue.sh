#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Looking through a plan: images that qemu-img has made and that were damaged are read with --rescue.  What is
# shown equals the sound disk outside of what is listed as lost or inferred; every command says so by its exit
# status; and no command changes a byte of any damaged file.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io python3

mask=$((0x00fffffffffffe00))

# u64 FILE OFFSET
u64() {
	echo $((16#$(od -An -tx1 -j "$2" -N 8 "$1" | tr -d ' \n')))
}
# poke FILE OFFSET BYTES (\x..)
poke() {
	# shellcheck disable=SC2059 # the bytes are a format
	printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
# junk FILE OFFSET LENGTH
junk() {
	yes 'junk' | dd of="$1" bs=512 seek=$(($2 / 512)) count=$(($3 / 512)) iflag=fullblock conv=notrunc status=none
}

# Equal outside the lists of a report?  judge SOUND.raw SHOWN.raw REPORT: "lost N inferred N wrong N" in bytes;
# what is lost has to read as zeros, or as what was asked for in ANY=1.
cat >judge.py <<'PY'
import json, sys
sound, shown = open(sys.argv[1], 'rb').read(), open(sys.argv[2], 'rb').read()
r = json.load(open(sys.argv[3]))
assert len(sound) == len(shown), (len(sound), len(shown))
doubt = bytearray(len(sound))
end = -1
for kind in ('lost', 'inferred'):
    for d in r[kind]:
        assert d['length'] > 0 and d['start'] + d['length'] <= len(sound) and d['reason'], d
        assert not any(doubt[d['start']:d['start'] + d['length']]), ('overlaps', d)
        doubt[d['start']:d['start'] + d['length']] = b'\1' * d['length']
        if kind == 'inferred':
            assert d['certainty'] in ('guess', 'likely', 'strong', 'proven'), d
for d in r['lost']:
    assert not any(shown[d['start']:d['start'] + d['length']]), ('lost is not zeros', d)
wrong = 0
for i in range(0, len(sound), 512):
    a, b, c = sound[i:i + 512], shown[i:i + 512], doubt[i:i + 512]
    if a != b:
        wrong += sum(x != y and not z for x, y, z in zip(a, b, c))
print('lost', sum(d['length'] for d in r['lost']), 'wrong', wrong)
PY

lists='import json, sys; r = json.load(open(sys.argv[1])); print(r["lost"], r["inferred"])'
# rescued NAME STATUS LOST [-f FORMAT]: of d.qcow2 (and what it stands on), against sound.raw
rescued() {
	local name=$1 status=$2 lost=$3 sums

	shift 3
	sums=$(sha256sum d.qcow2 base.qcow2 2>/dev/null)
	rm -f out.raw report.json
	"$PLATTER" convert --rescue --report report.json "$@" -O raw d.qcow2 out.raw 2>err
	is $? "$status" "$name: convert's exit status"
	is "$(python3 judge.py sound.raw out.raw report.json)" "lost $lost wrong 0" "$name: what is shown, what is listed"
	is "$(grep -c ': lost: ' err)" "$(python3 -c 'import json; print(len(json.load(open("report.json"))["lost"]))')" \
		"$name: each lost range is named"
	# (a plan is of one image, without what it stands on)
	if ! "$PLATTER" info d.qcow2 2>/dev/null | grep -q '^backing file:'; then
		"$PLATTER" repair -q --dry-run --report planned.json "$@" d.qcow2 >/dev/null 2>&1
		is "$? $(python3 -c "$lists" planned.json)" "$status $(python3 -c "$lists" report.json)" \
			"$name: repair ends alike, and lists the same"
	fi
	"$PLATTER" dd --rescue "$@" -O raw if=d.qcow2 of=out2.raw bs=1M 2>/dev/null
	is $? "$status" "$name: dd's exit status"
	is_file_equal out2.raw out.raw "$name: dd shows the same"
	is "$("$PLATTER" hash --rescue "$@" --digest sha256 --flat d.qcow2 2>/dev/null | cut -d' ' -f1)" \
		"$(sha256sum <out.raw | cut -d' ' -f1)" "$name: hash shows the same"
	"$PLATTER" map --rescue "$@" --output=json d.qcow2 >map.json 2>/dev/null
	is $? "$status" "$name: map's exit status"
	"$PLATTER" info --rescue "$@" --output=json d.qcow2 >/dev/null 2>&1
	is $? "$status" "$name: info's exit status"
	"$PLATTER" check --rescue "$@" d.qcow2 >/dev/null 2>&1
	is $? "$status" "$name: check's exit status"
	"$PLATTER" compare --rescue --zero-lost -f raw -F qcow2 out.raw d.qcow2 >/dev/null 2>&1
	is $? "$status" "$name: compare's exit status"
	if [ "$lost" = 0 ]; then
		"$PLATTER" convert --rescue --strict "$@" -O raw d.qcow2 strict.raw 2>/dev/null
		is $? "$status" "$name: --strict is content"
		is_file_equal strict.raw out.raw "$name: and shows the same"
	else
		"$PLATTER" convert --rescue --strict "$@" -O raw d.qcow2 strict.raw 2>err
		is $? 1 "$name: --strict fails"
		ok "$name: and names the range" grep -q ': lost: ' err
		"$PLATTER" io --rescue -r -c "read 0 $(stat -c %s sound.raw)" d.qcow2 >out 2>/dev/null
		is "$? $(grep -c 'read failed' out)" '1 1' "$name: io fails at it"
		"$PLATTER" io --rescue --zero-lost -r -c "read 0 $(stat -c %s sound.raw)" d.qcow2 >out 2>/dev/null
		is "$? $(grep -c '^read ' out)" "$status 1" "$name: with --zero-lost it does not"
	fi
	rm -f strict.raw
	is "$(sha256sum d.qcow2 base.qcow2 2>/dev/null)" "$sums" "$name: nothing was written"
}

# The image that is damaged: clusters of 4 KiB, of which an L2 table maps 2 MiB.
qemu-img create -q -f qcow2 -o cluster_size=4k sound.qcow2 12M
qemu-io -c 'write -q -P 1 0 1500k' -c 'write -q -P 2 3M 2M' -c 'write -q -P 3 8M 1M' -c 'write -q -P 4 2M 100k' sound.qcow2
qemu-img convert -O raw sound.qcow2 sound.raw
l1=$(u64 sound.qcow2 40)
reftable=$(u64 sound.qcow2 48)
l2=$(($(u64 sound.qcow2 "$l1") & mask))

cp sound.qcow2 d.qcow2
rescued 'a sound image' 0 0
is "$("$PLATTER" hash d.qcow2)" "$("$PLATTER" hash --rescue d.qcow2)" 'rescued or not, it is the same disk'

cp sound.qcow2 d.qcow2
junk d.qcow2 "$reftable" 4096
rescued 'the refcount table is garbage' 0 0

# Entries that cannot be right: their clusters are lost, and no others.
cp sound.qcow2 d.qcow2
poke d.qcow2 $((l2 + 8)) 'unlikely'
poke d.qcow2 $((l2 + 8 * 77)) '\x81\0\0\0\0\0\0\2'
rescued 'two L2 entries are garbage' 2 8192
for command in 'snapshot -l' 'scan -f qcow2' 'measure -O raw' 'bench -c 1 -s 4k -o 40k'; do
	# shellcheck disable=SC2086 # a command and its options
	"$PLATTER" $command --rescue --report report.json d.qcow2 >out 2>err
	is "$? $(grep -c ': lost: ' err) $(python3 -c 'import json; print(len(json.load(open("report.json"))["lost"]))')" '2 2 2' \
		"$command says what is lost, and reports it"
done

# A donor has some of what is lost, and not all; beside one place it holds something else.
cp sound.qcow2 donor.qcow2
qemu-io -c 'discard -q 308k 4k' -c 'write -q -P 9 8k 4k' donor.qcow2
for i in 20 40 77; do
	poke d.qcow2 $((l2 + 8 * i)) 'unlikely'
done
sums=$(sha256sum d.qcow2 donor.qcow2)
"$PLATTER" convert --rescue --donor donor.qcow2 --report report.json -O raw d.qcow2 out.raw 2>err
is $? 2 'a donor: exit status'
is "$(python3 judge.py sound.raw out.raw report.json)" 'lost 4096 wrong 0' 'a donor: what it has not is lost'
is "$(python3 -c '
import json
r = json.load(open("report.json"))
print([(i["start"] // 4096, i["length"], i["certainty"]) for i in r["inferred"]], [i["start"] // 4096 for i in r["lost"]])')" \
	"[(1, 4096, 'guess'), (20, 4096, 'likely'), (40, 4096, 'likely')] [77]" 'a donor: what it has is inferred'
is "$(cmp -l out.raw sound.raw | wc -l)" 4096 'a donor: its bytes are right'
is "$(sha256sum d.qcow2 donor.qcow2)" "$sums" 'a donor: nothing was written'
"$PLATTER" map --rescue --donor donor.qcow2 d.qcow2 --output=json 2>/dev/null | grep -c lost >out
is "$(cat out)" 1 'a donor: map'

# The same in place: written into the image, by what the driver finds room for.
cp d.qcow2 in-place.qcow2
"$PLATTER" repair --yes --donor donor.qcow2 --report in-place.json in-place.qcow2 >out 2>err
is "$? $(grep -c '12288 bytes that are lost are taken from' out)" '2 1' 'repair from a donor'
"$PLATTER" convert -O raw in-place.qcow2 in-place.raw
is "$(python3 judge.py sound.raw in-place.raw in-place.json)" 'lost 4096 wrong 0' '  its report names what it took, and what is lost'
is "$(cmp -l in-place.raw sound.raw | wc -l)" 4096 '  the bytes are there'
fails 3 '  qemu-img finds the clusters that nobody knew a place for, and nothing else' qemu-img check -q in-place.qcow2
undone in-place.qcow2 d.qcow2 '  taken back'
"$PLATTER" repair -q --yes --donor donor.qcow2 --output copy.qcow2 in-place.qcow2 >out 2>&1
is "$("$PLATTER" compare -q copy.qcow2 in-place.raw && echo same)" same '  into a copy'
is_file_equal in-place.qcow2 d.qcow2 '  which leaves the image as it is'
for donor in in-place.qcow2 nothing.here; do
	fails 1 "  not from $donor" "$PLATTER" repair --yes --donor $donor in-place.qcow2
	is_file_equal in-place.qcow2 d.qcow2 '  nothing is changed'
done
rm -f in-place.* copy.qcow2
"$PLATTER" convert -O qcow2 -o cluster_size=4k,data_file=external.raw sound.qcow2 external.qcow2
l2e=$(($(u64 external.qcow2 "$(u64 external.qcow2 40)") & mask))
poke external.qcow2 $((l2e + 8)) '\x81\0\0\0\0\0\0\2'
sums=$(sha256sum external.*)
"$PLATTER" repair --yes --donor donor.qcow2 external.qcow2 >out 2>&1
is "$? $(grep -c 'external data file' out)" '1 1' '  not into an external data file'
is "$(sha256sum external.*)" "$sums" '  nothing is written to either'
rm -f external.*
"$PLATTER" hash --rescue --donor d.qcow2 d.qcow2 >/dev/null 2>err
is "$? $(grep -c 'is the image itself' err)" '1 1' 'the image is no donor of its own'
for command in info check map hash; do
	fails 1 "a donor that is not there: $command" "$PLATTER" $command --rescue --donor none d.qcow2
done
"$PLATTER" hash --rescue --donor donor.qcow2 --report - d.qcow2 2>/dev/null | tail -n +2 >out
ok 'a report on standard output' cmp out <(python3 -c 'import json, sys
r = json.load(open("report.json")); assert json.load(open("out")) == r; sys.stdout.write(open("out").read())')
is "$(echo ./-*)" './-*' 'and not in a file of that name'

# Tables written over, one of them by a copy of another, which is then the only one: nothing says that it lies wrong.
cp sound.qcow2 d.qcow2
dd if=d.qcow2 of=d.qcow2 bs=4096 skip=$((($(u64 d.qcow2 $((l1 + 8))) & mask) / 4096)) seek=$((l2 / 4096)) count=1 conv=notrunc status=none
for i in 8 16 32; do
	junk d.qcow2 $(($(u64 d.qcow2 $((l1 + i))) & mask)) 4096
done
rescued 'a table that is a copy of another' 2 6291456

# A file that has lost its end, in the middle of a sector: data, and an L2 table, which covers 2 MiB.
cp sound.qcow2 d.qcow2
last=$(($(u64 d.qcow2 $((l1 + 32))) & mask))
truncate -s $((last + 100)) d.qcow2
rescued 'the file ends inside an L2 table' 2 $((2097152 + 102400))

# A damaged base under an overlay that covers a part of what it has lost.
cp sound.qcow2 base.qcow2
qemu-img create -q -f qcow2 -o cluster_size=4k -b base.qcow2 -F qcow2 d.qcow2
qemu-io -c 'write -q -P 5 4k 8k' -c 'write -q -z 40k 4k' -c 'write -q -P 6 8448k 64k' d.qcow2
qemu-img convert -O raw d.qcow2 sound.raw
for i in 1 5 10 11 20; do
	poke base.qcow2 $((l2 + 8 * i)) 'unlikely'
done
# (entries 1 and 10 of the base are covered)
rescued 'a damaged base, partly covered' 2 12288
"$PLATTER" info --rescue --backing-chain d.qcow2 >out 2>err
is "$? $(grep -c '^Rescue:' out)" '2 2' 'info --backing-chain tells of each layer'
"$PLATTER" convert --rescue --no-backing -O raw d.qcow2 out.raw 2>err
is "$? $(cat err)" '0 ' 'without the base nothing of it is lost'

# The overlay is damaged: what it has lost the base does not show through.
cp sound.qcow2 base.qcow2
t=$(($(u64 d.qcow2 "$(u64 d.qcow2 40)") & mask))
poke d.qcow2 $((t + 8)) 'unlikely'
rescued 'a damaged overlay' 2 4096
"$PLATTER" convert --rescue -O qcow2 -B base.qcow2 -F qcow2 d.qcow2 thin.qcow2 2>err
is $? 2 'converted over the same base: exit status'
ok 'converted over the same base: zeros where it is lost' qemu-io -c 'read -q -P 0 4k 4k' -c 'read -q -P 5 8k 4k' thin.qcow2

# Of a table that is lost as a whole nobody knows which entries it had: what the base has is shown, as a guess.
junk d.qcow2 "$t" 4096
rescued 'a damaged overlay, a whole table' 2 0
ok 'a whole table: what the base has is shown' qemu-io -r -f raw -c 'read -q -P 1 20k 1480k' out.raw
"$PLATTER" repair -q --yes --output mended.qcow2 d.qcow2 2>/dev/null
is "$? $("$PLATTER" hash mended.qcow2 | cut -d' ' -f1)" "2 $("$PLATTER" hash out.raw | cut -d' ' -f1)" 'a whole table: repaired, it shows the same'

# The base is gone: what the overlay has is there.
qemu-img create -q -f qcow2 -o cluster_size=4k -b base.qcow2 -F qcow2 d.qcow2
qemu-io -c 'write -q -P 5 4k 8k' -c 'write -q -z 40k 4k' d.qcow2
rm base.qcow2 thin.qcow2
fails 1 'a missing base is an error without --rescue' "$PLATTER" hash d.qcow2
qemu-img rebase -q -u -b '' d.qcow2
qemu-img convert -O raw d.qcow2 sound.raw
qemu-img rebase -q -u -b base.qcow2 -F qcow2 d.qcow2
rescued 'a base that is gone' 2 $((12582912 - 12288))
ok 'a base that is gone: a finding' grep -q C-OPEN report.json
fails 1 'a base that is refused is no lost one' "$PLATTER" hash --rescue --untrusted d.qcow2

qemu-img convert -O raw sound.qcow2 sound.raw

# Compressed clusters: what comes out before the flaw is given, the rest is lost.
head -c 400000 /dev/urandom | od -An -tx1 | head -c 1048576 >sound.raw
qemu-img convert -c -f raw -O qcow2 sound.raw d.qcow2
t=$(($(u64 d.qcow2 "$(u64 d.qcow2 40)") & mask))
c=$(($(u64 d.qcow2 $((t + 24))) & 0x003fffffffffffff))
python3 - d.qcow2 "$c" <<'PY'
import random, sys, zlib
f = open(sys.argv[1], 'r+b')
f.seek(int(sys.argv[2]))
old = f.read(31000)
# A flaw that shows: mostly other bytes come out.
for seed in range(1000):
    new = old[:9000] + random.Random(seed).randbytes(22000)
    try:
        zlib.decompressobj(-15).decompress(new, 65536)
    except zlib.error:
        break
f.seek(int(sys.argv[2]))
f.write(new)
PY
rm -f report.json
"$PLATTER" convert --rescue --report report.json -O raw d.qcow2 out.raw 2>err
is $? 2 'a flaw in a compressed cluster: exit status'
is "$(python3 judge.py sound.raw out.raw report.json | sed 's/lost [1-9][0-9]*/lost some/')" 'lost some wrong 0' \
	'a flaw in a compressed cluster: what is shown'
is "$(python3 -c '
import json
r = json.load(open("report.json"))
l, i = r["lost"][0], r["inferred"][0]
print(len(r["lost"]), len(r["inferred"]), l["start"] // 65536, i["start"] == 3 * 65536,
      l["start"] + l["length"] == 4 * 65536, i["start"] + i["length"] == l["start"])')" \
	'1 1 3 True True True' 'a flaw in a compressed cluster: good up to it, lost behind it'
"$PLATTER" io --rescue -r -c "read -q $((3 * 65536)) 4k" -c "read -q $((4 * 65536 - 512)) 512" d.qcow2 >out 2>/dev/null
is "$? $(cat out)" '1 read failed: Input/output error' 'before the flaw it can be read, behind it not'

"$PLATTER" info --rescue --report report.json d.qcow2 >/dev/null 2>&1
is "$? $(python3 -c 'import json; print(len(json.load(open("report.json"))["lost"]))')" '0 0' 'who reads nothing sees no flaw'
poke d.qcow2 79 '\2'
refcount=$(u64 d.qcow2 "$(u64 d.qcow2 48)")
poke d.qcow2 "$refcount" '\0\0'
"$PLATTER" info --rescue --report report.json d.qcow2 >/dev/null 2>&1
is "$? $(python3 -c 'import json; print(len(json.load(open("report.json"))["lost"]))')" '2 1' \
	'unless the structure is damaged as well'

# Sectors that cannot be read.
cat >faults <<'CONF'
[inject-error]
event = "read_aio"
errno = "5"
sector = "1000"
CONF
qemu-img convert -O raw sound.qcow2 d.raw
cp d.raw sound.raw
name='json:{"driver":"raw","file":{"driver":"blkdebug","config":"faults","image":{"driver":"file","filename":"d.raw"}}}'
sums=$(sha256sum d.raw)
"$PLATTER" convert --rescue --report report.json -O raw "$name" out.raw 2>err
is $? 2 'a bad sector: exit status'
is "$(python3 judge.py sound.raw out.raw report.json)" 'lost 512 wrong 0' 'a bad sector: it alone is lost'
like "$(cat err)" 'lost: 512 bytes at 512000: Input/output error' 'a bad sector: said so'
"$PLATTER" io --rescue --zero-lost -r -c 'aio_read -q 496k 8k' -c aio_flush "$name" >out 2>&1
like "$(cat out)" 'lost: 512 bytes at 512000' 'a bad sector: through a queue, too'
is "$(sha256sum d.raw)" "$sums" 'a bad sector: nothing was written'

cp sound.raw donor.raw
"$PLATTER" convert --rescue --strict --donor donor.raw --report report.json -O raw "$name" out.raw 2>err
is $? 2 'a bad sector that a donor has: exit status'
is_file_equal out.raw sound.raw 'a bad sector that a donor has: it is there'
is "$(python3 judge.py sound.raw out.raw report.json; python3 -c '
import json
r = json.load(open("report.json"))
print([(i["start"], i["length"], i["certainty"], i["reason"]) for i in r["inferred"]])')" \
	"lost 0 wrong 0
[(512000, 512, 'likely', 'taken from the donor; lost here: Input/output error')]" 'a bad sector that a donor has: inferred'
truncate -s +1M donor.raw
"$PLATTER" hash --rescue --donor donor.raw "$name" >/dev/null 2>err
is "$? $(grep -c 'neither an older copy nor a clone' err)" '1 1' 'a donor of another size is refused'

# A snapshot has lists of its own.
cp sound.qcow2 d.qcow2
qemu-img snapshot -c one d.qcow2
qemu-io -c 'write -q -P 9 0 64k' d.qcow2
t=$(($(u64 d.qcow2 "$(u64 d.qcow2 40)") & mask))
poke d.qcow2 "$t" 'unlikely'
qemu-img convert -O raw sound.qcow2 sound.raw
"$PLATTER" convert --rescue -l one --report report.json -O raw d.qcow2 out.raw 2>err
is_file_equal out.raw sound.raw 'the snapshot is whole'
is "$(python3 judge.py sound.raw out.raw report.json)" 'lost 0 wrong 0' 'the snapshot has lost nothing'

# What it is says its content, where its beginning is lost; a disk with a table of its own is raw.
cp sound.qcow2 headless.qcow2
dd if=/dev/zero of=headless.qcow2 bs=512 count=1 conv=notrunc status=none
sums=$(sha256sum headless.qcow2)
"$PLATTER" info --rescue --output=json headless.qcow2 >out 2>/dev/null
is "$(python3 -c 'import json; r = json.load(open("out")); print(r["format"])')" qcow2 'a qcow2 without a header is found to be one'
"$PLATTER" info --rescue -f raw --output=json headless.qcow2 >out 2>/dev/null
is "$(python3 -c 'import json; r = json.load(open("out")); print(r["format"])')" raw 'unless the format is given'
is "$(sha256sum headless.qcow2)" "$sums" 'nothing was written'
{
	head -c 446 /dev/zero
	printf '\200\0\0\0\203\0\0\0\0\10\0\0\0\10\0\0'
	head -c 48 /dev/zero
	printf '\125\252'
} >disk.raw
dd if=headless.qcow2 of=disk.raw bs=1M seek=1 conv=notrunc status=none
"$PLATTER" info --rescue --output=json disk.raw >out 2>/dev/null
is "$(python3 -c 'import json; r = json.load(open("out")); print(r["format"])')" raw 'a disk with a partition table is raw'

# What cannot be is refused.
fails 1 'a rescued disk is not written' "$PLATTER" bench --rescue -w -c 1 d.qcow2
"$PLATTER" hash --report report.json d.qcow2 >/dev/null 2>err
is "$? $(cat err)" '1 platter: --report is said of a disk that is opened with --rescue' '--report needs --rescue'
"$PLATTER" hash --rescue --strict --zero-lost d.qcow2 >/dev/null 2>err
is "$? $(cat err)" '1 platter: --strict and --zero-lost exclude each other' '--strict or --zero-lost'
sums=$(sha256sum d.qcow2)
"$PLATTER" hash --rescue --report d.qcow2 d.qcow2 >/dev/null 2>err
like "$(cat err)" "'d.qcow2' is an image: the report is not written over it" 'a report is not written over an image'
is "$(sha256sum d.qcow2)" "$sums" 'and the image is as it was'

done_testing
