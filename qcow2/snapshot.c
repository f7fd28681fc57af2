/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Internal snapshots made, gone back to and deleted.  The engine has closed the image to whatever would change it (to
 * everybody, when the disk itself becomes another one), so this is blocking code with the steps in a row, and a
 * flush between them:
 *
 *	create   COPIED off in the active tree -> its counts +1; {counts, copy of the L1, new table} -> header ->
 *	         the old table is freed
 *	delete   new table -> header -> counts of the snapshot's tree -1 -> its L1 and the old table freed -> COPIED on
 *	apply    {counts of the snapshot's tree +1, COPIED off in it, a fresh L1} -> header (size and L1 in one write)
 *	         -> counts of the old tree -1 -> the old L1 freed -> COPIED on
 *
 *	empty    a fresh L1 of zeros -> header -> counts of the old tree -1 -> the old L1 freed -> COPIED on
 *
 * So a power cut leaves the state before or the one after, and besides it clusters that nothing names, or COPIED=0 on
 * a count of 1, which costs a needless copy.  All that could refuse is found out before the first write.
 */
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "qcow2/snaptree.h"

/* Tables that have been written and are not in force yet. */
struct fresh {
	uint64_t off, clusters;
};

static uint64_t bytes_of(const struct qcow2_state *q, const struct fresh *f)
{
	return f->clusters << q->cluster_bits;
}

static int take(struct plt_image *img, uint64_t bytes, struct fresh *ret, struct plt_error *err)
{
	uint64_t n = plt_div_up(bytes, qcow2_of(img)->cluster_size);
	int r = n ? qcow2_alloc(img, n, &ret->off, err) : 0;

	if (r == 0)
		ret->clusters = n;
	return r;
}

static void give_back(struct plt_image *img, const struct fresh *f)
{
	if (f->clusters)
		(void)qcow2_count_add(img, f->off, bytes_of(qcow2_of(img), f), -1, NULL);
}

static int durable(struct plt_image *img, enum qcow2_rule rule, struct plt_error *err)
{
	return plt_meta_flush(img, qcow2_rule(img, rule), err);
}

/* What every operation demands; afterwards nothing is pending, and it is known which tables the header names. */
static int begin(struct plt_image *img, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	int r;

	if (q->unmappable)
		return plt_error_set(err, ENOTSUP, "'%s': %s", img->name, q->unmappable);
	if (q->external)
		return plt_error_set(err, ENOTSUP, "'%s': an image with an external data file can have no internal snapshots",
				     img->name);
	if (atomic_load(&q->corrupt))
		return qcow2_refuse_corrupt(img, err);
	r = qcow2_header_settle(img, err);
	if (r == 0)
		r = plt_meta_flush(img, true, err);
	return r < 0 ? r : qcow2_guard_load(img, err);
}

/*
 * The L1 table stays until the counts of what it names are durable: to a repair after a cut it is what tells tables
 * that were dropped from tables whose L1 entry was lost.
 */
static int lower_tree(struct plt_image *img, const struct qcow2_tree *t, struct plt_error *err)
{
	int r = qcow2_tree_lower(img, t, err);

	return r < 0 ? r : plt_meta_flush(img, true, err);
}

/*
 * What lies where, after the tables have changed.  The operation is over and done: what fails here is read once more
 * before the next write, or costs space.
 */
static void settle(struct plt_image *img, int r, struct plt_error *err)
{
	if (r == 0)
		r = qcow2_guard_reload(img, err);
	if (r < 0)
		plt_ctx_warn(img->ctx, "'%s': the snapshots are as asked for, but: %s", img->name, err->text);
}

/* ---- the list -------------------------------------------------------------------------------- */

struct list {
	struct qcow2_snapshot *v;
	uint32_t n;
	struct plt_snapshot_info *infos;
	uint64_t offset, size;
};

static struct list list_of(const struct qcow2_state *q)
{
	return (struct list){ q->snapshots, q->nb_snapshots, q->snapshot_infos, q->snapshots_offset, q->snapshots_size };
}

static void set_list(struct plt_image *img, const struct list *l)
{
	struct qcow2_state *q = qcow2_of(img);

	PLT_LOCK_SCOPE(&img->lock);
	q->snapshots = l->v;
	q->nb_snapshots = l->n;
	q->snapshot_infos = l->infos;
	q->snapshots_offset = l->offset;
	q->snapshots_size = l->size;
}

/*
 * The list without entry @gone (UINT32_MAX: with all) and with @more behind it (or NULL).  Entries are copied, what
 * they own is not.
 */
static int list_new(const struct qcow2_state *q, uint32_t gone, const struct qcow2_snapshot *more, struct list *ret,
		    struct plt_error *err)
{
	*ret = (struct list){ .v = calloc((size_t)q->nb_snapshots + 1, sizeof(*ret->v)),
			      .infos = calloc((size_t)q->nb_snapshots + 1, sizeof(*ret->infos)) };
	if (!ret->v || !ret->infos) {
		free(ret->v);
		free(ret->infos);
		return plt_error_set(err, ENOMEM, "out of memory");
	}
	for (uint32_t i = 0; i < q->nb_snapshots; i++)
		if (i != gone)
			ret->v[ret->n++] = q->snapshots[i];
	if (more)
		ret->v[ret->n++] = *more;
	for (uint32_t i = 0; i < ret->n; i++)
		ret->infos[i] = ret->v[i].info;
	return 0;
}

static void list_free(struct list *l)
{
	free(l->v);
	free(l->infos);
}

/* Write it to clusters of its own; *ret says which. */
static int list_write(struct plt_image *img, struct list *l, struct fresh *ret, struct plt_error *err)
{
	PLT_AUTOFREE uint8_t *buf = NULL;
	int r = qcow2_snaptable_build(l->v, l->n, &buf, &l->size, err);

	if (r < 0 || !l->n)
		return r;
	r = take(img, l->size, ret, err);
	if (r < 0)
		return r;
	l->offset = ret->off;
	plt_meta_forget(img, ret->off, bytes_of(qcow2_of(img), ret));
	return plt_store_write(img->file, ret->off, buf, (size_t)l->size, PLT_IO_SNAPSHOT_TABLE, err);
}

/*
 * The header names the new list.  On failure the disk may have either header, memory the old list, and both tables
 * keep their counts.
 */
static int list_switch(struct plt_image *img, const struct list *l, struct plt_error *err)
{
	struct list old = list_of(qcow2_of(img));
	int r;

	set_list(img, l);
	r = qcow2_header_switch(img, offsetof(struct qcow2_header, nb_snapshots),
				offsetof(struct qcow2_header, incompatible_features), err);
	if (r < 0)
		set_list(img, &old);
	return r;
}

static int free_list_table(struct plt_image *img, const struct list *old, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);

	if (!old->n)
		return 0;
	return qcow2_release(img, old->offset, plt_align_up(old->size, q->cluster_size), QCOW2_LIMBO_CLUSTERS, err);
}

