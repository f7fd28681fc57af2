#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Every source file says on top under which licence it is, and whose it is.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"

# Sources below a root, without what tools generate.
sources() {
	(cd "$1" && find . \
		\( -path './.git' -o -path './build*' -o -path './_build' -o -path './_inst' \
		   -o -path './autom4te.cache' -o -path './m4' -o -path './platter-*' \) -prune -o \
		-type f \( -name '*.[ch]' -o -name '*.sh' -o -name '*.mk' -o -name '*.py' \
		   -o -name '*.map' -o -name 'Makefile.am' -o -name 'configure.ac' \
		   -o -path './bootstrap' -o -path './.ci/run' -o -path './.clang-format' \) \
		! -name 'config.h' -print | sort)
}

offenders() {
	sources "$1" | while read -r file; do
		top=$(head -n 4 "$1/$file")
		[[ $top == *'SPDX-License-Identifier: BSD-3-Clause'* &&
			$top == *'Copyright (c) the platter authors'* ]] || echo "$file"
	done
}

isnt "$(sources "$srcdir" | grep -c '\.c$')" 0 'there are sources to look at'
is "$(offenders "$srcdir")" '' 'every source file has its SPDX and copyright lines'
ok 'LICENSE is the licence that they name' grep -q 'Redistributions in binary form' "$srcdir/LICENSE"

# Files without either line are found.
mkdir -p planted/io
printf '/* SPDX-License-Identifier: BSD-3-Clause */\n/* Copyright (c) the platter authors */\n' \
	>planted/io/good.c
printf '/* Copyright (c) the platter authors */\n' >planted/io/bad.h
printf '/* SPDX-License-Identifier: BSD-3-Clause */\n' >planted/io/bad.c
printf '#!/bin/sh\n' >planted/bootstrap
is "$(offenders planted)" $'./bootstrap\n./io/bad.c\n./io/bad.h' 'files without them are found'
done_testing
