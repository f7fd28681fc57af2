/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What a guest does to a qcow2: it writes, zeroes and discards, over each layout of the file.  Each scenario is short,
 * so that its windows can be enumerated well, and is named after the part of the order of writes that it exercises.
 */
#include "tests/fault/scenarios.h"

#include "base/checked.h"
#include "tests/unit.h"

#define AES "encrypt.format=aes,encrypt.key-secret=k"

/* ---- allocating ------------------------------------------------------------------------------ */

/* New L2 tables, heads and tails copied from below, in-place overwrites. */
static int run_first_writes(struct rig *r)
{
	TRY(rig_write(r, 0, 64));
	TRY(rig_write(r, 40 * KIB + 64, 1024));
	TRY(rig_flush(r));
	TRY(rig_write(r, 64, 192));	   /* in place */
	TRY(rig_write(r, 41 * KIB, 2048)); /* partly in place */
	TRY(rig_write(r, 80 * KIB + 320, 128));
	TRY(rig_write(r, 120 * KIB, 512));
	TRY(rig_flush(r));
	TRY(rig_write(r, 120 * KIB + 448, 64));
	TRY(rig_write(r, 81 * KIB, 8 * KIB));
	return 0;
}

/*
 * The data is durable long before its counts are: nothing but their own edges keeps the entries
 * behind.
 */
static int run_synced(struct rig *r)
{
	for (unsigned i = 0; i < 8; i++) {
		TRY(rig_write(r, i / 2 * 36 * KIB + i % 2 * 8 * KIB + 64, 4 * KIB));
		TRY(rig_sync(r));
		TRY(rig_flush(r));
	}
	return 0;
}

/* A refcount block for each 64 clusters. */
static int run_refblocks(struct rig *r)
{
	for (unsigned i = 0; i < 12; i++) {
		TRY(rig_write(r, i * 9 * KIB, 8 * KIB + 64));
		if (i % 4 == 3)
			TRY(rig_flush(r));
	}
	return 0;
}

/* The refcount table covers 2 MiB; almost all of that is in use. */
static void prepare_growth(struct rig *r)
{
	rig_open(r);
	rig_must(r, rig_write(r, 0, 1948 * KIB));
	rig_close(r);
}

static int run_growth(struct rig *r)
{
	for (uint64_t off = 1948 * KIB, n = 0; off < 2040 * KIB; off += 6 * KIB, n++) {
		TRY(rig_write(r, off, 6 * KIB));
		if (n == 9)
			TRY(rig_flush(r));
	}
	TRY(rig_flush(r));
	/* the cluster of the old refcount table, data for a while, becomes an L2 table */
	TRY(rig_discard(r, 1948 * KIB, 92 * KIB));
	TRY(rig_flush(r));
	TRY(rig_write(r, 2100 * KIB, 512));
	TRY(rig_write(r, 2140 * KIB, 512));
	return rig_flush(r);
}

/* Reads bring in what lies below, and marks for zeros; what was written meanwhile stays. */
static int run_copies(struct rig *r)
{
	uint64_t cs = rig_cluster(r), half = r->size / 2;

	TRY(rig_write(r, cs + 64, 64));
	TRY(rig_read(r, 64, 3 * cs)); /* around a cluster that is here */
	TRY(rig_read(r, half, 64));
	TRY(rig_flush(r));
	TRY(rig_write(r, 2 * cs + 128, 64)); /* in place now */
	TRY(rig_read(r, r->size - cs - 64, cs + 64)); /* below lies nothing */
	TRY(rig_discard(r, half, cs));
	TRY(rig_read(r, half - cs, 3 * cs));
	TRY(rig_flush(r));
	TRY(rig_zero(r, 5 * cs, cs / 2, 0));
	TRY(rig_read(r, 4 * cs, 4 * cs));
	return rig_write(r, 6 * cs, cs);
}

/* ---- freeing --------------------------------------------------------------------------------- */

void scenario_prepare_full(struct rig *r)
{
	rig_open(r);
	rig_must(r, rig_write(r, 0, r->size / 4 * 3));
	rig_close(r);
}