/* ---- create ---------------------------------------------------------------------------------- */

/* A decimal number above all that are there. */
static int next_id(const struct qcow2_state *q, char **ret, struct plt_error *err)
{
	unsigned long max = 0, v;

	for (uint32_t i = 0; i < q->nb_snapshots; i++) {
		v = strtoul(q->snapshots[i].info.id, NULL, 10);
		if (v > max && v < ULONG_MAX)
			max = v;
	}
	*ret = malloc(24);
	if (!*ret)
		return plt_error_set(err, ENOMEM, "out of memory");
	snprintf(*ret, 24, "%lu", max + 1);
	return 0;
}

static int describe(struct plt_image *img, const struct plt_snapshot_info *info, struct qcow2_snapshot *ret,
		    struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	int r = 0;

	if (strlen(info->name) > UINT16_MAX || (info->id && strlen(info->id) > UINT16_MAX))
		return plt_error_set(err, EINVAL, "The name of a snapshot can have %d bytes at most", UINT16_MAX);
	*ret = (struct qcow2_snapshot){ .info = *info };
	ret->info.id = NULL;
	ret->info.name = strdup(info->name);
	ret->info.disk_size = atomic_load(&img->size);
	if (info->id) {
		for (uint32_t i = 0; i < q->nb_snapshots; i++)
			if (!strcmp(q->snapshots[i].info.id, info->id))
				r = plt_error_set(err, EEXIST, "'%s': there is a snapshot with the id '%s'", img->name,
						  info->id);
		ret->info.id = strdup(info->id);
	} else {
		r = next_id(q, &ret->info.id, err);
	}
	if (r == 0 && (!ret->info.name || !ret->info.id))
		r = plt_error_set(err, ENOMEM, "out of memory");
	return r;
}

