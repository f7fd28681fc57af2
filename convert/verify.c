/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * convert --verify: while data is copied, the digest of each piece is noted as it came from the source;
 * afterwards every piece is read back from the target and must have the same digest, and what was
 * zeros must read as zeros.  Only pieces that were data cost memory (48 bytes each), and zeros that
 * the target's own map vouches for are not read.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/digest.h"
#include "base/error.h"
#include "base/zero.h"
#include "convert/convert.h"

#define DIGEST "sha256"
#define DIGEST_LEN 32

struct noted {
	uint64_t off, len;
	uint8_t digest[DIGEST_LEN];
};

struct zeros {
	uint64_t off, len;
};

struct plt_verify {
	struct plt_digest *digest;
	pthread_mutex_t lock;
	struct noted *v;
	size_t n, cap;
	struct zeros *z;
	size_t nz, zcap;

	/* while it runs */
	struct plt_crew crew;
	struct plt_disk *disk;
	size_t next, next_zero;
};

int plt_verify_new(struct plt_verify **ret, struct plt_error *err)
{
	struct plt_verify *v = calloc(1, sizeof(*v));
	int r;

	if (!v || pthread_mutex_init(&v->lock, NULL)) {
		free(v);
		return plt_error_set(err, ENOMEM, "Out of memory");
	}
	r = plt_digest_new(DIGEST, &v->digest, err);
	if (r) {
		plt_verify_free(v);
		return r;
	}
	*ret = v;
	return 0;
}

void plt_verify_free(struct plt_verify *v)
{
	if (!v)
		return;
	plt_digest_free(v->digest);
	pthread_mutex_destroy(&v->lock);
	free(v->v);
	free(v->z);
	free(v);
}

/* Room for one more of @size bytes in the array at *@v. */
static bool grow(void **v, size_t n, size_t *cap, size_t size)
{
	size_t more = *cap ? 2 * *cap : 256;
	void *p;

	if (n < *cap)
		return true;
	p = reallocarray(*v, more, size);
	if (!p)
		return false;
	*v = p;
	*cap = more;
	return true;
}

int plt_verify_add(struct plt_verify *v, uint64_t off, const void *buf, uint64_t len, struct plt_error *err)
{
	struct noted note = { .off = off, .len = len };
	int ret = buf ? plt_digest_block(v->digest, buf, len, note.digest) : 0;

	if (ret)
		return plt_error_set(err, -ret, "could not compute a digest");
	PLT_LOCK_SCOPE(&v->lock);
	if (buf) {
		if (!grow((void **)&v->v, v->n, &v->cap, sizeof(*v->v)))
			return plt_error_set(err, ENOMEM, "Out of memory");
		v->v[v->n++] = note;
		return 0;
	}
	if (v->nz && v->z[v->nz - 1].off + v->z[v->nz - 1].len == off) {
		v->z[v->nz - 1].len += len;
		return 0;
	}
	if (!grow((void **)&v->z, v->nz, &v->zcap, sizeof(*v->z)))
		return plt_error_set(err, ENOMEM, "Out of memory");
	v->z[v->nz++] = (struct zeros){ off, len };
	return 0;
}

static int differs(uint64_t off, uint64_t len, struct plt_error *err)
{
	return plt_error_set(err, EIO, "verification failed: the %" PRIu64 " bytes at offset %" PRIu64
			     " of the target are not what was written", len, off);
}

static int check_data(struct plt_verify *v, const struct noted *note, uint8_t *buf, struct plt_error *err)
{
	uint8_t digest[PLT_DIGEST_MAX];
	int ret = plt_read(v->disk, note->off, buf, note->len, err);

	if (!ret)
		ret = plt_digest_block(v->digest, buf, note->len, digest);
	if (!ret && memcmp(digest, note->digest, DIGEST_LEN))
		ret = differs(note->off, note->len, err);
	return ret;
}

static int check_zeros(struct plt_verify *v, uint64_t off, uint64_t len, uint8_t *buf, size_t room,
		       struct plt_error *err)
{
	uint64_t end = off + len;

	while (off < end && plt_crew_going(&v->crew)) {
		struct plt_extent e;
		unsigned n;
		uint64_t stop;
		int ret = plt_status(v->disk, off, end - off, 0, &e, 1, &n, err);

		if (ret)
			return ret;
		stop = e.off + e.len;
		while (!(e.flags & PLT_EXTENT_ZERO) && off < stop && plt_crew_going(&v->crew)) {
			size_t now = PLT_MIN(stop - off, room);

			ret = plt_read(v->disk, off, buf, now, err);
			if (ret)
				return ret;
			if (!plt_is_zero(buf, now))
				return differs(off, now, err);
			off += now;
		}
		off = stop;
	}
	return 0;
}

static int work(void *arg, unsigned index)
{
	struct plt_verify *v = arg;
	struct plt_error err = PLT_ERROR_INIT;
	size_t room = 0;
	PLT_AUTOFREE uint8_t *buf = NULL;
	int ret = 0;

	(void)index;
	for (size_t i = 0; i < v->n; i++)
		room = PLT_MAX(room, v->v[i].len);
	room = PLT_MAX(room, PLT_CHUNK);
	buf = plt_alloc_io(room);
	if (!buf)
		return -ENOMEM;
	while (!ret && plt_crew_going(&v->crew)) {
		size_t i = SIZE_MAX, z = SIZE_MAX;

		pthread_mutex_lock(&v->crew.lock);
		if (v->next < v->n)
			i = v->next++;
		else if (v->next_zero < v->nz)
			z = v->next_zero++;
		pthread_mutex_unlock(&v->crew.lock);
		if (i != SIZE_MAX) {
			ret = check_data(v, &v->v[i], buf, &err);
			plt_crew_done(&v->crew, v->v[i].len);
		} else if (z != SIZE_MAX) {
			ret = check_zeros(v, v->z[z].off, v->z[z].len, buf, room, &err);
		} else {
			break;
		}
	}
	if (ret)
		plt_crew_fail(&v->crew, ret, &err);
	return ret;
}

int plt_verify_run(struct plt_verify *v, struct plt_disk *disk, unsigned threads, plt_progress_fn fn,
		   void *arg, struct plt_error *err)
{
	int ret = plt_crew_init(&v->crew, fn, arg);

	if (ret)
		return plt_error_set(err, -ret, "Out of memory");
	for (size_t i = 0; i < v->n; i++)
		plt_crew_expect(&v->crew, v->v[i].len);
	v->disk = disk;
	v->next = v->next_zero = 0;
	ret = plt_crew_run(&v->crew, threads, work, v, err);
	plt_crew_release(&v->crew);
	return ret;
}
