/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * An image while it is open: its engine, where names in it lead from, what lies below it, and its closing.
 * How one is opened is in open.c.
 */
#include <string.h>

#include "block/engine.h"
#include "crypt/cipher.h"

int plt_engine_new(struct plt_image *img)
{
	struct plt_engine *eng = calloc(1, sizeof(*eng));

	if (!eng)
		return -ENOMEM;
	eng->img = img;
	pthread_mutex_init(&eng->lock, NULL);
	pthread_cond_init(&eng->gate_opened, NULL);
	pthread_mutex_init(&eng->flush_lock, NULL);
	pthread_mutex_init(&eng->work_lock, NULL);
	img->engine = eng;
	return 0;
}

void plt_engine_free(struct plt_engine *eng)
{
	if (!eng)
		return;
	plt_rescue_free(eng->rescue);
	plt_skip_free(eng);
	free(eng->limbo);
	free(eng->key);
	pthread_cond_destroy(&eng->gate_opened);
	pthread_mutex_destroy(&eng->lock);
	pthread_mutex_destroy(&eng->flush_lock);
	pthread_mutex_destroy(&eng->work_lock);
	free(eng);
}

struct plt_image *plt_image_backing(const struct plt_image *img)
{
	return img->engine->backing;
}

const char *plt_image_key(const struct plt_image *img)
{
	return img->engine->key;
}

const char *plt_image_base(const struct plt_image *img)
{
	return strncmp(img->name, "json:", 5) ? img->name : img->file->name;
}

bool plt_runs_add(struct plt_runs *runs, const struct plt_run *run)
{
	struct plt_run *last = runs->n ? &runs->v[runs->n - 1] : NULL;

	if (last && last->kind == run->kind && last->flags == run->flags && last->store == run->store &&
	    last->off + last->len == run->off && last->kind != PLT_RUN_COMPRESSED && last->cipher == run->cipher &&
	    (!run->cipher || last->iv_sector + (last->off % PLT_SECTOR + last->len) / PLT_SECTOR == run->iv_sector) &&
	    (!(last->kind == PLT_RUN_DATA || last->flags & PLT_RUN_ALLOCATED) ||
	     last->host_off + last->len == run->host_off)) {
		last->len += run->len;
		return true;
	}
	if (runs->n == runs->cap)
		return false;
	runs->v[runs->n++] = *run;
	return true;
}
static int finish_writing(struct plt_image *img, struct plt_error *err)
{
	int r = plt_store_check_writable(img->file, err);

	if (r == 0 && img->data && img->data != img->file)
		r = plt_store_check_writable(img->data, err);
	/* after a failed sync nothing may be written: what is dirty is dropped, and that is said */
	if (r == 0 && atomic_load(&img->engine->changed))
		r = plt_run_request(img, &(struct plt_request){ .kind = PLT_IO_FLUSH_REQ }, err);
	if (r == 0 && img->slice && plt_meta_is_dirty(img)) /* counts of what left limbo */
		r = plt_meta_flush(img, true, err);
	return r;
}

int plt_image_close(struct plt_image *img, struct plt_error *err)
{
	int r = 0, closed;

	if (!img)
		return 0;
	if (img->drv) {
		if (img->writable)
			r = finish_writing(img, err);
		if (r < 0)
			img->writable = false; /* close releases, and writes nothing more */
		plt_cache_retire(img->ctx, img->engine);
		closed = img->drv->close(img, r < 0 ? NULL : err);
		if (r == 0)
			r = closed;
	}
	plt_cache_drop_image(img->ctx, img->engine);
	closed = plt_image_close(img->engine->backing, r < 0 ? NULL : err);
	if (r == 0)
		r = closed;
	plt_store_unref(img->data);
	plt_store_unref(img->file);
	plt_engine_free(img->engine);
	pthread_mutex_destroy(&img->lock);
	free(img->backing_name);
	free(img->backing_format);
	free(img->name);
	free(img);
	return r;
}
