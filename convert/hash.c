/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * plt_hash(): the digest of what the guest sees.  The disk is cut into segments which threads read and
 * (for the block digest) hash in any order; what they yield (the digests of a segment's blocks, or for a
 * flat digest its bytes) goes into one running digest strictly in order of the disk.  That order is the
 * invariant, kept by a ring of segments of which only the oldest may be taken out.  Zeros that the map
 * knows of are not read, and a block of zeros is hashed once for all.  The construction is
 * base/digest.h's.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/digest.h"
#include "base/endian.h"
#include "base/error.h"
#include "base/zero.h"
#include "convert/convert.h"

#define BLOCK_DEFAULT 65536u
#define BLOCK_MAX (UINT32_C(1) << 30)
#define RING 32u

/* One segment, from the moment it is handed out until it is in the running digest. */
struct segment {
	uint64_t off, len;
	bool zero, ready;
	uint8_t *payload;    /* of this slot, reused: digests or data */
	size_t payload_len;
};

struct job {
	struct plt_crew crew;
	pthread_cond_t room;     /* with crew.lock: a slot has become free, or there is no more to wait for */
	struct plt_disk *disk;
	struct plt_digest *digest;
	struct plt_digest_stream *stream;
	uint64_t size, pos;
	uint32_t block;
	uint64_t segment;        /* multiple of block */
	bool flat;

	struct segment ring[RING];
	uint64_t head, tail;     /* segments handed out; segments consumed */
	bool consuming;          /* one thread feeds the stream */

	struct plt_extent ext[64];
	unsigned i, n;

	size_t digest_len;
	uint8_t *zeros;          /* what ZEROS_LEN bytes of payload of a zero segment look like */
	size_t zeros_len;
	uint8_t zero_digest[PLT_DIGEST_MAX];
};

static bool reads_zero(const struct plt_extent *e)
{
	return e->flags & PLT_EXTENT_ZERO ||
	       !(e->flags & (PLT_EXTENT_DATA | PLT_EXTENT_PRESENT | PLT_EXTENT_DAMAGED));
}

/* How far from @off on all reads as zeros (0: not at all).  The crew's lock is held. */
static int zeros_from(struct job *job, uint64_t off, uint64_t *ret, struct plt_error *err)
{
	uint64_t at = off;

	while (at < job->size) {
		const struct plt_extent *e;

		while (job->i < job->n && job->ext[job->i].off + job->ext[job->i].len <= at)
			job->i++;
		if (job->i == job->n || job->ext[job->i].off > at) {
			int r;

			job->i = job->n = 0;
			r = plt_status(job->disk, at, job->size - at, 0, job->ext, PLT_ARRAY_SIZE(job->ext),
				       &job->n, err);
			if (r)
				return r;
			if (!job->n || job->ext[0].off > at || at - job->ext[0].off >= job->ext[0].len)
				return plt_error_set(err, EIO, "block status does not cover the offset asked for");
		}
		e = &job->ext[job->i];
		if (!reads_zero(e))
			break;
		at = e->off + e->len;
	}
	*ret = PLT_MIN(at, job->size) - off;
	return 0;
}

/* Hand out the next segment; NULL at the end.  The crew's lock is held. */
static int next_segment(struct job *job, struct segment **ret, struct plt_error *err)
{
	struct segment *s;
	uint64_t zeros = 0, whole;
	int r;

	*ret = NULL;
	while (job->head - job->tail == RING && plt_crew_going(&job->crew))
		pthread_cond_wait(&job->room, &job->crew.lock);
	if (job->pos == job->size || !plt_crew_going(&job->crew))
		return 0;
	r = zeros_from(job, job->pos, &zeros, err);
	if (r)
		return r;
	s = &job->ring[job->head % RING];
	s->off = job->pos;
	s->ready = false;
	/* Whole blocks of zeros, as many as there are; the disk's last, shorter block is read. */
	whole = job->flat ? zeros : plt_align_down(zeros, job->block);
	s->zero = whole > 0;
	s->len = s->zero ? whole : PLT_MIN(job->segment, job->size - job->pos);
	if (!s->zero && job->i < job->n) { /* no further than the data goes */
		uint64_t end = job->ext[job->i].off + job->ext[job->i].len;

		s->len = PLT_MIN(s->len, plt_align_up(end - job->pos, job->block));
	}
	job->pos += s->len;
	job->head++;
	*ret = s;
	return 0;
}

