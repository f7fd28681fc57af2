/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Opening, the first write, closing.  Opening reads the ends of the file, the dynamic header, locators
 * and batmap, and checks each against the file; it never writes.  The first write looks at the whole
 * table and, before anything is changed, makes the footers at both ends whole.  Closing cuts off what was
 * prepared and not used.
 */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/zero.h"
#include "vhd/vhd.h"

/* clang-format off */
const struct plt_opt_desc vhd_open_opts[] = {
	{ .name = "force_size_calc", .type = PLT_OPT_STRING,
	  .help = "Take the disk's size from this field, whatever the creator means (current_size, chs)" },
	{ .name = "parent-check", .type = PLT_OPT_BOOL,
	  .help = "Whether a parent whose unique id is not the recorded one is refused (default: on)" },
	{ .name = NULL },
};
/* clang-format on */

/* ---- opening --------------------------------------------------------------------------------- */

static int read_options(struct vhd_state *v, const struct plt_open_how *how, enum vhd_size_rule *ret,
			struct plt_error *err)
{
	const char *rule = how->opts ? plt_opts_get(how->opts, "force_size_calc") : NULL;
	const char *check = how->opts ? plt_opts_get(how->opts, "parent-check") : NULL;
	bool on = true;

	*ret = !rule ? VHD_SIZE_AUTO : !strcmp(rule, "chs") ? VHD_SIZE_CHS : VHD_SIZE_CURRENT;
	if (rule && strcmp(rule, "chs") && strcmp(rule, "current_size"))
		return plt_error_set(err, EINVAL, "Invalid size calculation mode: '%s'", rule);
	if (check && plt_parse_bool(check, &on) < 0)
		return plt_error_set(err, EINVAL, "Parameter 'parent-check' expects 'on' or 'off'");
	v->parent_unchecked = !on;
	if (how->snapshot || how->snapshot_id || how->snapshot_name)
		return plt_error_set(err, ENOTSUP, "the VHD format has no internal snapshots");
	return 0;
}

static int choose_size(struct plt_image *img, enum vhd_size_rule rule, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	uint64_t size = vhd_size(&v->footer, rule, &v->by_chs);

	if (size / VHD_SECTOR > VHD_MAX_SECTORS)
		return plt_error_set(err, EFBIG, "footer: a disk of %" PRIu64 " bytes (2040 GiB are the most)", size);
	atomic_store(&img->size, size);
	return 0;
}

static int open_fixed(struct plt_image *img, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	uint64_t size = atomic_load(&img->size);

	if (size > v->ends.use->off)
		return plt_error_set(err, EUCLEAN, "footer: a disk of %" PRIu64 " bytes, but only %" PRIu64
				     " bytes lie before the footer: the file is truncated", size, v->ends.use->off);
	img->alloc_unit = VHD_SECTOR;
	img->holes = PLT_HOLES_ASK;
	return 0;
}

/* ---- layout ---------------------------------------------------------------------------------- */

static int add_meta(struct vhd_state *v, uint64_t off, uint64_t len, struct plt_error *err)
{
	int r = plt_extents_add(&v->meta, off, len);

	v->meta_end = PLT_MAX(v->meta_end, off + len);
	return r < 0 ? plt_error_set(err, ENOMEM, "out of memory") : 0;
}

/* Where no block may lie.  A locator's room counts only where it has a text in the file. */
static int collect_meta(struct vhd_state *v, uint64_t file_size, struct plt_error *err)
{
	int r = add_meta(v, 0, VHD_FOOTER, err);

	if (r == 0)
		r = add_meta(v, v->header_off, VHD_HEADER, err);
	if (r == 0 && v->entries)
		r = add_meta(v, v->table_off, plt_align_up((uint64_t)v->entries * 4, VHD_SECTOR), err);
	for (unsigned i = 0; i < VHD_LOCATORS && r == 0; i++) {
		const struct vhd_locator *l = &v->header.locator[i];
		uint64_t off = plt_be64_get(l->offset), len = plt_be32_get(l->length);

		if (!plt_is_zero(l->code, 4) && len && len <= VHD_MAX_LOCATOR &&
		    plt_in_range(off, len, file_size))
			r = add_meta(v, off, len, err);
	}
	v->meta_end = plt_align_up(v->meta_end, VHD_SECTOR);
	return r;
}

int vhd_layout(struct vhd_state *v, uint64_t size, uint64_t file_size, struct plt_error *err)
{
	v->header_off = plt_be64_get(v->footer.data_offset);
	v->table_off = plt_be64_get(v->header.table_offset);
	v->entries = plt_be32_get(v->header.entries);
	v->block_size = plt_be32_get(v->header.block_size);
	v->block_bits = (uint32_t)__builtin_ctz(v->block_size);
	v->bitmap_bytes = (uint32_t)plt_align_up(plt_div_up(v->block_size / VHD_SECTOR, 8), VHD_SECTOR);
	v->blocks = plt_div_up(size, v->block_size);
	if (v->blocks > v->entries)
		return plt_error_set(err, EUCLEAN, "dynamic header: a table of %u entries for blocks of %u bytes; a disk of "
				     "%" PRIu64 " bytes needs %" PRIu64, v->entries, v->block_size, size, v->blocks);
	v->honoured = v->type == VHD_DIFFERENCING || vhd_is_creator(&v->footer, "tap\0");
	v->bits_reversed = vhd_is_creator(&v->footer, "tap\0") && plt_be32_get(v->footer.creator_version) == 1;
	return collect_meta(v, file_size, err);
}

