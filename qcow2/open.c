/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * Opening, the first write, closing, and what can be said of an open image.  Opening reads the
 * first cluster, the snapshot table and the bitmap directory and nothing else; it demands of every
 * table that the file can hold it, so that nothing later is sized by a bare number of the header.
 * It never writes, save that a dirty image opened for writing is recounted (recover.c).  The first
 * write marks, in one header switch, that the image is in use; closing takes those marks back
 * last.  An image whose guest data cannot be reached (encrypted; data file not opened) still opens
 * to be inspected, and says why when it is mapped.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "formats/name.h"
#include "qcow2/mapping.h"

int qcow2_probe(const uint8_t *buf, size_t len, uint64_t size)
{
	(void)size;
	/* Later versions too: "unsupported version" is a better answer than a raw disk. */
	return len >= 8 && plt_get_be32(buf) == QCOW2_MAGIC && plt_get_be32(buf + 4) >= 2 ? 100 : 0;
}

/* ---- opening --------------------------------------------------------------------------------- */

int qcow2_table_in_file(const struct qcow2_state *q, uint64_t file_size, uint64_t off, uint64_t len,
			const char *what, struct plt_error *err)
{
	uint64_t end = plt_align_up(PLT_MIN(file_size, (uint64_t)INT64_MAX), q->cluster_size);

	/* The last cluster of a file may be cut short. */
	if (!len || plt_in_range(off, len, end))
		return 0;
	return plt_error_set(err, EUCLEAN,
			     "%s (%" PRIu64 " bytes at offset %#" PRIx64 ") lies beyond the end "
			     "of the file (%" PRIu64
			     " bytes): the file is truncated or the header is damaged",
			     what, len, off, file_size);
}

static int check_tables_in_file(const struct qcow2_state *q, uint64_t file_size,
				struct plt_error *err)
{
	int r = qcow2_table_in_file(q, file_size, q->l1_offset, (uint64_t)q->l1_size * 8,
				    "Active L1 table", err);

	if (!r)
		r = qcow2_table_in_file(q, file_size, q->reftable_offset,
					(uint64_t)q->reftable_clusters << q->cluster_bits,
					"Reference count table", err);
	return r;
}

/* Header, L1 and refcount table are written each on its own: they may not share a cluster. */
static int check_tables_apart(const struct qcow2_state *q, struct plt_error *err)
{
	uint64_t cs = q->cluster_size, l1_len = plt_align_up((uint64_t)q->l1_size * 8, cs);
	uint64_t rt_len = (uint64_t)q->reftable_clusters << q->cluster_bits;

	if (plt_ranges_overlap(q->l1_offset, l1_len, 0, cs) || plt_ranges_overlap(q->reftable_offset, rt_len, 0, cs) ||
	    plt_ranges_overlap(q->l1_offset, l1_len, q->reftable_offset, rt_len))
		return plt_error_set(err, EUCLEAN,
				     "The active L1 table (at offset %#" PRIx64 ") and the reference count table "
				     "(at %#" PRIx64 ") overlap each other or the header; the image can be read, "
				     "not written",
				     q->l1_offset, q->reftable_offset);
	return 0;
}

/* Certainly the same file?  What cannot be told apart by its descriptor counts as another. */
static bool same_file(struct plt_store *a, const struct stat *b, bool have_b)
{
	struct stat st;
	int fd = plt_store_fd(a);

	return have_b && fd >= 0 && !fstat(fd, &st) && st.st_dev == b->st_dev &&
	       st.st_ino == b->st_ino;
}

/*
 * The data file that the image records.  Its name is relative to the image's folder by sense, but
 * to the current folder by QEMU's practice; where both exist, guessing could show another disk.
 */
static int open_recorded_data_file(struct plt_image *img, const char *name, bool writable,
				   struct plt_error *err)
{
	struct plt_error first = PLT_ERROR_INIT;
	struct plt_store *cwd = NULL, *st = NULL;
	bool have_cwd = false, have_stat = false;
	struct stat cwd_stat;
	int r;

