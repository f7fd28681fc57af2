#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# The program on the images of make-images.c and make-vhd.c (under a sanitizer on a third, others each time): within bounds
# of time and memory, with the right status,
# one line that says which file and why, no other file opened by those who promise that, and nothing
# changed in what was only to be read.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires prlimit timeout mkfifo

make_images=$builddir/tests/fuzz/make-images
make_vhd=$builddir/tests/fuzz/make-vhd
[ -x "$make_images" ] || skip_all "make-images was not built"

# limited COMMAND...: out, err, status.  A sanitizer reserves terabytes of addresses and is slow; a processor that
# others use too counts a second for less than one (the longest takes 2.5).
limited() {
	if [ "$SANITIZER" = 1 ]; then
		timeout 60 "$@" </dev/null >out 2>err
	else
		timeout 40 prlimit --as=1073741824 --cpu=10 "$@" </dev/null >out 2>err
	fi
	status=$?
}

# Anything but these statuses is a crash, a limit or a sanitizer's report.
allowed() {
	case $1 in
	check) case $status in 0 | 1 | 2 | 3 | 63) return 0 ;; esac ;;
	repair) case $status in [0-3]) return 0 ;; esac ;;
	compare) case $status in [0-4]) return 0 ;; esac ;;
	*) case $status in 0 | 1) return 0 ;; esac ;;
	esac
	return 1
}

# One line on stderr (warnings apart), which names the file.  compare and check speak on stdout too.
explained() {
	local lines

	lines=$(grep -cv -e '^platter: warning: ' err)
	case $1:$status in
	check:[023] | check:63 | repair:[023] | compare:1) return 0 ;;
	*:0) [ "$lines" -eq 0 ] ;;
	check:1 | repair:1) grep -q . err ;;
	create:1) grep -q '^platter: target: ' err ;; # and qemu-img's second line
	map:1) [ "$lines" -eq 1 ] && grep -q -e "^platter: .*$2" -e 'external, encrypted or compressed' err ;;
	*) [ "$lines" -eq 1 ] && grep -q "^platter: .*$2" err ;;
	esac
}

mkdir images || exit 99
cd images || exit 99
"$make_images" . >../names || exit 99
"$make_vhd" . >../vhd-names || exit 99
cat ../vhd-names >>../names
mkfifo fifo
seq 1 20000 | head -c 51200 >secret
echo 'no image' >make.log
sums() { sha256sum -- $(grep -v -e disk-2e -e sparse -e file- -e snaps-64m ../names) secret; }
sums >../before

# ---- every image, every command ----------------------------------------------------------------

commands="info check repair convert map compare hash create"
[ "$SANITIZER" = 1 ] && commands="info check repair convert"
for command in $commands; do
	bad=
	while read -r name; do
		case $command:$name in
		# 2 EiB to go through, 8 TiB to read, 2^29 entries to look at: that takes its time with any program
		convert:disk-2e* | hash:disk-2e* | map:disk-2e-[fh]* | compare:disk-2e-[fh]* | hash:file-* | \
			compare:disk-2e | hash:rt-far | map:vhd-sparse-t* | convert:vhd-sparse-* | hash:vhd-sparse-o*) continue ;;
		esac
		sampled || continue
		rm -f target
		case $command in
		convert) limited "$PLATTER" convert -O raw "$name" target ;;
		repair) limited "$PLATTER" repair --dry-run "$name" ;;
		compare) limited "$PLATTER" compare "$name" sound ;;
		create) limited "$PLATTER" create -q -f qcow2 -b "$name" -F qcow2 target ;;
		*) limited "$PLATTER" "$command" "$name" ;;
		esac
		if ! allowed $command; then
			bad="$bad
$name: status $status: $(head -c 400 err)"
		elif ! explained $command "$name"; then
			bad="$bad
$name: status $status is not explained: $(head -c 400 err)"
		elif [ $command = convert ] && [ "$status" -ne 0 ] && [ -e target ]; then
			bad="$bad
$name: the target of a failed convert is left behind"
		fi
	done <../names
	is "$bad" "" "$command: bounded, right status, one line that names the file"
done
rm -f target
sums >../after
is_file_equal ../before ../after 'no image was changed'