static int run_reuse(struct rig *r)
{
	uint64_t cs = rig_cluster(r);

	TRY(rig_discard(r, 2 * cs, 4 * cs));
	TRY(rig_zero(r, 8 * cs, 2 * cs, PLT_ZERO_UNMAP));
	TRY(rig_flush(r));
	TRY(rig_write(r, r->size - 4 * cs, 2 * cs + 64)); /* takes what was freed */
	TRY(rig_discard(r, 12 * cs, 2 * cs));
	TRY(rig_write(r, 13 * cs + 128, 64));
	TRY(rig_flush(r));
	TRY(rig_write(r, 2 * cs + 64, 128));
	TRY(rig_write(r, 12 * cs, cs));
	TRY(rig_zero(r, 16 * cs, cs, 0)); /* keeps its cluster: what lies there is stale */
	TRY(rig_flush(r));
	TRY(rig_write(r, 16 * cs + 256, 64)); /* head and tail are zeros now */
	TRY(rig_discard(r, 0, cs));
	return 0;
}

/* ---- compressed ------------------------------------------------------------------------------ */

static int run_compressed(struct rig *r)
{
	uint64_t cs = rig_cluster(r);

	for (unsigned i = 0; i < 6; i++)
		TRY(rig_compressed(r, i * cs));
	TRY(rig_flush(r));
	TRY(rig_write(r, 2 * cs + 64, 128)); /* unpacks one of those that share a cluster */
	TRY(rig_compressed(r, 6 * cs));
	TRY(rig_compressed(r, 3 * cs));
	TRY(rig_flush(r));
	TRY(rig_discard(r, 4 * cs, cs));
	TRY(rig_write(r, 8 * cs, cs));
	TRY(rig_flush(r));
	TRY(rig_compressed(r, 8 * cs)); /* packs what was plain */
	TRY(rig_flush(r));
	TRY(rig_write(r, 9 * cs, 2 * cs));
	return 0;
}

/*
 * All that is in the last packed cluster goes away, its place is given to others, and packing goes
 * on.
 */
static int run_tail(struct rig *r)
{
	uint64_t cs = rig_cluster(r);

	TRY(rig_compressed(r, 0));
	TRY(rig_flush(r));
	TRY(rig_write(r, 0, cs));
	TRY(rig_flush(r));
	TRY(rig_write(r, cs, cs));
	TRY(rig_compressed(r, 4 * cs));
	TRY(rig_flush(r));
	TRY(rig_compressed(r, 5 * cs));
	return 0;
}

/* ---- shared ---------------------------------------------------------------------------------- */

void scenario_prepare_snapshot(struct rig *r)
{
	uint64_t cs;

	rig_open(r);
	cs = rig_cluster(r);
	rig_must(r, rig_write(r, 0, 12 * cs));
	rig_must(r, rig_compressed(r, 12 * cs));
	rig_must(r, rig_compressed(r, 13 * cs));
	rig_must(r, rig_zero(r, 3 * cs, cs, 0));
	rig_must(r, rig_write(r, r->size - cs, cs)); /* in a second L2 table */
	rig_close(r);
	rig_make_snapshot(r);
}

static int run_shared(struct rig *r)
{
	uint64_t cs = rig_cluster(r);

	TRY(rig_write(r, cs + 64, 64));
	TRY(rig_discard(r, 5 * cs, 2 * cs));
	TRY(rig_flush(r));
	TRY(rig_write(r, 5 * cs + 512, 2 * cs));
	TRY(rig_write(r, 12 * cs, 64));
	TRY(rig_write(r, 3 * cs + 128, 64));
	TRY(rig_write(r, cs + 128, 512));
	TRY(rig_flush(r));
	TRY(rig_zero(r, 8 * cs, cs, 0));
	TRY(rig_compressed(r, 9 * cs));
	TRY(rig_write(r, r->size - cs + 64, 64));
	TRY(rig_flush(r));
	TRY(rig_write(r, 14 * cs, 2 * cs));
	return 0;
}

/* ---- other layouts --------------------------------------------------------------------------- */

static int run_subclusters(struct rig *r)
{
	uint64_t cs = rig_cluster(r);

	TRY(rig_write(r, 64, 64));
	TRY(rig_write(r, cs + 512, 1024));
	TRY(rig_flush(r));
	TRY(rig_write(r, 2048 + 64, 64)); /* a subcluster that the cluster has no data for yet */
	TRY(rig_write(r, cs + 1536, 64));
	TRY(rig_zero(r, cs, cs, 0));
	TRY(rig_flush(r));
	TRY(rig_write(r, cs + 4096 + 128, 64)); /* stale below */
	TRY(rig_discard(r, 0, cs));
	TRY(rig_flush(r));
	TRY(rig_write(r, 5 * cs + 320, 2048)); /* takes what was freed */
	TRY(rig_compressed(r, 2 * cs));
	TRY(rig_flush(r));
	TRY(rig_write(r, 2 * cs + 64, 64));
	return 0;
}