static void forget_description(struct qcow2_snapshot *s)
{
	free(s->info.id);
	free(s->info.name);
	free(s->extra);
}

/* Everything up to the header.  *ret_raised: the counts of the tree have been. */
static int create_tables(struct plt_image *img, struct qcow2_tree *t, struct list *l, struct fresh *l1,
			 struct fresh *table, bool *ret_raised, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	int r = take(img, (uint64_t)t->l1_size * 8, l1, err);

	l->v[l->n - 1].l1_offset = l1->off;
	l->v[l->n - 1].l1_size = t->l1_size;
	if (r == 0)
		r = list_write(img, l, table, err);
	if (r == 0)
		r = qcow2_tree_share(img, t, err);
	if (r == 0 && t->l1_size)
		r = plt_store_write(img->file, q->l1_offset, t->l1, (size_t)t->l1_size * 8, PLT_IO_L1, err);
	if (t->l1_size)
		plt_meta_forget(img, q->l1_offset, (uint64_t)t->l1_size * 8);
	if (r == 0)
		r = durable(img, QCOW2_RULE_SNAPSHOT_COPIED, err);
	if (r == 0)
		r = qcow2_tree_raise(img, t, err);
	*ret_raised = r == 0;
	if (r == 0 && l1->clusters)
		r = qcow2_tree_write_l1(img, t, l1->off, l1->clusters, err);
	return r < 0 ? r : durable(img, QCOW2_RULE_SNAPSHOT_TABLES, err);
}

int qcow2_snapshot_create(struct plt_image *img, const struct plt_snapshot_info *info, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct qcow2_tree t = { 0 };
	struct qcow2_snapshot s = { 0 };
	struct list old, l = { 0 };
	struct fresh l1 = { 0 }, table = { 0 };
	struct plt_error late = PLT_ERROR_INIT;
	bool raised = false;
	int r = begin(img, err);

	if (r == 0 && q->nb_snapshots >= QCOW2_MAX_SNAPSHOTS)
		r = plt_error_set(err, EFBIG, "'%s': there are %d snapshots, and there can be no more", img->name,
				  QCOW2_MAX_SNAPSHOTS);
	if (r == 0)
		r = describe(img, info, &s, err);
	if (r == 0)
		r = list_new(q, UINT32_MAX, &s, &l, err);
	if (r == 0)
		r = qcow2_tree_read(img, q->l1_offset, q->l1_size, &t, err);
	if (r == 0)
		r = qcow2_tree_check(img, &t, 1, err);
	if (r < 0)
		goto out;
	r = create_tables(img, &t, &l, &l1, &table, &raised, err);
	if (r < 0) { /* nothing names them: as it was */
		if (raised)
			qcow2_tree_unraise(img, &t);
		give_back(img, &table);
		give_back(img, &l1);
		if (plt_meta_flush(img, true, NULL) == 0)
			(void)qcow2_copied_on(img, NULL);
		goto out;
	}
	old = list_of(q);
	r = list_switch(img, &l, err);
	if (r < 0)
		goto out;
	list_free(&old);
	s = (struct qcow2_snapshot){ 0 };
	l = (struct list){ 0 };
	settle(img, qcow2_guard_renew(img) < 0 ? plt_error_set(&late, ENOMEM, "out of memory") :
						 free_list_table(img, &old, &late), &late);
out:
	forget_description(&s);
	list_free(&l);
	qcow2_tree_release(&t);
	return r;
}