/* ---- opening, continued ---------------------------------------------------------------------- */

static int open_parent_names(struct plt_image *img, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	char id[VHD_ID_TEXT];
	int r;

	if (v->type != VHD_DIFFERENCING)
		return 0;
	r = vhd_parent_names(img->file, &v->header, &v->names, &v->nnames, err);
	if (r < 0)
		return r;
	/* without any name the parent is known by what it is */
	img->backing_name = strdup(v->nnames ? v->names[0] : vhd_id_text(v->header.parent_id, id));
	img->backing_format = strdup(plt_is_zero(v->header.parent_id, 16) ? "raw" : "vpc");
	return img->backing_name && img->backing_format ? 0 : plt_error_set(err, ENOMEM, "out of memory");
}

static int open_dynamic(struct plt_image *img, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	uint64_t size = atomic_load(&img->size);
	int r = vhd_read_header(img->file, v->ends.file_size, &v->footer, &v->header, err);

	if (r < 0)
		return r;
	r = vhd_layout(v, size, v->ends.file_size, err);
	if (r < 0)
		return r;
	img->alloc_unit = v->block_size;
	img->holes = PLT_HOLES_NEVER;
	r = vhd_batmap_load(img, err);
	if (r == 0)
		r = open_parent_names(img, err);
	return r;
}

static void release(struct plt_image *img)
{
	struct vhd_state *v = vhd_of(img);

	vhd_names_free(v->names, v->nnames);
	plt_extents_release(&v->meta);
	plt_extents_release(&v->gaps);
	free(v->batmap);
	free(v->free);
	free(v);
	img->priv = NULL;
	plt_store_unref(img->data);
	img->data = NULL;
}

static void warn(struct plt_image *img, const struct plt_open_how *how)
{
	const struct vhd_state *v = vhd_of(img);
	const struct vhd_ends *e = &v->ends;

	if (how->no_refs || how->check)
		return; /* info and check have their own words for it */
	if (v->type != VHD_FIXED && e->use == &e->tail)
		plt_ctx_warn(img->ctx, "'%s': the file starts with %s; opened by the footer at its end", img->name,
			     e->head.why);
	if (v->encrypted)
		plt_ctx_warn(img->ctx, "'%s': its data was encrypted by XenServer, outside of the format; it is read as it "
			     "is", img->name);
}

int vhd_open(struct plt_image *img, const struct plt_open_how *how, struct plt_error *err)
{
	struct vhd_state *v = calloc(1, sizeof(*v));
	enum vhd_size_rule rule = VHD_SIZE_AUTO;
	int r;

	if (!v)
		return plt_error_set(err, ENOMEM, "out of memory");
	img->priv = v;
	img->data = plt_store_ref(img->file);
	img->slice = VHD_SECTOR;
	r = read_options(v, how, &rule, err);
	if (r == 0)
		r = vhd_read_ends(img->file, &v->ends, err);
	if (r == 0 && vhd_is_poisoned(&v->ends.tail.f) && img->writable)
		r = plt_error_set(err, EBUSY, "a resize by vhd-util was cut short: 'platter repair' takes it back, with the journal "
				  "beside the image");
	if (r == 0) {
		v->footer = v->ends.use->f;
		v->type = plt_be32_get(v->footer.type);
		atomic_store(&v->file_end, v->ends.file_size);
		/* what is not the guest's although a block that is cut short may reach there */
		atomic_store(&v->data_limit, v->ends.tail.state == VHD_COPY_NONE ? UINT64_MAX : v->ends.tail.off);
		r = choose_size(img, rule, err);
	}
	if (r == 0)
		r = v->type == VHD_FIXED ? open_fixed(img, err) : open_dynamic(img, err);
	if (r == 0 && v->encrypted && img->writable)
		r = plt_error_set(err, EACCES, "its data was encrypted by XenServer, outside of the format: it can be read "
				  "as it is, not written");
	if (r < 0) {
		if (!err || (strncmp(err->text, "Invalid ", 8) && strncmp(err->text, "Max ", 4))) /* QEMU's words */
			plt_error_prefix(err, "'%s'", img->name);
		release(img);
		free(img->backing_name);
		free(img->backing_format);
		img->backing_name = img->backing_format = NULL;
		return r;
	}
	warn(img, how);
	return 0;
}

/* ---- the first write ------------------------------------------------------------------------- */