static int run_external(struct rig *r)
{
	uint64_t cs = rig_cluster(r);

	TRY(rig_write(r, 64, 64));
	TRY(rig_write(r, 3 * cs + 512, 2 * cs));
	TRY(rig_flush(r));
	TRY(rig_write(r, 128, 512));
	TRY(rig_discard(r, 3 * cs, cs));
	TRY(rig_zero(r, 4 * cs, cs, PLT_ZERO_UNMAP));
	TRY(rig_flush(r));
	TRY(rig_write(r, 4 * cs + 64, 64));
	TRY(rig_write(r, 9 * cs + 64, 64));
	return 0;
}

static int run_lazy(struct rig *r)
{
	TRY(rig_write(r, 64, 64));
	TRY(rig_write(r, 40 * KIB, 20 * KIB));
	TRY(rig_flush(r));
	TRY(rig_discard(r, 44 * KIB, 8 * KIB));
	TRY(rig_write(r, 90 * KIB + 64, 4 * KIB));
	TRY(rig_flush(r));
	TRY(rig_write(r, 100 * KIB, 8 * KIB)); /* takes what was freed */
	TRY(rig_write(r, 45 * KIB, 2 * KIB));
	TRY(rig_flush(r));
	TRY(rig_write(r, 10 * KIB, 2 * KIB));
	return 0;
}

/* More dirty blocks than the cache has slots: write-back without any flush of the guest's. */
static int run_pressure(struct rig *r)
{
	uint64_t per_table = 512 / 8 * 512;

	for (unsigned i = 0; i < 300; i++)
		TRY(rig_write(r, (i * 7 % 300) * per_table + 64, 64));
	TRY(rig_flush(r));
	for (unsigned i = 0; i < 300; i += 2)
		TRY(rig_write(r, (i * 7 % 300) * per_table + 1024, 64));
	return 0;
}

/* Anything, in an order of the seed's. */
static int run_random(struct rig *r)
{
	for (unsigned i = 0; i < 40; i++)
		TRY(rig_random(r) % 24 ? rig_step(r) : rig_reopen(r));
	return 0;
}

/* ---- the table ------------------------------------------------------------------------------- */

