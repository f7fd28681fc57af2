#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Sound images that QEMU has made stay as they are; of those whose writer was killed only counts change (sound.py).

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires python3 qemu-img qemu-io

seed=${PLT_SEED:-$RANDOM}
echo "# PLT_SEED=$seed"
python3 -B "$srcdir/tests/repair/sound.py" "${COUNT:-10}" "$seed" >out 2>&1
status=$?
diag "$(cat out)"
is $status 0 'sound images are not touched, and nothing of the others is lost'
like "$(tail -n 1 out)" 'closed: [1-9][0-9]* with status 0' 'there were some'
done_testing