	if (plt_name_has_protocol(name))
		return plt_error_set(
			err, EINVAL,
			"The external data file's name '%s' is not a plain path; it is "
			"opened only when it is given by the caller (data-file=...)",
			name);
	if (name[0] != '/' &&
	    !plt_ref_open(img, PLT_REF_DATA_FILE, name, true, false, &cwd, NULL)) {
		have_cwd = true;
		have_stat = plt_store_fd(cwd) >= 0 && !fstat(plt_store_fd(cwd), &cwd_stat);
		plt_store_unref(cwd);
	}
	r = plt_ref_open(img, PLT_REF_DATA_FILE, name, false, writable, &st, &first);
	if (r == -ENOENT && have_cwd)
		return plt_ref_open(img, PLT_REF_DATA_FILE, name, true, writable, &img->data, err);
	if (r < 0)
		return plt_error_set(err, -r, "%s", first.text);
	if (have_cwd && !same_file(st, &cwd_stat, have_stat)) {
		r = plt_error_set(
			err, EINVAL,
			"The external data file '%s' exists both beside the image ('%s') and "
			"in the current folder ('./%s'), and they are different files; name the right "
			"one (data-file=...)",
			name, st->name, name);
		plt_store_unref(st);
		return r;
	}
	img->data = st;
	return 0;
}

/* Guest data in the image's own tables: what the guest wrote would be its map. */
static int refuse_itself(struct plt_image *img, struct plt_error *err)
{
	struct stat st;
	int fd = plt_store_fd(img->data);

	if (fd < 0 || fstat(fd, &st) < 0 || !same_file(img->file, &st, true))
		return 0;
	return plt_error_set(err, ELOOP, "The external data file '%s' is the image itself", img->data->name);
}

static int open_data_store(struct plt_image *img, const struct plt_open_how *how,
			   struct plt_error *err)
{
	int r;

	struct qcow2_state *q = qcow2_of(img);
	bool external = q->external;

	if (!external && how->data_file)
		return plt_error_set(
			err, EINVAL,
			"'data-file' can only be set for images with an external data file");
	if (external && how->data_file) {
		img->data = plt_store_ref(how->data_file);
		return refuse_itself(img, err);
	}
	if (!external || how->no_refs) {
		if (external)
			q->unmappable = "the external data file was not opened";
		img->data = plt_store_ref(img->file);
		return 0;
	}
	if (!q->data_file_name || !*q->data_file_name)
		return plt_error_set(err, EINVAL, "'data-file' is required for this image");
	r = open_recorded_data_file(img, q->data_file_name, img->writable, err);
	return r < 0 ? r : refuse_itself(img, err);
}

static const struct qcow2_snapshot *find_snapshot(const struct qcow2_state *q,
						  const struct plt_open_how *how)
{
	for (int by_name = 0; how->snapshot && by_name < 2; by_name++)
		for (uint32_t i = 0; i < q->nb_snapshots; i++)
			if (!strcmp(by_name ? q->snapshots[i].info.name : q->snapshots[i].info.id,
				    how->snapshot))
				return &q->snapshots[i];
	if (how->snapshot)
		return NULL;
	for (uint32_t i = 0; i < q->nb_snapshots; i++) {
		const struct plt_snapshot_info *s = &q->snapshots[i].info;

		if ((!how->snapshot_id || !strcmp(s->id, how->snapshot_id)) &&
		    (!how->snapshot_name || !strcmp(s->name, how->snapshot_name)))
			return &q->snapshots[i];
	}
	return NULL;
}

/* Which L1 table map goes through, and how large the disk is. */
static int choose_view(struct plt_image *img, const struct plt_open_how *how, uint64_t file_size,
		       struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	const struct qcow2_snapshot *s;
	uint64_t size = q->virtual_size;
	int r;

	q->view_l1_offset = q->l1_offset;
	q->view_l1_size = q->l1_size;
	if (how->snapshot || how->snapshot_id || how->snapshot_name) {
		s = find_snapshot(q, how);
		if (!s)
			return plt_error_set(err, ENOENT, "Failed to load snapshot: Can't find snapshot");
		if (img->writable)
			return plt_error_set(err, EACCES,
					     "An internal snapshot can only be opened read-only");
		r = qcow2_check_table(q, s->l1_offset, s->l1_size, 8, QCOW2_MAX_L1_BYTES,
				      "Snapshot L1 table", err);
		if (!r)
			r = qcow2_table_in_file(q, file_size, s->l1_offset,
						(uint64_t)s->l1_size * 8, "Snapshot L1 table", err);
		if (r < 0)
			return r;
		if (s->info.disk_size)
			size = s->info.disk_size;
		if (size > INT64_MAX || qcow2_l1_entries(q, size) > s->l1_size)
			return plt_error_set(err, EUCLEAN,
					     "Snapshot '%s': L1 table of %" PRIu32
					     " entries is too small "
					     "for a disk of %" PRIu64 " bytes",
					     s->info.name, s->l1_size, size);
		/* The disk has grown since: qemu-img shows what is below it, or zeros, up to its end of today. */
		size = PLT_MAX(size, q->virtual_size);
		q->view_l1_offset = s->l1_offset;
		q->view_l1_size = s->l1_size;
		q->view_snapshot = true;
		img->disk = (uint32_t)(s - q->snapshots);
	}
	atomic_store(&img->size, plt_align_down(size, 512));
	img->alloc_unit = q->cluster_size;
	img->zero_unit = 1U << q->sub_bits;
	img->slice = PLT_MIN(q->cluster_size, (uint32_t)PLT_SLICE);
	return 0;
}