# ---- single ones -------------------------------------------------------------------------------

# expect NAME INFO CHECK CONVERT [ERROR]: statuses; ERROR is what convert (or info) says.
expect() {
	local got text=

	limited "$PLATTER" info "$1"
	got=$status
	[ "$status" -eq 0 ] || text=$(cat err)
	limited "$PLATTER" check "$1"
	got="$got $status"
	limited "$PLATTER" convert -O raw "$1" target
	got="$got $status"
	[ "$status" -eq 0 ] || text=$(cat err)
	rm -f target
	if [ "$got" != "$2 $3 $4" ]; then
		fail "$1" "info, check and convert exit $got, expected $2 $3 $4" "$text"
	elif [ -n "${5:-}" ] && ! printf '%s\n' "$text" | grep -Eq -e "$5"; then
		fail "$1" "it says: $text" "expected: $5"
	else
		pass "$1: $2 $3 $4"
	fi
}

expect sound 0 0 0
expect cut-1 0 63 0
expect cut-71 1 1 1 'too short'
expect cut-104 0 2 1 "'cut-104': Active L1 table .* beyond the end of the file \(104 bytes\)"
expect cut-tables 0 2 1 'beyond the end of the file'
expect size-max 1 2 1 'too big'
expect bits-max 1 2 1 'cluster size: 2\^4294967295'
expect l1-size-max 1 2 1 'Active L1 table too large'
expect rt-size-max 1 2 1 'Reference count table too large'
expect hlen-max 1 2 1 'header exceeds cluster size'
expect incompatible 1 1 1 'feature'
expect features-1m 1 1 1 'name\?\?\[m'
expect ext-too-long 1 2 1 'extension too large'
expect l1-in-header 0 2 1 'is damaged'
expect l1-to-itself 0 2 1 'guest offset 0 is damaged'
expect l2-to-l1 0 2 1 'guest offset 0 is damaged'
expect packed-in-header 0 2 1 'is damaged'
expect packed-beyond 0 2 1 'compressed cluster at 0x4000000000000 .* damaged'
expect packed-zstd-bomb 0 0 1 'compressed cluster at 0xa00 .* damaged'
expect snap-many 1 1 1 'Snapshot table too large'
expect snap-beyond 1 2 1 'Snapshot table lies beyond the end of the file'
expect bitmaps-on-l1 0 2 0
expect disk-2e 0 2 1 'File too large|Could not resize'
expect backing-zero 0 0 1 "'backing-zero'.*'/dev/zero' to be a regular file"
expect backing-dir 0 0 1 "'..' to be a regular file"
expect backing-fifo 0 0 1 "'fifo' to be a regular file; it is a FIFO"
expect backing-probe-fifo 0 0 1 "'fifo' to be a regular file; it is a FIFO"
expect backing-self 0 0 1 "'backing-self' appears twice"
expect backing-json-self 0 0 1 "'backing-json-self' appears twice"
expect backing-other 0 0 1 "'backing-other' appears twice"
expect backing-missing 0 0 1 "'no-such-file': No such file"
expect backing-unknown 0 0 1 "'nonsense'"
expect backing-protocol 0 0 1 "nbd"
expect backing-json-deep 0 0 1 'JSON'
expect data-none 0 0 1 "'data-file' is required"
expect data-self 0 0 1 'is the image itself'
expect data-zero 0 0 1 "'/dev/zero' to be a regular file"
expect data-fifo 0 0 1 "'fifo' to be a regular file; it is a FIFO"
expect data-json 0 0 1 'not a plain path'
expect data-shifted 0 0 1 'guest offset 0 is damaged'

