#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# The tarball has every file that git has: each is named in a local.mk, in Makefile.am, or is what autotools take along
# by themselves.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires git

# unnamed ROOT: those of the files on standard input that no makefile below ROOT names
unnamed() {
	(cd "$1" && find . -name 'build*' -prune -o \( -name local.mk -o -name Makefile.am \) -exec cat {} +) |
		grep -v '^#' | tr ' \t\\' '\n\n\n' | sort -u >named
	grep -vxE '.gitignore|configure.ac|Makefile.am|.*/local.mk|build-aux/.*|m4/.*|.*\.in' |
		awk 'NR == FNR { named[$0] = 1; next }
			{ for (at = $0; at != "" && !(at in named); ) if (!sub("/[^/]*$", "", at)) at = ""
			  if (at == "") print }' named -
}

top=$(git -C "$srcdir" rev-parse --show-toplevel 2>/dev/null)
[ -n "$top" ] && [ "$top" -ef "$srcdir" ] || skip_all 'the source is no checkout'
is "$(git -C "$srcdir" ls-files | unnamed "$srcdir")" '' 'every file is in the tarball'

mkdir -p planted/docs
printf 'EXTRA_DIST = \\\n\tdocs/a.md \\\n\tdocs/c \\\n\t$(NULL)\n# docs/b.md\n' >planted/Makefile.am
is "$(printf '%s\n' docs/a.md docs/b.md docs/c/d docs/cc/d Makefile.am | unnamed planted)" $'docs/b.md\ndocs/cc/d' 'what no list has is found'
done_testing