/* Lazy refcounts: the header's compatible bit, or what the caller asks for. */
static int choose_lazy(struct qcow2_state *q, const struct plt_open_how *how, struct plt_error *err)
{
	const char *v = how->opts ? plt_opts_get(how->opts, "lazy-refcounts") : NULL;

	q->lazy = q->compatible & QCOW2_COMPAT_LAZY;
	if (v && plt_parse_bool(v, &q->lazy) < 0)
		return plt_error_set(err, EINVAL,
				     "Parameter 'lazy-refcounts' expects 'on' or 'off'");
	if (q->lazy && q->version < 3)
		return plt_error_set(err, EINVAL,
				     "Lazy refcounts require a qcow2 image with at least qemu 1.1 "
				     "compatibility level");
	return 0;
}

/* The sizes of QEMU's caches have no effect; what makes no sense there is refused as there. */
static int check_cache_sizes(const struct qcow2_state *q, const struct plt_open_how *how, struct plt_error *err)
{
	const struct plt_opts *o = how->opts;
	bool all = o && plt_opts_get(o, "cache-size"), l2 = o && plt_opts_get(o, "l2-cache-size");
	bool counts = o && plt_opts_get(o, "refcount-cache-size");
	uint64_t entry;

	if (all && l2 && counts)
		return plt_error_set(err, EINVAL, "cache-size, l2-cache-size and refcount-cache-size may not be set at "
				     "the same time");
	if (all && l2 && plt_opts_u64(o, "l2-cache-size") > plt_opts_u64(o, "cache-size"))
		return plt_error_set(err, EINVAL, "l2-cache-size may not exceed cache-size");
	if (all && counts && plt_opts_u64(o, "refcount-cache-size") > plt_opts_u64(o, "cache-size"))
		return plt_error_set(err, EINVAL, "refcount-cache-size may not exceed cache-size");
	if (!o || !plt_opts_get(o, "l2-cache-entry-size"))
		return 0;
	entry = plt_opts_u64(o, "l2-cache-entry-size");
	if (!plt_is_pow2(entry) || entry < UINT64_C(1) << QCOW2_MIN_CLUSTER_BITS || entry > q->cluster_size)
		return plt_error_set(err, EINVAL, "L2 cache entry size must be a power of two between %d and the cluster "
				     "size (%" PRIu32 ")", 1 << QCOW2_MIN_CLUSTER_BITS, q->cluster_size);
	return 0;
}

/* So with the checks of QEMU that are always on here. */
static int check_overlap_options(const struct plt_open_how *how, struct plt_error *err)
{
	static const char *const words[] = { "none", "constant", "cached", "all", NULL };
	const char *a = how->opts ? plt_opts_get(how->opts, "overlap-check") : NULL;
	const char *b = how->opts ? plt_opts_get(how->opts, "overlap-check.template") : NULL;
	unsigned i;

	if (a && b && strcmp(a, b))
		return plt_error_set(err, EINVAL, "Conflicting values for qcow2 options 'overlap-check' ('%s') and "
				     "'overlap-check.template' ('%s')", a, b);
	a = a ? a : b;
	for (i = 0; a && words[i] && strcmp(words[i], a); i++)
		;
	return !a || words[i] ? 0 :
	       plt_error_set(err, EINVAL, "Unsupported value '%s' for qcow2 option 'overlap-check'. Allowed are any of the "
			     "following: none, constant, cached, all", a);
}