/* ---- delete ---------------------------------------------------------------------------------- */

/* The header does not name it any more. */
static int delete_tree(struct plt_image *img, const struct qcow2_tree *t, const struct qcow2_snapshot *s,
		       const struct list *old, struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	uint64_t l1_bytes = plt_align_up((uint64_t)s->l1_size * 8, q->cluster_size);
	struct plt_error late = PLT_ERROR_INIT;
	int r = qcow2_guard_renew(img) < 0 ? plt_error_set(err, ENOMEM, "out of memory") : 0;

	if (r == 0)
		r = lower_tree(img, t, err);
	if (r == 0 && l1_bytes)
		r = qcow2_release(img, s->l1_offset, l1_bytes, QCOW2_LIMBO_CLUSTERS, err);
	if (r == 0)
		r = free_list_table(img, old, err);
	if (r == 0)
		r = plt_meta_flush(img, true, err);
	if (r == 0)
		r = qcow2_copied_on(img, err);
	if (r == 0)
		r = plt_store_sync(img->file, err);
	if (r < 0)
		plt_error_prefix(err, "The snapshot is deleted, but not all of its space could be freed");
	settle(img, 0, &late);
	return r;
}

int qcow2_snapshot_delete(struct plt_image *img, unsigned index, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct qcow2_tree t = { 0 };
	struct qcow2_snapshot s;
	struct list old, l = { 0 };
	struct fresh table = { 0 };
	int r = begin(img, err);

	if (r < 0)
		return r;
	s = q->snapshots[index];
	r = list_new(q, index, NULL, &l, err);
	if (r == 0)
		r = qcow2_tree_read(img, s.l1_offset, s.l1_size, &t, err);
	if (r == 0)
		r = qcow2_tree_check(img, &t, -1, err);
	if (r == 0) {
		r = list_write(img, &l, &table, err);
		if (r == 0)
			r = durable(img, QCOW2_RULE_SNAPSHOT_TABLES, err);
		if (r < 0)
			give_back(img, &table);
	}
	if (r < 0)
		goto out;
	old = list_of(q);
	if (!qcow2_rule(img, QCOW2_RULE_SNAPSHOT_GONE)) /* (tests only) */
		(void)qcow2_tree_lower(img, &t, NULL);
	r = list_switch(img, &l, err);
	if (r < 0)
		goto out;
	l = (struct list){ 0 };
	r = qcow2_rule(img, QCOW2_RULE_SNAPSHOT_GONE) ? delete_tree(img, &t, &s, &old, err) : 0;
	forget_description(&s);
	list_free(&old);
out:
	list_free(&l);
	qcow2_tree_release(&t);
	return r;
}

/* ---- apply ----------------------------------------------------------------------------------- */

/* What the header says of the active disk. */
struct active {
	uint64_t size, l1_offset;
	uint32_t l1_size;
};

static struct active active_of(const struct qcow2_state *q)
{
	return (struct active){ q->virtual_size, q->l1_offset, q->l1_size };
}

static void set_active(struct plt_image *img, const struct active *a)
{
	struct qcow2_state *q = qcow2_of(img);

	PLT_LOCK_SCOPE(&img->lock);
	q->virtual_size = a->size;
	q->l1_offset = q->view_l1_offset = a->l1_offset;
	q->l1_size = q->view_l1_size = a->l1_size;
}