expect vhd-sound 0 0 0
expect vhd-cut-header 1 2 1 'beyond the end of the file \(700 bytes\)'
expect vhd-cut-table 1 2 1 'beyond the end of the file \(1539 bytes\)'
expect vhd-cut-block 0 2 0
expect vhd-only-head 1 2 1 'puts the dynamic header at 0x200, outside of the file'
expect vhd-entries-max 1 2 1 'Max Table Entries too large \(4294967295\)'
expect vhd-entries-most 1 2 1 'lies beyond the end of the file'
expect vhd-entries-few 1 2 1 'a table of 2 entries'
expect vhd-block-zero 1 2 1 'Invalid block size 0'
expect vhd-block-2g 1 2 1 'Invalid block size 2147483648'
expect vhd-size-max 1 2 1 '2040 GiB are the most'
expect vhd-size-zero 0 3 0
expect vhd-header-far 1 2 1 'outside of the file'
expect vhd-table-far 1 2 1 'beyond the end of the file'
expect vhd-bat-far 0 2 1 'guest offset 0 is damaged'
expect vhd-bat-header 0 2 1 'guest offset 0 is damaged'
expect vhd-bat-twice 0 2 0
expect vhd-parent-none 0 2 1 'no parent locator'
expect vhd-parent-self 0 0 1 "'vhd-parent-self' appears twice"
expect vhd-parent-missing 0 0 1 "'no-such-file'"
expect vhd-parent-fifo 0 0 1 "'fifo' to be a regular file; it is a FIFO"
expect vhd-parent-zero 0 0 1 "'/dev/zero' to be a regular file"
expect vhd-parent-other 0 0 1 "its parent, the disk 09000000-.*'vhd-sound' is the disk 00000007-"
expect vhd-parent-json 0 0 1 'not found'
expect vhd-parent-escape 0 0 1 '\?\[31mred'
expect vhd-locators 0 2 1 'not found'

# What comes out of a sound one is the disk.
limited "$PLATTER" convert -O raw sound target
is "$(head -c 1024 target | tr -s ab)" ab 'a sound image converts to its data'
rm -f target

# ---- chains ------------------------------------------------------------------------------------

cp sound chain-0
for i in $(seq 1 300); do
	# the header of backing-other, with another name behind it
	cp backing-other "chain-$i"
	printf 'chain-%-9s' "$((i - 1))" | tr ' ' '/' >name
	dd if=name of="chain-$i" bs=1 seek=$((112 + 16 + 8)) conv=notrunc status=none
	printf 'chain-%d\0\0\0\0\0\0\0' "$((i - 1))" | dd of="chain-$i" bs=1 seek=$((112 + 16 + 8)) conv=notrunc status=none
done
limited "$PLATTER" info chain-300
is "$status" 0 'info of the top of a chain of 300'
limited "$PLATTER" convert -O raw chain-100 target
is "$status" 0 'a chain of 100 converts'
limited "$PLATTER" convert -O raw chain-300 target2
is "$status" 1 'a chain of 300 is refused'
like "$(cat err)" 'more than 256 layers' 'and says why'
is "$(wc -l <err)" 1 'in one line'
limited "$PLATTER" info --backing-chain backing-self
is "$status" 1 'info --backing-chain sees a loop of one'
like "$(cat err)" 'infinite loop' 'and says so'
limited "$PLATTER" info --backing-chain backing-other
is "$status" 1 'info --backing-chain sees a loop of two'
rm -f target target2

# ---- what goes on for ever can be stopped --------------------------------------------------------

"$PLATTER" convert -O qcow2 disk-2e-hole target </dev/null >out 2>err &
pid=$!
sleep 1
kill -TERM "$pid"
for _ in $(seq 100); do
	kill -0 "$pid" 2>/dev/null || break
	sleep 0.1
done
kill -KILL "$pid" 2>/dev/null
wait "$pid"
is $? 143 'a conversion that measures 2 EiB of one extent hears SIGTERM'
rm -f target

# ---- memory of opening for writing ---------------------------------------------------------------

cp bitmap-claims writable
limited "$PLATTER" convert -n -O qcow2 sound writable
is "$status" 0 'an image whose bitmaps claim 2 GiB of memory can be written'
like "$(cat err)" 'more than 192 MiB of memory' 'and it is said that they are not kept'
cp sound writable
limited "$PLATTER" convert -n -O qcow2 counts-zero writable
is "$status" 0 'writing into a sound image'
for name in counts-zero rt-empty l1-in-header rt-on-l1 rt-far; do
	cp --sparse=always "$name" writable
	limited "$PLATTER" convert -n -f raw -O qcow2 secret writable
	is "$status" 1 "writing into $name is refused"
	# all but the mark that the image is corrupt
	is "$(cmp -n 104 -l "$name" writable | awk '$1 != 80 || $3 != $2 + 2')" '' 'and its header is what it was'