static void release(struct plt_image *img)
{
	struct qcow2_state *q = qcow2_of(img);

	qcow2_encrypt_release(q);
	qcow2_bitmaps_release(q);
	qcow2_snapshots_release(q);
	qcow2_guard_free(q);
	qcow2_state_release(q);
	plt_store_unref(img->data);
	img->data = NULL;
	pthread_rwlock_destroy(&q->bitmaps_lock);
	pthread_mutex_destroy(&q->header_lock);
	free(q);
	img->priv = NULL;
}

int qcow2_open(struct plt_image *img, const struct plt_open_how *how, struct plt_error *err)
{
	struct qcow2_state *q = calloc(1, sizeof(*q));
	bool lenient = how->check || how->no_refs;
	uint64_t file_size;
	int r;

	if (!q)
		return plt_error_set(err, ENOMEM, "Out of memory");
	img->priv = q;
	pthread_rwlock_init(&q->bitmaps_lock, NULL);
	pthread_mutex_init(&q->header_lock, NULL);
	r = plt_store_size(img->file, &file_size, err);
	q->ignore = plt_ctx_ignored_features(img->ctx);
	if (!r)
		r = qcow2_header_read(img->file, img->name, how->check, q, &img->backing_name,
				      &img->backing_format, err);
	if (r < 0)
		goto fail;
	if ((q->incompatible & QCOW2_INCOMPAT_CORRUPT) && img->writable && !how->check) {
		r = plt_error_set(err, EACCES,
				  "qcow2: Image is corrupt; cannot be opened read/write");
		goto fail;
	}
	if (q->ignored && img->writable) {
		r = plt_error_set(err, EACCES, "The image claims features that are ignored (%#" PRIx64 "): it is only read, until "
				  "'repair' has taken the claim out", q->ignored);
		goto fail;
	}
	q->dirty_on_disk = q->incompatible & QCOW2_INCOMPAT_DIRTY;
	q->file_clusters = plt_div_up(file_size, q->cluster_size);
	r = qcow2_encrypt_open(img, how, err);
	if (!r && !lenient)
		r = check_tables_in_file(q, file_size, err);
	if (!r && img->writable && !how->check)
		r = check_tables_apart(q, err);
	if (!r)
		r = check_cache_sizes(q, how, err);
	if (!r)
		r = check_overlap_options(how, err);
	if (!r)
		r = choose_lazy(q, how, err);
	if (!r)
		r = qcow2_snapshots_load(img, err);
	if (r < 0 && how->check && r != -ENOMEM) {
		q->nb_snapshots = 0; /* examine() says what is wrong with the table */
		r = 0;
	}
	if (!r)
		r = choose_view(img, how, file_size, err);
	if (!r)
		r = open_data_store(img, how, err);
	if (!r && img->writable && q->dirty_on_disk && !how->check)
		r = qcow2_recover(img, err);
	if (!r)
		r = qcow2_bitmaps_load(img, err);
	if (r < 0)
		goto fail;
	return 0;

fail:
	release(img);
	free(img->backing_name);
	free(img->backing_format);
	img->backing_name = img->backing_format = NULL;
	return r;
}

/* ---- the first write and closing ------------------------------------------------------------- */

int qcow2_first_write(struct plt_image *img, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	uint64_t autoclear, incompatible, old_autoclear, old_incompatible;
	bool keep_bitmaps = false;
	int r = qcow2_guard_load(img, err);

	if (r < 0 || q->version < 3)
		return r;
	q->bitmaps_marked = true; /* if there are none; those to come begin marked */
	if (q->autoclear & QCOW2_AUTOCLEAR_BITMAPS) {
		/*
		 * Bitmaps that we maintain are marked first: a cut here leaves them unusable, not
		 * wrong.
		 */
		r = q->bitmaps_damaged || img->shows_same ? 0 : qcow2_bitmaps_mark_in_use(img, err);
		if (r < 0)
			return r;
		keep_bitmaps = !q->bitmaps_damaged;
	}
	pthread_mutex_lock(&img->lock);
	autoclear = q->autoclear & QCOW2_AUTOCLEAR_KNOWN;
	if (!keep_bitmaps)
		autoclear &= ~QCOW2_AUTOCLEAR_BITMAPS;
	incompatible = q->incompatible;
	if (q->lazy && qcow2_rule(img, QCOW2_RULE_DIRTY_SET))
		incompatible |= QCOW2_INCOMPAT_DIRTY;
	if (autoclear == q->autoclear && incompatible == q->incompatible) {
		pthread_mutex_unlock(&img->lock);
		return 0;
	}
	old_autoclear = q->autoclear;
	old_incompatible = q->incompatible;
	q->dirty_set = incompatible != q->incompatible;
	q->dirty_on_disk |= q->dirty_set;
	q->autoclear = autoclear;
	q->incompatible = incompatible;
	pthread_mutex_unlock(&img->lock);
	r = qcow2_header_switch(img, offsetof(struct qcow2_header, incompatible_features),
				offsetof(struct qcow2_header, refcount_order), err);
	if (r < 0) { /* the next attempt must not take it for done */
		pthread_mutex_lock(&img->lock);
		q->autoclear = old_autoclear;
		q->incompatible = old_incompatible;
		q->dirty_set = false;
		pthread_mutex_unlock(&img->lock);
	}
	return r;
}