/* The header names @new.  On failure either may be on disk: both trees keep their counts. */
static int switch_active(struct plt_image *img, const struct active *new, const struct active *old, struct plt_error *err)
{
	int r;

	set_active(img, new);
	r = qcow2_header_switch(img, offsetof(struct qcow2_header, size),
				offsetof(struct qcow2_header, refcount_table_offset), err);
	if (r < 0)
		set_active(img, old);
	return r;
}

/* @t with room for the whole of a disk of @size bytes. */
static int extend(const struct plt_image *img, struct qcow2_tree *t, uint64_t size, struct plt_error *err)
{
	uint64_t want = qcow2_l1_entries(qcow2_of(img), size);
	void *v;

	if (want * 8 > QCOW2_MAX_L1_BYTES)
		return plt_error_set(err, EFBIG, "'%s': the disk of the snapshot, of %" PRIu64 " bytes, is too large", img->name,
				     size);
	if (want <= t->l1_size)
		return 0;
	v = realloc(t->l1, (size_t)want * 8);
	if (!v)
		return plt_error_set(err, ENOMEM, "out of memory");
	t->l1 = v;
	memset(t->l1 + t->l1_size, 0, (size_t)(want - t->l1_size) * 8);
	t->l1_size = (uint32_t)want;
	return 0;
}

/* Everything up to the header. */
static int apply_tables(struct plt_image *img, struct qcow2_tree *t, struct fresh *l1, bool *ret_raised,
			struct plt_error *err)
{
	int r = take(img, (uint64_t)t->l1_size * 8, l1, err);

	if (r == 0)
		r = qcow2_tree_share(img, t, err);
	if (r == 0)
		r = durable(img, QCOW2_RULE_SNAPSHOT_COPIED, err);
	if (r == 0)
		r = qcow2_tree_raise(img, t, err);
	*ret_raised = r == 0;
	if (r == 0 && l1->clusters)
		r = qcow2_tree_write_l1(img, t, l1->off, l1->clusters, err);
	return r < 0 ? r : durable(img, QCOW2_RULE_SNAPSHOT_TABLES, err);
}

/* The header names the new tree: the old one goes. */
static int drop_active(struct plt_image *img, const struct qcow2_tree *t, const struct active *old,
		       struct plt_error *err)
{
	const struct qcow2_state *q = qcow2_of(img);
	uint64_t l1_bytes = plt_align_up((uint64_t)old->l1_size * 8, q->cluster_size);
	int r = lower_tree(img, t, err);

	if (r == 0 && l1_bytes) {
		plt_meta_forget(img, old->l1_offset, l1_bytes);
		r = qcow2_release(img, old->l1_offset, l1_bytes, QCOW2_LIMBO_CLUSTERS, err);
	}
	if (r == 0)
		r = plt_meta_flush(img, true, err);
	if (r == 0)
		r = qcow2_copied_on(img, err);
	if (r == 0)
		r = plt_store_sync(img->file, err);
	if (r < 0)
		plt_error_prefix(err, "It is done, but not all of the space of what the disk had before could be freed");
	return r;
}

