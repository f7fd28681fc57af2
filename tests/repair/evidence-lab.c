/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Measures the placement of pieces whose map is lost:
 *
 *	evidence-lab DISK UNIT clusters|tables CHUNK SEED [-k PERCENT] [-s STALE] [-f FREE] [-v]
 *
 * DISK is a raw disk.  Its clusters of UNIT bytes that are not zero are "written" to a host in runs of
 * CHUNK clusters, shuffled by SEED; then the map is lost: of single clusters (all but PERCENT of them
 * that stay known) or of L2 tables.  STALE pieces more are old versions: a copy of a cluster with some
 * blocks of others.  FREE names a file of "offset length" lines, space that the guest does not use:
 * a piece with nothing but that needs no place.  One line comes out, in words and numbers.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/extents.h"
#include "base/zero.h"
#include "repair/evidence/evidence.h"
#include "tests/unit.h"

static uint8_t *disk;
static uint64_t size, unit, span;
static uint32_t nobjects, nslots;
static uint64_t *truth, *slots;        /* of an object: where it was */
static uint64_t *guest_of;             /* of a host position in units: 1 + the disk's cluster there */
static uint64_t *host;                 /* of a cluster of the disk: where it lies; 0: nowhere */
static uint8_t **stale;                /* of an object: its content if it is none of the disk's */
static bool *is_slot;
static struct plt_extents unused;

static int read_disk(void *arg, uint64_t off, void *buf, size_t len)
{
	(void)arg;
	for (uint64_t at = plt_align_down(off, span); at < off + len; at += span)
		if (is_slot[at / span])
			return -ENODATA;
	memcpy(buf, disk + off, len);
	return 0;
}

static int read_object(void *arg, uint32_t object, uint64_t off, void *buf, size_t len)
{
	uint64_t at = truth[object] + off;
	const uint8_t *from = stale[object] ? stale[object] + off : disk + at;

	(void)arg;
	if (off % unit + len > unit)
		abort();
	if (!stale[object] && (at >= size || plt_is_zero(disk + plt_align_down(at, unit),
							 PLT_MIN(unit, size - plt_align_down(at, unit)))))
		return -ENODATA;
	memset(buf, 0, len);
	memcpy(buf, from, stale[object] ? len : PLT_MIN((uint64_t)len, size - at));
	return 0;
}

static uint64_t host_of(void *arg, uint32_t object, uint64_t off)
{
	uint64_t i = (truth[object] + off) / unit;

	(void)arg;
	return stale[object] ? host[size / unit + 1] + object * unit * 3 : host[i];
}

/* What is known, by its place on the host. */
static struct plt_anchor *find_anchors(uint32_t *ret_n)
{
	struct plt_anchor *v = calloc(size / unit + 1, sizeof(*v));

	*ret_n = 0;
	for (uint64_t i = 0; span == unit && i < size / unit + 8; i++)
		if (guest_of[i] && !is_slot[guest_of[i] - 1])
			v[(*ret_n)++] = (struct plt_anchor){ i * unit, (guest_of[i] - 1) * unit };
	return v;
}

static void shuffle(uint64_t *v, uint64_t n, uint64_t chunk, uint64_t *rnd)
{
	uint64_t chunks = plt_div_up(n, chunk), *order = malloc((chunks + 1) * sizeof(*order));
	uint64_t *out = malloc((n + 1) * sizeof(*out)), k = 0;

	for (uint64_t i = 0; i < chunks; i++)
		order[i] = i;
	for (uint64_t i = chunks; i > 1; i--) {
		uint64_t j = plt_unit_random(rnd) % i, t = order[i - 1];

		order[i - 1] = order[j];
		order[j] = t;
	}
	for (uint64_t i = 0; i < chunks; i++)
		for (uint64_t j = order[i] * chunk; j < n && j < (order[i] + 1) * chunk; j++)
			out[k++] = v[j];
	memcpy(v, out, n * sizeof(*v));
	free(order);
	free(out);
}

/* The host's positions: clusters in runs, the runs in any order. */
static void fill_host(uint64_t chunk, uint64_t *rnd)
{
	uint64_t n = 0, *order = calloc(size / unit + 2, sizeof(*order));

	for (uint64_t at = 0; at < size; at += unit)
		if (!plt_is_zero(disk + at, PLT_MIN(unit, size - at)))
			order[n++] = at / unit;
	shuffle(order, n, chunk, rnd);
	for (uint64_t i = 0; i < n; i++) {
		host[order[i]] = (i + 5) * unit;
		guest_of[i + 5] = order[i] + 1;
	}
	host[size / unit + 1] = (n + 7) * unit;
	free(order);
}

/* Whether anything of the piece at @off is in use by the guest. */
static bool matters(uint64_t off)
{
	for (uint64_t at = off; at < off + span && at < size; at += 512) {
		const struct plt_range *r;

		if (plt_is_zero(disk + at, 512))
			continue;
		r = plt_extents_find(&unused, at);
		if (!r || r->off > at)
			return true;
	}
	return false;
}

static bool same(uint32_t object, uint64_t slot)
{
	uint64_t n = PLT_MIN(span, size - slot);

	if (stale[object])
		return !memcmp(stale[object], disk + slot, n);
	return truth[object] == slot ||
	       (n == PLT_MIN(span, size - truth[object]) && !memcmp(disk + truth[object], disk + slot, n));
}