/* Into the running digest.  One thread at a time, without the lock. */
static int consume(struct job *job, const struct segment *s)
{
	uint64_t left;

	if (!s->zero)
		return plt_digest_stream_add(job->stream, s->payload, s->payload_len);
	left = job->flat ? s->len : s->len / job->block * job->digest_len;
	while (left && plt_crew_going(&job->crew)) {
		size_t n = PLT_MIN(left, job->zeros_len);
		int ret = plt_digest_stream_add(job->stream, job->zeros, n);

		if (ret)
			return ret;
		left -= n;
		plt_crew_done(&job->crew, job->flat ? n : n / job->digest_len * job->block);
	}
	return 0;
}

/* @s is ready: feed the stream with it and with what was waiting for it, if that is nobody's work yet. */
static int deliver(struct job *job, struct segment *s)
{
	int ret = 0;

	PLT_LOCK_SCOPE(&job->crew.lock);
	s->ready = true;
	if (job->consuming)
		return 0;
	job->consuming = true;
	while (!ret && job->tail < job->head && job->ring[job->tail % RING].ready) {
		const struct segment *first = &job->ring[job->tail % RING];

		pthread_mutex_unlock(&job->crew.lock);
		ret = consume(job, first);
		pthread_mutex_lock(&job->crew.lock);
		job->tail++;
		pthread_cond_broadcast(&job->room);
	}
	job->consuming = false;
	return ret;
}

static int hash_blocks(struct job *job, struct segment *s, const uint8_t *buf)
{
	uint8_t *out = s->payload;

	for (uint64_t at = 0; at < s->len; at += job->block, out += job->digest_len) {
		size_t n = PLT_MIN(s->len - at, job->block);
		int ret = 0;

		if (n == job->block && plt_is_zero(buf + at, n))
			memcpy(out, job->zero_digest, job->digest_len);
		else
			ret = plt_digest_block(job->digest, buf + at, n, out);
		if (ret)
			return ret;
	}
	s->payload_len = (size_t)(out - s->payload);
	return 0;
}

static int fill(struct job *job, struct segment *s, uint8_t *buf, struct plt_error *err)
{
	int ret;

	if (s->zero)
		return 0;
	ret = plt_read(job->disk, s->off, job->flat ? s->payload : buf, s->len, err);
	if (!ret && job->flat)
		s->payload_len = s->len;
	else if (!ret)
		ret = hash_blocks(job, s, buf);
	return ret;
}

static int work(void *arg, unsigned index)
{
	struct job *job = arg;
	PLT_AUTOFREE uint8_t *buf = job->flat ? NULL : plt_alloc_io(job->segment);
	struct plt_error err = PLT_ERROR_INIT;
	int ret = job->flat || buf ? 0 : -ENOMEM;

	(void)index;
	while (!ret) {
		struct segment *s;

		pthread_mutex_lock(&job->crew.lock);
		ret = next_segment(job, &s, &err);
		pthread_mutex_unlock(&job->crew.lock);
		if (ret || !s)
			break;
		ret = fill(job, s, buf, &err);
		if (!ret) {
			uint64_t done = s->zero ? 0 : s->len;

			ret = deliver(job, s);
			plt_crew_done(&job->crew, done);
		}
	}
	if (ret) {
		plt_error_default(&err, -ret, "%s", strerror(-ret));
		plt_crew_fail(&job->crew, ret, &err);
	}
	/* Those who wait for room look again: either there is none to wait for, or the work has stopped. */
	pthread_mutex_lock(&job->crew.lock);
	pthread_cond_broadcast(&job->room);
	pthread_mutex_unlock(&job->crew.lock);
	return ret;
}

