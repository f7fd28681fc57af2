#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# All rows, one table.  "make bench" builds what they need and runs this.
here=$(dirname "$(readlink -f "$0")")
printf '%-52s %9s %9s %7s   %s\n' job ours peer ratio 'to reach'
for s in convert compress sparse vhd read metadata random alloc crypt repair chain sparsify; do
	bash "$here/$s.sh" || exit 1
done