static void read_unused(const char *name)
{
	FILE *f = fopen(name, "r");
	uint64_t off, len;

	if (!f)
		exit(99);
	while (fscanf(f, "%" SCNu64 " %" SCNu64, &off, &len) == 2)
		if (plt_extents_add(&unused, off, len))
			exit(99);
	fclose(f);
}

int main(int argc, char **argv)
{
	static const char *const names[] = { "guess", "likely", "strong", "proven" };
	uint64_t chunk, rnd, keep = 0, nstale = 0, need = 0, reached = 0, right[4] = { 0 }, wrong[4] = { 0 };
	struct plt_placement *v;
	struct plt_puzzle p;
	struct plt_error err;
	struct timespec a, b;
	struct stat st;
	bool verbose = false, *placed;
	uint32_t n;
	int fd, opt;

	while ((opt = getopt(argc, argv, "k:s:f:v")) != -1) {
		if (opt == 'k')
			keep = strtoull(optarg, NULL, 0);
		else if (opt == 's')
			nstale = strtoull(optarg, NULL, 0);
		else if (opt == 'f')
			read_unused(optarg);
		else
			verbose = true;
	}
	if (argc - optind != 5)
		return 99;
	argv += optind;
	fd = open(argv[0], O_RDONLY);
	if (fd < 0 || fstat(fd, &st))
		return 99;
	size = (uint64_t)st.st_size;
	disk = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
	unit = strtoull(argv[1], NULL, 0);
	span = strcmp(argv[2], "tables") ? unit : unit * (unit / 8);
	chunk = strtoull(argv[3], NULL, 0);
	rnd = strtoull(argv[4], NULL, 0) + 12345;
	truth = calloc(plt_div_up(size, span) + nstale + 1, sizeof(*truth));
	slots = calloc(plt_div_up(size, span) + 1, sizeof(*slots));
	host = calloc(size / unit + 3, sizeof(*host));
	guest_of = calloc(size / unit + 8, sizeof(*guest_of));
	stale = calloc(plt_div_up(size, span) + nstale + 1, sizeof(*stale));
	is_slot = calloc(plt_div_up(size, span) + 1, 1);
	for (uint64_t at = 0; at < size; at += span) {
		bool zero = plt_is_zero(disk + at, PLT_MIN(span, size - at));

		if (plt_unit_random(&rnd) % 100 < keep)
			continue;
		is_slot[at / span] = true;
		slots[nslots++] = at;
		if (!zero)
			truth[nobjects++] = at;
	}
	fill_host(chunk, &rnd);
	shuffle(truth, nobjects, 1, &rnd);
	for (uint64_t i = 0; i < nstale && nobjects; i++) {
		uint32_t o = nobjects + (uint32_t)i;
		uint64_t from = truth[plt_unit_random(&rnd) % nobjects];

		truth[o] = from;
		stale[o] = calloc(1, span);
		memcpy(stale[o], disk + from, PLT_MIN(span, size - from));
		for (uint64_t at = 0; at < span; at += 4096)
			if (plt_unit_random(&rnd) % 4 == 0)
				memcpy(stale[o] + at, disk + truth[plt_unit_random(&rnd) % nobjects], PLT_MIN(span, 4096u));
	}
	nobjects += (uint32_t)nstale;

	p = (struct plt_puzzle){
		.disk_size = size, .unit = (uint32_t)unit, .span = span, .read_disk = read_disk,
		.read_object = read_object, .host_of = host_of, .nobjects = nobjects, .slots = slots, .nslots = nslots,
	};
	p.anchors = find_anchors(&p.nanchors);
	clock_gettime(CLOCK_MONOTONIC, &a);
	if (plt_evidence_place(&p, &v, &n, &err)) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	free((void *)p.anchors);
	placed = calloc(nobjects + 1, 1);
	for (uint32_t i = 0; i < n; i++) {
		bool ok = same(v[i].object, v[i].slot);

		if (placed[v[i].object] || !is_slot[v[i].slot / span])
			abort();
		placed[v[i].object] = true;
		if (ok || matters(v[i].slot))
			(ok ? right : wrong)[v[i].certainty]++;
		reached += ok && matters(v[i].slot);
		if (verbose && !ok)
			printf("# wrong: %s %#" PRIx64 " in %#" PRIx64 ", score %d second %d%s: %s\n", names[v[i].certainty],
			       truth[v[i].object], v[i].slot, v[i].score, v[i].second, matters(v[i].slot) ? "" : " (harmless)",
			       v[i].why);
	}
	for (uint32_t o = 0; o < nobjects; o++) {
		if (stale[o] || !matters(truth[o]))
			continue;
		need++;
		if (verbose && !placed[o])
			printf("# not placed: %#" PRIx64 "\n", truth[o]);
	}
	printf("%s of %" PRIu64 ": %" PRIu64 " of %" PRIu64 " in place; right", argv[2], unit, reached, need);
	for (int c = PLT_PROVEN; c >= PLT_GUESS; c--)
		printf(" %s %" PRIu64, names[c], right[c]);
	printf("; wrong");
	for (int c = PLT_PROVEN; c >= PLT_GUESS; c--)
		printf(" %s %" PRIu64, names[c], wrong[c]);
	printf("; %.2f s\n", (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9);
	free(placed);
	free(v);
	return 0;
}
