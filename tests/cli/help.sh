#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# --version and --help as programs read them, the manual page, and the lists for completion.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"

commands='amend bench bitmap chain check commit compare convert create dd df hash help info io map measure rebase repair resize scan snapshot sparsify undo'

like "$("$QEMU_IMG_LINK" --version)" '^qemu-img version 7\.2\.22 \(platter 0\.1\.0\)$' 'version as qemu-img'
is "$("$QEMU_IMG_LINK" -V | sed -n 's/^qemu-img version \([0-9.]*\).*/\1/p')" 7.2.22 'version as clients read it'
is "$("$PLATTER" --version)" 'platter version 0.1.0' 'version as platter'
ok '--help succeeds' "$PLATTER" --help
like "$("$QEMU_IMG_LINK" --help)" '\<info\>.*-U\>' 'info and -U on one line'
like "$("$QEMU_IMG_LINK" --help)" '^usage: qemu-img ' 'help goes by the name'
like "$("$PLATTER" --help)" '^Supported formats:.* raw' 'help lists formats'
is "$("$PLATTER" --complete commands | sort | xargs)" "$commands" 'commands for completion'
for c in $commands; do
	like "$("$PLATTER" --help)" "^  $c " "--help has $c"
	ok "$c --help succeeds" "$PLATTER" "$c" --help
	is "$("$PLATTER" "$c" -h)" "$("$PLATTER" help "$c")" "$c -h and help $c agree"
	like "$("$PLATTER" "$c" -h)" '^(Exit status|.*The status is)' "$c -h says what its status means"
	missing=
	for option in $("$PLATTER" --complete options "$c"); do
		"$PLATTER" "$c" --help | grep -qE -e "^  (-., )?$option([ =,]|\$)" || missing="$missing $option"
	done
	is "$missing" '' "$c --help has every option"
done
fails 1 'help of an unknown command' "$PLATTER" help nosuch

is "$("$PLATTER" --complete value info --output | xargs)" 'human json' 'values of --output'
is "$("$PLATTER" --complete value convert -t | xargs)" 'none writeback writethrough directsync unsafe' 'values of -t'
like "$("$PLATTER" --complete value convert -O)" '^raw$' 'values of -O'
is "$("$PLATTER" --complete value convert -o)" '@any' 'free values'
is "$("$PLATTER" --complete value convert -n)" '' 'options without a value'
is "$("$PLATTER" --complete operand info)" '@file' 'operands'
fails 1 'nonsense is refused' "$PLATTER" --complete nonsense

# What the shell function makes of it.
PATH=${PLATTER%/*}:$PATH
. "$srcdir/cli/completion.bash"
complete_line() {
	COMP_WORDS=("$@")
	COMP_CWORD=$(($# - 1))
	_platter
	printf '%s\n' "${COMPREPLY[@]}" | sort | xargs
}
touch disk.img
is "$(complete_line platter co)" 'commit compare convert' 'completes a command'
is "$(complete_line platter convert --target-i)" '--target-image-opts --target-is-zero' 'completes an option'
is "$(complete_line platter info --output = j)" json 'completes a value behind ='
is "$(complete_line platter info --output =)" 'human json' 'completes an empty value behind ='
is "$(complete_line platter convert -t wr)" 'writeback writethrough' 'completes a value of a short option'
is "$(complete_line platter info di)" disk.img 'completes a file'
is "$(complete_line platter help c)" 'chain check commit compare convert create' 'completes what help takes'

"$PLATTER" help --man >page
is_file_equal page "$srcdir/docs/platter.1" 'docs/platter.1 is up to date ("make update-man")'
if command -v man >/dev/null; then
	is "$(LC_ALL=C.UTF-8 MANROFFSEQ='' man --warnings -l page 2>&1 >/dev/null)" '' 'the page formats without a warning'
else
	skip 'the page formats without a warning' 'man is not installed'
fi
done_testing