/* Take back what first_write marked.  Everything else is on the disk already. */
static int finish(struct plt_image *img, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	int r = plt_store_check_writable(img->file, err);

	if (atomic_load(&q->corrupt)) /* nothing that would need the tables to be right */
		return r;
	if (!r)
		r = qcow2_bitmaps_store(img, err);
	if (r < 0 || !q->dirty_set)
		return r;
	/* Lazy refcounts: the bit goes only when all that it excuses is durable. */
	if (qcow2_rule(img, QCOW2_RULE_DIRTY_CLEAR)) {
		if (img->data != img->file)
			r = plt_store_sync(img->data, err);
		if (!r)
			r = plt_meta_flush(img, true, err);
		if (r < 0)
			return r;
	}
	pthread_mutex_lock(&img->lock);
	q->incompatible &= ~QCOW2_INCOMPAT_DIRTY;
	q->dirty_on_disk = q->dirty_set = false;
	pthread_mutex_unlock(&img->lock);
	return qcow2_header_switch(img, offsetof(struct qcow2_header, incompatible_features),
				   offsetof(struct qcow2_header, compatible_features), err);
}

int qcow2_close(struct plt_image *img, struct plt_error *err)
{
	int r = img->writable ? finish(img, err) : 0;

	release(img);
	return r;
}

/* ---- what can be said ------------------------------------------------------------------------ */

static json_t *info_bitmaps(const struct qcow2_state *q)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < q->nbitmaps; i++) {
		const struct qcow2_bitmap *b = &q->bitmaps[i];
		json_t *flags = json_array();

		if (b->flags & QCOW2_BITMAP_IN_USE)
			json_array_append_new(flags, json_string("in-use"));
		if (b->flags & QCOW2_BITMAP_AUTO)
			json_array_append_new(flags, json_string("auto"));
		json_array_append_new(list, json_pack("{s:o,s:s%,s:I}", "flags", flags, "name",
						      b->name, strlen(b->name), "granularity",
						      (json_int_t)1 << b->granularity_bits));
	}
	return list;
}

json_t *qcow2_info(struct plt_image *img)
{
	const struct qcow2_state *q = qcow2_of(img);
	json_t *data = json_object();

	json_object_set_new(data, "compat", json_string(q->version < 3 ? "0.10" : "1.1"));
	json_object_set_new(data, "compression-type",
			    json_string(q->compression == QCOW2_COMPRESSION_ZSTD ? "zstd"
										 : "zlib"));
	json_object_set_new(data, "refcount-bits", json_integer(q->refcount_bits));
	if (q->version >= 3) {
		json_object_set_new(data, "lazy-refcounts",
				    json_boolean(q->compatible & QCOW2_COMPAT_LAZY));
		json_object_set_new(data, "corrupt",
				    json_boolean(q->incompatible & QCOW2_INCOMPAT_CORRUPT));
		json_object_set_new(data, "extended-l2", json_boolean(q->extl2));
		if (q->data_file_name)
			json_object_set_new(data, "data-file", json_string(q->data_file_name));
		if (q->external)
			json_object_set_new(data, "data-file-raw", json_boolean(q->data_file_raw));
		if (q->nbitmaps && (q->autoclear & QCOW2_AUTOCLEAR_BITMAPS))
			json_object_set_new(data, "bitmaps", info_bitmaps(q));
	}
	if (q->crypt_method != QCOW2_CRYPT_NONE) {
		json_t *e = q->luks ? plt_luks_info(q->luks) : json_object();

		json_object_set_new(e, "format",
				    json_string(q->crypt_method == QCOW2_CRYPT_AES ? "aes" : "luks"));
		json_object_set_new(data, "encrypt", e);
	}
	return json_pack("{s:s,s:o}", "type", "qcow2", "data", data);
}