/* clang-format off */
const struct scenario scenarios_qcow2[] = {
	{ "first writes", { .options = "cluster_size=512", .size = 128 * KIB, .backing = true },
	  NULL, run_first_writes, 0 },
	{ "synced",
	  { .options = "cluster_size=512,refcount_bits=64", .size = 160 * KIB, .backing = true },
	  NULL, run_synced, 0 },
	{ "lazy, synced",
	  { .options = "cluster_size=512,lazy_refcounts=on", .size = 160 * KIB, .backing = true },
	  NULL, run_synced, 0 },
	{ "refcount blocks",
	  { .options = "cluster_size=512,refcount_bits=64", .size = 128 * KIB, .backing = true },
	  NULL, run_refblocks, 0 },
	{ "refcount table", { .options = "cluster_size=512,refcount_bits=64", .size = 2304 * KIB },
	  prepare_growth, run_growth, 500 },
	{ "reuse", { .options = "cluster_size=512", .size = 32 * KIB, .backing = true },
	  scenario_prepare_full, run_reuse, 0 },
	{ "reuse without backing", { .options = "cluster_size=1024", .size = 64 * KIB },
	  scenario_prepare_full, run_reuse, 0 },
	{ "version 2", { .options = "cluster_size=1024,compat=0.10", .size = 64 * KIB },
	  scenario_prepare_full, run_reuse, 0 },
	{ "version 2, backing",
	  { .options = "cluster_size=1024,compat=0.10", .size = 64 * KIB, .backing = true },
	  NULL, run_reuse, 0 },
	{ "preallocated",
	  { .options = "cluster_size=4096,preallocation=metadata", .size = 256 * KIB },
	  NULL, run_reuse, 0 },
	{ "compressed", { .options = "cluster_size=4096", .size = 128 * KIB, .backing = true },
	  NULL, run_compressed, 0 },
	{ "compressed, one bit",
	  { .options = "cluster_size=1024,refcount_bits=1", .size = 64 * KIB },
	  NULL, run_compressed, 0 },
	{ "compressed tail",
	  { .options = "cluster_size=4096,compression_type=zstd", .size = 128 * KIB },
	  NULL, run_tail, 0 },
	{ "shared", { .options = "cluster_size=4096", .size = 2560 * KIB },
	  scenario_prepare_snapshot, run_shared, 0 },
	{ "subclusters",
	  { .options = "cluster_size=16384,extended_l2=on", .size = 256 * KIB, .backing = true },
	  NULL, run_subclusters, 0 },
	{ "external data", { .options = "cluster_size=4096", .size = 128 * KIB, .external = true },
	  NULL, run_external, 0 },
	{ "external data, backing",
	  { .options = "cluster_size=4096", .size = 128 * KIB, .external = true, .backing = true },
	  NULL, run_external, 0 },
	{ "lazy",
	  { .options = "cluster_size=512,lazy_refcounts=on", .size = 128 * KIB, .backing = true },
	  NULL, run_lazy, 0 },
	{ "lazy, small blocks",
	  { .options = "cluster_size=512,lazy_refcounts=on,refcount_bits=64", .size = 128 * KIB },
	  NULL, run_lazy, 0 },
	{ "bitmap", { .options = "cluster_size=1024", .size = 64 * KIB, .bitmap = true },
	  scenario_prepare_full, run_reuse, 0 },
	{ "bitmap, lazy",
	  { .options = "cluster_size=512,lazy_refcounts=on", .size = 128 * KIB, .bitmap = true },
	  NULL, run_lazy, 0 },
	{ "pressure", { .options = "cluster_size=512", .size = 9600 * KIB, .backing = true },
	  NULL, run_pressure, 250 },
	{ "random", { .options = "cluster_size=512", .size = 32 * KIB, .backing = true },
	  NULL, run_random, 0 },
	{ "copy on read", { .options = "cluster_size=512", .size = 96 * KIB, .backing = true, .copies = true },
	  NULL, run_copies, 0 },
	{ "copy on read, synced",
	  { .options = "cluster_size=4096", .size = 96 * KIB, .backing = true, .copies = true, .writethrough = true },
	  NULL, run_copies, 0 },
	{ "copy on read, subclusters",
	  { .options = "cluster_size=16384,extended_l2=on", .size = 256 * KIB, .backing = true, .copies = true },
	  NULL, run_copies, 0 },
	{ "copy on read, version 2",
	  { .options = "cluster_size=1024,compat=0.10", .size = 64 * KIB, .backing = true, .copies = true },
	  NULL, run_copies, 0 },
	{ "random, copy on read",
	  { .options = "cluster_size=512", .size = 32 * KIB, .backing = true, .copies = true },
	  NULL, run_random, 0 },
	{ "random, writethrough",
	  { .options = "cluster_size=1024,refcount_bits=64", .size = 32 * KIB, .backing = true,
	    .writethrough = true },
	  NULL, run_random, 0 },
	{ "random, 64-bit counts",
	  { .options = "cluster_size=512,refcount_bits=64", .size = 64 * KIB },
	  NULL, run_random, 0 },
	{ "random, larger clusters",
	  { .options = "cluster_size=4096", .size = 256 * KIB, .backing = true },
	  NULL, run_random, 0 },
	{ "random, lazy",
	  { .options = "cluster_size=1024,lazy_refcounts=on,refcount_bits=8", .size = 64 * KIB,
	    .backing = true },
	  NULL, run_random, 0 },
	{ "random, subclusters",
	  { .options = "cluster_size=16384,extended_l2=on", .size = 256 * KIB, .backing = true },
	  NULL, run_random, 0 },
	{ "random, shared", { .options = "cluster_size=4096", .size = 2560 * KIB },
	  scenario_prepare_snapshot, run_random, 0 },
	{ "random, external",
	  { .options = "cluster_size=512", .size = 32 * KIB, .external = true, .backing = true },
	  NULL, run_random, 0 },
	{ "random, bitmap",
	  { .options = "cluster_size=512", .size = 64 * KIB, .bitmap = true, .backing = true },
	  NULL, run_random, 0 },
	/* Sectors that are written in part are read, changed and written; copied heads and tails are encrypted. */
	{ "encrypted",
	  { .options = "cluster_size=512," AES, .size = 160 * KIB, .backing = true, .encrypted = true },
	  NULL, run_first_writes, 0 },
	{ "encrypted, reuse", { .options = "cluster_size=1024," AES, .size = 64 * KIB, .encrypted = true },
	  scenario_prepare_full, run_reuse, 0 },
	{ "encrypted, subclusters",
	  { .options = "cluster_size=16384,extended_l2=on," AES, .size = 256 * KIB, .backing = true, .encrypted = true },
	  NULL, run_random, 1500 },
	/* (each state is unlocked: few of them) */
	{ "encrypted, LUKS",
	  { .options = "cluster_size=4096,encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=1",
	    .size = 256 * KIB, .backing = true, .encrypted = true },
	  NULL, run_random, 120 },
};
/* clang-format on */
const unsigned scenarios_qcow2_count = PLT_ARRAY_SIZE(scenarios_qcow2);
