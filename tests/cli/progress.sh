#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Progress: where it is shown and where not, and what an interruption leaves.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"

head -c 8M /dev/zero | tr '\0' x >data.raw

is "$("$PLATTER" convert -p -f raw -O raw data.raw o | tr '\r' '\n' | grep . | sed -n '1p;$p' | tr -d ' ' | xargs)" \
	'(0.00/100%) (100.00/100%)' 'the plain form begins at 0 and ends at 100'
"$PLATTER" convert -p -f raw -O raw data.raw o >out
unlike "$(tr '\r' '\n' <out)" '[^ 0-9./()%]' 'the plain form and nothing else'
is "$(tail -c 1 out | od -An -c | tr -d ' ')" '\n' 'it ends with a newline'
is "$("$PLATTER" convert -q -p -f raw -O raw data.raw o 2>&1)" '' '-q silences -p'
is "$("$PLATTER" convert -r 40M -f raw -O raw data.raw o 2>&1)" '' 'nothing on a pipe, however long it takes'
is "$("$PLATTER" compare -p -f raw -F raw data.raw data.raw | tr '\r' '\n' | grep -c 'Images are identical\.')" 1 \
	'the result stands on a line of its own'

if command -v script >/dev/null; then
	script -qec "'$PLATTER' convert -p -r 4M -f raw -O raw data.raw o" /dev/null </dev/null >terminal
	like "$(tr '\r' '\n' <terminal)" ' %  [0-9.]+ (MiB|B|KiB) of 8 MiB  ' 'rate and amount on a terminal'
	like "$(tr '\r' '\n' <terminal)" '[0-9]+:[0-9]{2} left' 'time left on a terminal'
else
	skip 'on a terminal' 'script is not installed'
fi

"$PLATTER" convert -r 4M -f raw -O raw data.raw slow 2>err &
pid=$!
sleep 0.7
kill -USR1 $pid
sleep 0.5
kill -INT $pid 2>/dev/null
kill -TERM $pid
wait $pid
is "$?" 143 'SIGTERM ends it'
like "$(cat err)" '^    \([0-9]+\.[0-9]{2}/100%\)$' 'SIGUSR1 prints one line'
rm -f data.raw o out terminal err
is "$(ls -A)" '' 'an interrupted copy leaves nothing'
done_testing