static bool copy_is(const struct vhd_copy *c, const struct vhd_footer *f)
{
	return c->state == VHD_COPY_GOOD && c->len == VHD_FOOTER && !memcmp(&c->f, f, sizeof(*f));
}

/* A file that a resize or a growth that was cut short has left longer than its footer says. */
static int cut_behind_footer(struct plt_image *img, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	int r = plt_store_truncate(img->file, v->ends.tail.off + VHD_FOOTER, err);

	if (r == 0)
		r = plt_store_sync(img->file, err);
	if (r == 0) {
		v->ends.displaced = false;
		v->ends.file_size = v->ends.tail.off + VHD_FOOTER;
	}
	return r;
}

/* Where a footer that is missing, damaged, or within a block goes. */
static int place_footer(struct plt_image *img, uint64_t *ret, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	const struct vhd_copy *t = &v->ends.tail;
	uint64_t at = t->state == VHD_COPY_NONE || v->ends.displaced ? v->ends.file_size : plt_align_down(t->off, VHD_SECTOR);

	at = plt_align_up(PLT_MAX(at, v->used_end), VHD_SECTOR);
	if (!img->file->limits.can_grow) {
		at = plt_align_down(v->ends.file_size, VHD_SECTOR) - VHD_FOOTER;
		if (at < v->used_end)
			return plt_error_set(err, ENOSPC, "'%s': no room for a footer behind the last block, which ends "
					     "at %#" PRIx64, img->name, v->used_end);
	}
	*ret = at;
	return 0;
}

static int mend_tail(struct plt_image *img, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	uint64_t limit = atomic_load(&v->data_limit), at = 0;
	int r;

	if (v->ends.displaced && copy_is(&v->ends.tail, &v->footer) && v->ends.tail.off >= v->used_end &&
	    img->file->limits.can_grow) {
		r = cut_behind_footer(img, err);
		if (r < 0)
			return r;
	}
	if (copy_is(&v->ends.tail, &v->footer) && !v->ends.displaced && v->ends.tail.off >= v->used_end) {
		v->footer_off = v->ends.tail.off;
		return 0;
	}
	r = place_footer(img, &at, err);
	if (r == 0 && vhd_rule(img, VHD_RULE_FOOTER_MEND))
		r = vhd_put_footer(img, at, true, err);
	/* what was taken for a footer in the midst of a block has been read as zeros until now */
	if (r == 0 && limit < v->used_end)
		r = plt_store_zero(img->file, limit, v->used_end - limit, 0, PLT_IO_OTHER, err);
	if (r == 0)
		v->footer_off = at;
	return r;
}

int vhd_first_write(struct plt_image *img, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	int r;

	if (v->ready)
		return 0;
	if (v->footer.saved_state)
		plt_ctx_warn(img->ctx, "'%s': the saved state of a machine belongs to this disk; it will not fit any more "
			     "once the disk is changed", img->name);
	if (v->type == VHD_FIXED) {
		r = v->ends.displaced && img->file->limits.can_grow ? cut_behind_footer(img, err) : 0;
		v->ready = r == 0;
		return r;
	}
	r = vhd_scan(img, &v->used_end, err);
	if (r == 0)
		r = mend_tail(img, err);
	if (r == 0 && !copy_is(&v->ends.head, &v->footer)) {
		r = vhd_put_footer(img, 0, true, err);
		if (r == 0) {
			v->ends.head.f = v->footer;
			v->ends.head.state = VHD_COPY_GOOD;
			v->ends.head.len = VHD_FOOTER;
		}
	}
	if (r < 0)
		return r;
	pthread_mutex_lock(&img->lock);
	v->floor = v->footer_off;
	v->pool = v->pool_end = v->used_end;
	v->fresh_from = PLT_MAX(v->ends.file_size, v->footer_off + VHD_FOOTER);
	atomic_store(&v->file_end, v->fresh_from);
	if (!img->file->limits.new_is_zero)
		v->fresh_from = UINT64_MAX;
	atomic_store(&v->data_limit, UINT64_MAX);
	v->ready = true;
	pthread_mutex_unlock(&img->lock);
	return 0;
}

/* ---- closing --------------------------------------------------------------------------------- */

/* The footer directly behind the last block, and nothing behind the footer. */
static int trim(struct plt_image *img, struct plt_error *err)
{
	struct vhd_state *v = vhd_of(img);
	uint64_t end = plt_align_up(PLT_MAX(v->used_end, v->floor), VHD_SECTOR);
	int r = plt_store_check_writable(img->file, err);

	if (r < 0 || !v->moved)
		return r;
	r = vhd_put_footer(img, end, vhd_rule(img, VHD_RULE_FOOTER_TRIM), err);
	if (r == 0 && img->file->limits.can_grow)
		r = plt_store_truncate(img->file, end + VHD_FOOTER, err);
	if (r == 0)
		r = plt_store_sync(img->file, err);
	return r;
}

int vhd_close(struct plt_image *img, struct plt_error *err)
{
	int r = img->writable ? trim(img, err) : 0;

	release(img);
	return r;
}
