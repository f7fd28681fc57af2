# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Benches print ratios against peers; they are not tests.

EXTRA_PROGRAMS = bench/gen bench/blkbench bench/cryptbench
bench_gen_SOURCES = bench/gen.c
bench_gen_LDADD =
bench_blkbench_SOURCES = bench/blkbench.c
bench_blkbench_LDADD = libplatter_core.la
bench_cryptbench_SOURCES = bench/cryptbench.c
bench_cryptbench_LDADD = libplatter_core.la

EXTRA_DIST += \
	bench/alloc.sh \
	bench/chain.sh \
	bench/compress.sh \
	bench/convert.sh \
	bench/crypt.sh \
	bench/lib.sh \
	bench/metadata.sh \
	bench/random.sh \
	bench/read.sh \
	bench/repair.sh \
	bench/run.sh \
	bench/sparse.sh \
	bench/sparsify.sh \
	bench/vhd.sh \
	$(NULL)

CLEANFILES += bench/gen bench/blkbench bench/cryptbench

bench: platter$(EXEEXT) bench/gen$(EXEEXT) bench/blkbench$(EXEEXT) bench/cryptbench$(EXEEXT)
	PLATTER=$(abs_top_builddir)/platter BENCH_BIN=$(abs_top_builddir)/bench \
		$(BASH) $(srcdir)/bench/run.sh
.PHONY: bench