done
rm writable

# ---- names given by the caller -----------------------------------------------------------------

deep=$(printf '{"file":%.0s' {1..15000})
limited "$PLATTER" info "json:$deep"
is "$status" 1 'json: of 15,000 levels is refused'
is "$(wc -l <err)" 1 'in one line'
limited "$PLATTER" info "json:$(printf '[%.0s' {1..100000})"
is "$status" 1 'json: of 100,000 brackets is refused'
limited "$PLATTER" info --image-opts "$(printf 'file.%.0s' {1..20000})x=1"
is "$status" 1 'a key of 20,000 parts is refused'
limited "$PLATTER" info fifo
is "$status" 1 'a FIFO as image is refused, not waited for'
limited "$PLATTER" info /dev/zero
is "$status" 1 'a character device is refused'

# ---- --untrusted -------------------------------------------------------------------------------

for name in backing-missing backing-zero backing-fifo backing-json-self data-raw data-zero data-json \
	vhd-parent-missing vhd-parent-zero vhd-parent-secret vhd-parent-fifo; do
	bad=
	for command in convert map compare hash; do
		case $command in
		convert) limited "$PLATTER" convert --untrusted -O raw $name target ;;
		compare) limited "$PLATTER" compare --untrusted $name sound ;;
		*) limited "$PLATTER" $command --untrusted $name ;;
		esac
		want=1
		[ $command = compare ] && want=2
		if [ "$status" -ne "$want" ] || ! grep -Eq 'refused|not a plain path' err; then
			bad="$bad $command: $status $(cat err)"
		fi
		rm -f target
	done
	is "$bad" "" "--untrusted refuses the reference of $name"
done
limited "$PLATTER" map --untrusted backing-missing
like "$(cat err)" "'no-such-file' is refused" 'and names it'
limited "$PLATTER" convert --untrusted -O raw sound target
is "$status" 0 'an image without references passes'
mkdir allowed
cp secret allowed/secret
ln -s ../secret allowed/link
cp data-raw allowed/data-raw
limited "$PLATTER" convert --allow-dir allowed -O raw allowed/data-raw target
is "$status" 0 '--allow-dir: a reference inside passes'
limited "$PLATTER" convert --allow-dir allowed -O raw data-raw target
is "$status" 1 'one outside does not'
rm allowed/secret
ln -s ../secret allowed/secret
limited "$PLATTER" convert --allow-dir allowed -O raw allowed/data-raw target
is "$status" 1 'nor a symbolic link that leads outside'
rm -f target

# ---- nothing else is opened --------------------------------------------------------------------

if strace -o trace -e trace=openat true >/dev/null 2>&1 && [ "$SANITIZER" = 0 ]; then
	for name in backing-missing backing-fifo backing-zero backing-json-self data-raw data-fifo backing-fd \
		vhd-parent-missing vhd-parent-fifo vhd-parent-zero vhd-parent-secret; do
		bad=
		for command in "info" "info --output=json" "check" "check --output=json"; do
			strace -f -o trace -e trace=open,openat,openat2,creat,stat,newfstatat,statx,access,faccessat,connect \
				"$PLATTER" $command $name >/dev/null 2>&1
			bad=$bad$(grep -E '"(.*/)?(no-such-file|fifo|secret|zero)"|"/proc/self/fd/0"' trace)
			[ "$(grep -Ec "open[^\"]*\"$name\"" trace)" -ge 1 ] || bad="$bad no open of $name?"
		done
		is "$bad" "" "info and check of $name touch nothing but the file"
	done
else
	skip 'info and check touch nothing but the file' 'strace does not work here'
fi

# ---- memory of opening -------------------------------------------------------------------------

if [ "$SANITIZER" = 0 ]; then
	bad=
	while read -r name; do
		"$make_images" --opens "$name" sound >err 2>&1
		[ $? -eq 0 ] || bad="$bad $(head -c 300 err)"
	done <../names
	is "$bad" "" 'opening takes at most twice the tables and 8 MiB'
else
	skip 'opening takes at most twice the tables and 8 MiB' 'not with a sanitizer'
fi

done_testing