int qcow2_snapshot_apply(struct plt_image *img, unsigned index, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct qcow2_tree now = { 0 }, then = { 0 };
	const struct qcow2_snapshot *s;
	struct active old, new;
	struct fresh l1 = { 0 };
	struct plt_error late = PLT_ERROR_INIT;
	bool raised = false;
	int r = begin(img, err);

	if (r < 0)
		return r;
	s = &q->snapshots[index];
	old = active_of(q);
	new = (struct active){ .size = s->info.disk_size };
	/* (a size that the format knows to the byte is kept where it is the same in whole sectors) */
	if (plt_align_down(old.size, 512) == s->info.disk_size)
		new.size = old.size;
	if (new.size != old.size) {
		if (q->version < 3)
			r = plt_error_set(err, ENOTSUP, "'%s': the snapshot's disk has %" PRIu64 " bytes, and a version 2 image "
					  "with snapshots cannot change its size", img->name, s->info.disk_size);
		if (r == 0 && s->info.disk_size > INT64_MAX - 511)
			r = plt_error_set(err, EFBIG, "'%s': the snapshot's disk, of %" PRIu64 " bytes, is too large",
					  img->name, s->info.disk_size);
		if (r == 0)
			r = qcow2_bitmaps_prepare_resize(img, s->info.disk_size, err);
	}
	if (r == 0)
		r = qcow2_tree_read(img, q->l1_offset, q->l1_size, &now, err);
	if (r == 0)
		r = qcow2_tree_check(img, &now, -1, err);
	if (r == 0)
		r = qcow2_tree_read(img, s->l1_offset, s->l1_size, &then, err);
	if (r == 0)
		r = qcow2_tree_check(img, &then, 1, err);
	if (r == 0)
		r = extend(img, &then, new.size, err);
	if (r < 0)
		goto out;
	r = apply_tables(img, &then, &l1, &raised, err);
	if (r < 0) {
		if (raised)
			qcow2_tree_unraise(img, &then);
		give_back(img, &l1);
		if (plt_meta_flush(img, true, NULL) == 0)
			(void)qcow2_copied_on(img, NULL);
		goto out;
	}
	new.l1_offset = l1.off;
	new.l1_size = then.l1_size;
	if (!qcow2_rule(img, QCOW2_RULE_SNAPSHOT_GONE)) /* (tests only) */
		(void)qcow2_tree_lower(img, &now, NULL);
	r = switch_active(img, &new, &old, err);
	if (r < 0)
		goto out;
	atomic_store(&img->size, plt_align_down(new.size, 512));
	if (new.size != old.size)
		r = qcow2_bitmaps_resize(img, atomic_load(&img->size), err);
	/* everything may be another content now than what the bitmaps know of */
	qcow2_bitmaps_record(img, 0, atomic_load(&img->size));
	if (r == 0 && qcow2_rule(img, QCOW2_RULE_SNAPSHOT_GONE))
		r = drop_active(img, &now, &old, err);
	settle(img, 0, &late);
out:
	qcow2_tree_release(&now);
	qcow2_tree_release(&then);
	return r;
}

/* ---- make empty ------------------------------------------------------------------------------ */

/* As if a snapshot were applied that holds nothing. */
int qcow2_make_empty(struct plt_image *img, bool trial, struct plt_error *err)
{
	struct qcow2_state *q = qcow2_of(img);
	struct qcow2_tree now = { 0 }, none = { 0 };
	struct active old = active_of(q), new = { .size = old.size };
	struct plt_error late = PLT_ERROR_INIT;
	struct fresh l1 = { 0 };
	int r;

	if (q->external)
		return plt_error_set(err, ENOTSUP, "'%s': an image with an external data file is not emptied", img->name);
	if (trial)
		return 0;
	r = begin(img, err);
	if (r == 0)
		r = qcow2_tree_read(img, q->l1_offset, q->l1_size, &now, err);
	if (r == 0)
		r = qcow2_tree_check(img, &now, -1, err);
	if (r == 0)
		r = extend(img, &none, new.size, err);
	if (r == 0)
		r = take(img, (uint64_t)none.l1_size * 8, &l1, err);
	if (r == 0 && l1.clusters)
		r = qcow2_tree_write_l1(img, &none, l1.off, l1.clusters, err);
	if (r == 0)
		r = durable(img, QCOW2_RULE_SNAPSHOT_TABLES, err);
	if (r < 0) {
		give_back(img, &l1);
		goto out;
	}
	new.l1_offset = l1.off;
	new.l1_size = none.l1_size;
	r = switch_active(img, &new, &old, err);
	if (r < 0)
		goto out;
	r = drop_active(img, &now, &old, err);
	settle(img, 0, &late);
out:
	qcow2_tree_release(&now);
	qcow2_tree_release(&none);
	return r;
}