/* Buffers of all slots, and the pattern of zeros. */
static int prepare(struct job *job, struct plt_error *err)
{
	size_t payload = job->flat ? job->segment : job->segment / job->block * job->digest_len;
	PLT_AUTOFREE uint8_t *zero_block = NULL;
	int ret;

	for (unsigned i = 0; i < RING; i++) {
		job->ring[i].payload = plt_alloc_io(payload);
		if (!job->ring[i].payload)
			return plt_error_set(err, ENOMEM, "Out of memory");
	}
	job->zeros_len = job->flat ? PLT_CHUNK : 4096 * job->digest_len;
	job->zeros = calloc(1, job->zeros_len);
	if (!job->zeros)
		return plt_error_set(err, ENOMEM, "Out of memory");
	if (job->flat)
		return 0;
	zero_block = calloc(1, job->block);
	if (!zero_block)
		return plt_error_set(err, ENOMEM, "Out of memory");
	ret = plt_digest_block(job->digest, zero_block, job->block, job->zero_digest);
	if (ret)
		return plt_error_set(err, -ret, "could not compute a digest");
	for (size_t at = 0; at < job->zeros_len; at += job->digest_len)
		memcpy(job->zeros + at, job->zero_digest, job->digest_len);
	return 0;
}

static int finish(struct job *job, uint8_t ret[64], struct plt_error *err)
{
	uint8_t size[8];
	int r = 0;

	if (job->tail != job->head || job->pos != job->size)
		return plt_error_set(err, EIO, "not all of the disk was hashed");
	plt_put_le64(size, job->size);
	if (!job->flat)
		r = plt_digest_stream_add(job->stream, size, sizeof(size));
	if (!r)
		r = plt_digest_stream_end(job->stream, ret);
	return r ? plt_error_set(err, -r, "could not compute a digest") : 0;
}

static int run(struct job *job, const struct plt_hash_options *opts, uint8_t ret[64], struct plt_error *err)
{
	int r = plt_digest_new(opts->digest ? opts->digest : "sha256", &job->digest, err);

	if (r)
		return r;
	job->digest_len = plt_digest_size(job->digest);
	r = plt_digest_stream_new(job->digest, &job->stream);
	if (r)
		return plt_error_set(err, -r, "Out of memory");
	r = prepare(job, err);
	if (!r)
		r = plt_crew_run(&job->crew, plt_crew_size(0, 2), work, job, err);
	return r ? r : finish(job, ret, err);
}

int plt_hash(struct plt_disk *disk, const struct plt_hash_options *opts, uint8_t ret[64], size_t *ret_len,
	     struct plt_error *err)
{
	static const struct plt_hash_options defaults = PLT_HASH_OPTIONS_INIT;
	struct job *job;
	int r;

	if (!opts)
		opts = &defaults;
	if (opts->block > BLOCK_MAX)
		return plt_error_set(err, EINVAL, "a block of %u bytes is too large (at most %u)", opts->block,
				     BLOCK_MAX);
	job = calloc(1, sizeof(*job));
	if (!job || plt_crew_init(&job->crew, opts->progress, opts->progress_arg)) {
		free(job);
		return plt_error_set(err, ENOMEM, "Out of memory");
	}
	if (pthread_cond_init(&job->room, NULL)) {
		plt_crew_release(&job->crew);
		free(job);
		return plt_error_set(err, ENOMEM, "Out of memory");
	}
	job->disk = disk;
	job->size = plt_disk_size(disk);
	job->flat = opts->flat;
	job->block = opts->block ? opts->block : BLOCK_DEFAULT;
	/* A flat digest is made by one thread, which the others keep fed: small pieces stay in its cache. */
	job->segment = job->flat ? PLT_CHUNK / 2 : plt_align_up(PLT_CHUNK, job->block);
	plt_crew_expect(&job->crew, job->size);
	r = run(job, opts, ret, err);
	if (!r)
		*ret_len = job->digest_len;
	for (unsigned i = 0; i < RING; i++)
		free(job->ring[i].payload);
	free(job->zeros);
	plt_digest_stream_free(job->stream);
	plt_digest_free(job->digest);
	pthread_cond_destroy(&job->room);
	plt_crew_release(&job->crew);
	free(job);
	return r;
}
