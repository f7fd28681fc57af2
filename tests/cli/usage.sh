#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Wrong command lines: the same words and exit statuses as qemu-img, which scripts match on.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
. "$srcdir/tests/cli/transcript.sh"

wrong_usage() {
	t
	t foo
	t --foo
	t info
	t info a b
	t info -f
	t info -z a
	t info --output=x a
	t info --output
	t info -fqcow2
	t create
	t create x 1M y
	t create x 1.5
	t create x 1kB
	t create x 8E
	t create x 99999999999999999999
	t create x ''
	t create x -1
	t create -o '' x 1M
	t create -o , x 1M
	t create -o a=b, x 1M
	t create -o a=b,,c,,, x 1M
	t create -o a=b -o ,help x 1M
	t create -o a=b -o ,, -o help x 1M
	t check
	t check -r foo a
	t check -r
	t check -T foo a
	t check --output=x a
	t compare a
	t compare a b c
	t compare -f
	t compare -T foo a b
	t map
	t map --start-offset=x a
	t map --max-length=1.5 a
	t map -l
	t map -s 9E a
	t map --output=foo a
	t convert
	t convert a
	t convert -S 1 a o
	t convert -S 1G a o
	t convert -S 5x a o
	t convert -m 0 a o
	t convert -m 17 a o
	t convert -m x a o
	t convert -r x a o
	t convert -l snapshot.foo=1 a o
	t convert -l snapshot.id=1,snapshot.x=1 a o
	t convert -n -o size=1 a o
	t convert --target-is-zero a o
	t convert --target-image-opts a o
	t convert --skip-broken-bitmaps a o
	t convert -C -c a o
	t convert -C -S 4k a o
	t convert -C --salvage a o
	t convert -T foo a o
	t convert -o ''
}

same_as_qemu usage wrong_usage

# What platter has beyond qemu-img 7.2.
for type in tls-creds-psk tls-creds-x509 foo; do
	fails 1 "--object $type is refused" "$PLATTER" info --object "$type,id=a,data=x" a
	like "$("$PLATTER" info --object "$type,id=a" a 2>&1)" "^platter: objects of type '$type' are not supported" \
		"--object $type: says so"
done
like "$("$PLATTER" convert --compress-level 10 a b 2>&1)" '^platter: Invalid compression level' 'bad level'
like "$("$PLATTER" hash --digest sha256/0 a 2>&1)" '^platter: Invalid digest block size' 'bad digest block'
like "$("$PLATTER" hash 2>&1)" '^platter: Expecting image file name' 'hash of nothing'
like "$("$PLATTER" convrt a b 2>&1)" "^platter: Command not found: convrt [(]did you mean 'convert'[?][)]$" 'what may have been meant'
like "$("$PLATTER" help repar 2>&1)" "did you mean 'repair'" 'in help, too'
like "$("$PLATTER" frobnicate 2>&1)" '^platter: Command not found: frobnicate$' 'and what is like none'
like "$("$QEMU_IMG_LINK" convrt a b 2>&1)" '^qemu-img: Command not found: convrt$' 'as qemu-img: its words'
like "$("$PLATTER" repair a --dryrun 2>&1)" "^platter: unrecognized option '--dryrun' [(]did you mean '--dry-run'[?][)]" 'of options, too'
like "$("$PLATTER" repair --reprot=x a 2>&1)" "did you mean '--report'" 'with a value'
unlike "$("$PLATTER" repair --frobnicate a 2>&1)" 'did you mean' 'and what is like none'
like "$("$PLATTER" repair -y a 2>&1 | tail -n 1)" "^Try 'platter repair --help' for" 'the help that is named is the command'\''s'
unlike "$("$QEMU_IMG_LINK" check --rescu2 a 2>&1)" 'did you mean|img check' 'as qemu-img: its words'
fails 1 'a device that is full is noticed' sh -c "'$PLATTER' --help >/dev/full"
done_testing
