#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# libplatter.so exports exactly what platter.map lists, and that is exactly what include/platter.h
# declares: nothing internal leaks, nothing promised is missing.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires nm

without_comments() {
	sed -E ':a;N;$!ba;s@/\*([^*]|\*+[^*/])*\*+/@@g' "$1"
}

in_header() {
	without_comments "$1" | grep -oE '\bplt_[a-z0-9_]+\(' | tr -d '(' | sort -u
}

in_map() {
	without_comments "$1" | sed -n '/global:/,/local:/p' |
		grep -oE '[A-Za-z0-9_*]+;' | tr -d ';' | sort
}

# Of the node itself nm shows an absolute symbol.
in_library() {
	nm -D --defined-only "$1" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort
}

header=$(in_header "$srcdir/include/platter.h")
map=$(in_map "$srcdir/platter.map")

isnt "$(wc -l <<<"$header")" 1 'the header declares functions'
is "$map" "$header" 'platter.map lists what include/platter.h declares'
is "$(uniq -d <<<"$map")" '' 'platter.map lists each once'

library=$builddir/.libs/libplatter.so
if [ -e "$library" ]; then
	is "$(in_library "$library")" "$header" 'libplatter.so exports what include/platter.h declares'
else
	skip 'libplatter.so exports what include/platter.h declares' 'no shared library was built'
fi

# The functions above see a difference.
cat >planted.h <<'END'
/* plt_not_this(1); */
int plt_a(int x);
typedef int (*plt_callback)(void *arg);
int plt_b(int y /* see plt_nor_this() */,
	  void (*f)(void));
END
is "$(in_header planted.h)" $'plt_a\nplt_b' 'comments and callbacks are not declarations'
printf '/* c; */\nP {\nglobal:\n\tplt_a;\n\tplt_*;\nlocal:\n\t*;\n};\n' >planted.map
is "$(in_map planted.map)" $'plt_*\nplt_a' 'a wildcard in a map would show'
done_testing
