/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * New images.  Size and creator follow qemu-img, because clients compute with what it makes: a size that
 * is no product of a geometry is rounded up to one, unless force_size says otherwise; then, and for what
 * is too large for any geometry, the largest geometry is recorded, which every reader takes for "use the
 * size".  A differencing image always has exactly the size that was asked for.
 *
 * What makes the file an image, the footer at its start (of a fixed one, at its end), is written last.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "vhd/vhd.h"

#define TOO_LARGE "The image size is too large for file format 'vpc'"

/* clang-format off */
const struct plt_opt_desc vhd_create_opts[] = {
	{ .name = "size", .type = PLT_OPT_SIZE, .help = "Virtual disk size" },
	{ .name = "subformat", .type = PLT_OPT_STRING,
	  .help = "Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} " },
	{ .name = "force_size", .type = PLT_OPT_BOOL,
	  .help = "Force disk size calculation to use the actual size specified, rather than using the nearest "
		  "CHS-based calculation" },
	{ .name = "azure", .type = PLT_OPT_BOOL,
	  .help = "As Azure demands: a fixed image whose size is rounded up to a whole MiB, not to a geometry" },
	{ .name = "block_size", .type = PLT_OPT_SIZE,
	  .help = "Size of a block of a dynamic image, a power of two from 512 to 2 MiB (default: 2 MiB)" },
	{ .name = "backing_file", .type = PLT_OPT_STRING, .help = "Parent of a differencing image" },
	{ .name = "backing_fmt", .type = PLT_OPT_STRING, .help = "Format of the parent (vpc or raw)" },
	{ .name = NULL },
};
/* clang-format on */

struct plan {
	const struct plt_create *how;
	enum vhd_type type;
	bool exact;                  /* the size as it was asked for */
	uint32_t block_size;
	const char *backing, *preallocation;
	struct vhd_footer footer;
	struct vhd_header header;
	uint64_t size, table_len, end; /* end: where the footer goes */
};

/* ---- options --------------------------------------------------------------------------------- */

static int parse_type(struct plan *p, const struct plt_opts *o, struct plt_error *err)
{
	const char *sub = plt_opts_get(o, "subformat");
	bool azure = plt_opts_bool(o, "azure");

	p->backing = plt_opts_get(o, "backing_file");
	if (p->backing && !*p->backing)
		p->backing = NULL;
	p->type = !sub ? p->backing ? VHD_DIFFERENCING : azure ? VHD_FIXED : VHD_DYNAMIC :
		  !strcmp(sub, "fixed") ? VHD_FIXED :
		  !strcmp(sub, "dynamic") ? VHD_DYNAMIC :
		  !strcmp(sub, "differencing") ? VHD_DIFFERENCING : 0;
	if (!p->type)
		return plt_error_set(err, EINVAL, "Parameter 'subformat' does not accept value '%s'", sub);
	if (p->type == VHD_DIFFERENCING && !p->backing)
		return plt_error_set(err, EINVAL, "A differencing image needs a parent (backing_file)");
	if (p->type != VHD_DIFFERENCING && p->backing)
		return plt_error_set(err, EINVAL, "A parent (backing_file) goes with subformat=differencing, not with %s", sub);
	if (azure && p->type != VHD_FIXED)
		return plt_error_set(err, EINVAL, "Azure takes fixed images only: azure=on goes with subformat=fixed");
	p->exact = azure || p->backing || plt_opts_bool(o, "force_size");
	if (azure)
		p->size = plt_align_up(p->size, UINT64_C(1) << 20);
	return 0;
}

static int parse_options(struct plan *p, struct plt_error *err)
{
	const struct plt_opts *o = p->how->opts;
	int r = parse_type(p, o, err);
	uint64_t bs;

	if (r < 0)
		return r;
	p->block_size = VHD_DEFAULT_BLOCK;
	if (plt_opts_get(o, "block_size")) {
		bs = plt_opts_u64(o, "block_size");
		if (p->type == VHD_FIXED)
			return plt_error_set(err, EINVAL, "A fixed image has no blocks (block_size)");
		if (!plt_is_pow2(bs) || bs < VHD_MIN_BLOCK || bs > VHD_DEFAULT_BLOCK)
			return plt_error_set(err, EINVAL, "Block size must be a power of two between 512 and 2048k");
		p->block_size = (uint32_t)bs;
	}
	p->preallocation = plt_opts_get(o, "preallocation");
	if (p->preallocation && !strcmp(p->preallocation, "off"))
		p->preallocation = NULL;
	if (p->preallocation && p->type != VHD_FIXED)
		return plt_error_set(err, EINVAL, "preallocation=%s goes with subformat=fixed; blocks of other images come "
				     "when they are written", p->preallocation);
	return 0;
}

/* ---- headers --------------------------------------------------------------------------------- */

/* The size that qemu-img would give, and the geometry that says so. */
static int set_size(struct plan *p, struct plt_error *err)
{
	uint64_t sectors = plt_div_up(p->size, VHD_SECTOR), want = PLT_MIN(sectors, VHD_MAX_CHS);
	uint32_t c = 0, h = 0, s = 0;

	if (p->exact) {
		c = VHD_CHS_C;
		h = VHD_CHS_H;
		s = VHD_CHS_S;
	}
	for (uint64_t i = 0; (uint64_t)c * h * s < want; i++)
		vhd_geometry(want + i, &c, &h, &s);
	if ((uint64_t)c * h * s != VHD_MAX_CHS)
		sectors = (uint64_t)c * h * s;
	else if (sectors > VHD_MAX_SECTORS)
		return plt_error_set(err, EFBIG, TOO_LARGE);
	p->size = sectors * VHD_SECTOR;
	vhd_set_chs(&p->footer, c, h, s);
	p->footer.original_size = p->footer.current_size = plt_be64_make(p->size);
	return 0;
}

static int fill_footer(struct plan *p, struct plt_error *err)
{
	struct vhd_footer *f = &p->footer;

	memcpy(f->cookie, VHD_COOKIE, 8);
	f->features = plt_be32_make(VHD_FEATURE_RESERVED);
	f->version = plt_be32_make(VHD_VERSION);
	f->data_offset = plt_be64_make(p->type == VHD_FIXED ? VHD_NONE : VHD_FOOTER);
	f->timestamp = plt_be32_make(vhd_time(time(NULL)));
	/* the names by which QEMU knows whether to go by the geometry */
	memcpy(f->creator, p->exact ? "qem2" : "qemu", 4);
	f->creator_version = plt_be32_make(0x00050003);
	memcpy(f->creator_os, "Wi2k", 4);
	f->type = plt_be32_make(p->type);
	if (getrandom(f->id, sizeof(f->id), 0) != (ssize_t)sizeof(f->id))
		return plt_error_errno(err, errno ? errno : EIO, "unique id");
	f->id[6] = (uint8_t)((f->id[6] & 0x0f) | 0x40);
	f->id[8] = (uint8_t)((f->id[8] & 0x3f) | 0x80);
	vhd_footer_seal(f);
	return 0;
}

static int set_parent(struct plan *p, struct plt_error *err)
{
	const char *fmt = plt_opts_get(p->how->opts, "backing_fmt");
	struct plt_image *parent = p->how->backing;
	struct stat sb;
	int fd;

	if (parent && parent->drv == &vhd_driver)
		memcpy(p->header.parent_id, vhd_of(parent)->footer.id, 16);
	else if (parent ? !(parent->drv->flags & PLT_DRIVER_NO_HEADER) : !fmt || strcmp(fmt, "raw"))
		return plt_error_set(err, EINVAL, parent ? "The parent of a differencing VHD is a VHD or a raw image, not %s" :
				     "A differencing VHD records the unique id of its parent, which therefore has to be "
				     "opened (-u cannot be used)", parent ? parent->drv->name : "");
	fd = parent ? plt_store_fd(parent->file) : -1;
	if (fd >= 0 && fstat(fd, &sb) == 0)
		p->header.parent_timestamp = plt_be32_make(vhd_time(sb.st_mtime));
	return vhd_write_locators(p->how->file, &p->header, p->how->name, p->backing, p->end, &p->end, err);
}

/* ---- writing --------------------------------------------------------------------------------- */

static int write_table(struct plan *p, uint64_t off, struct plt_error *err)
{
	size_t n = (size_t)PLT_MIN(p->table_len, UINT64_C(1) << 20);
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(n ? n : 1);
	int r = 0;

	if (!buf)
		return plt_error_set(err, ENOMEM, "out of memory");
	memset(buf, 0xff, n);
	for (uint64_t done = 0; done < p->table_len && r == 0; done += n)
		r = plt_store_write(p->how->file, off + done, buf, (size_t)PLT_MIN(p->table_len - done, (uint64_t)n),
				    PLT_IO_L1, err);
	return r;
}

/* Where the store cannot grow, the footer stands at its end. */
static int footer_place(struct plan *p, uint64_t *ret, struct plt_error *err)
{
	uint64_t size;
	int r;

	*ret = p->end;
	if (p->how->file->limits.can_grow)
		return 0;
	r = plt_store_size(p->how->file, &size, err);
	if (r == 0 && (size < VHD_FOOTER || plt_align_down(size, VHD_SECTOR) - VHD_FOOTER < p->end))
		r = plt_error_set(err, ENOSPC, "the device is too small (%" PRIu64 " bytes, %" PRIu64 " are needed)", size,
				  p->end + VHD_FOOTER);
	*ret = plt_align_down(size, VHD_SECTOR) - VHD_FOOTER;
	return r;
}

static int put(struct plan *p, uint64_t off, const void *buf, size_t len, struct plt_error *err)
{
	return plt_store_write(p->how->file, off, buf, len, PLT_IO_HEADER, err);
}

static int create_fixed(struct plan *p, struct plt_error *err)
{
	struct plt_store *file = p->how->file;
	uint64_t at;
	int r;

	p->end = p->size;
	r = footer_place(p, &at, err);
	if (r == 0 && file->limits.can_grow)
		r = plt_store_truncate(file, p->size, err);
	if (r == 0 && p->preallocation && !p->how->trial)
		r = !strcmp(p->preallocation, "falloc") ? plt_store_allocate(file, 0, p->size, err) :
							  plt_store_zero(file, 0, p->size, PLT_ZERO_WRITTEN, PLT_IO_DATA, err);
	return r < 0 ? r : put(p, at, &p->footer, sizeof(p->footer), err);
}

static int create_dynamic(struct plan *p, struct plt_error *err)
{
	struct vhd_header *h = &p->header;
	uint64_t table = VHD_FOOTER + VHD_HEADER, entries = plt_div_up(p->size, p->block_size), at;
	int r;

	if (entries > VHD_MAX_ENTRIES)
		return plt_error_set(err, EFBIG, TOO_LARGE " with blocks of %u bytes", p->block_size);
	p->table_len = plt_align_up(entries * 4, VHD_SECTOR);
	p->end = table + p->table_len;
	memcpy(h->cookie, VHD_HEADER_COOKIE, 8);
	h->data_offset = plt_be64_make(VHD_NONE);
	h->table_offset = plt_be64_make(table);
	h->version = plt_be32_make(VHD_VERSION);
	h->entries = plt_be32_make((uint32_t)entries);
	h->block_size = plt_be32_make(p->block_size);
	r = p->backing ? set_parent(p, err) : 0;
	vhd_header_seal(h);
	if (r == 0)
		r = footer_place(p, &at, err);
	if (r == 0)
		r = write_table(p, table, err);
	if (r == 0)
		r = put(p, VHD_FOOTER, h, sizeof(*h), err);
	if (r == 0)
		r = put(p, at, &p->footer, sizeof(p->footer), err);
	if (r == 0)
		r = plt_store_sync(p->how->file, err);
	return r < 0 ? r : put(p, 0, &p->footer, sizeof(p->footer), err);
}

int vhd_create(const struct plt_create *how, struct plt_error *err)
{
	struct plan p = { .how = how, .size = how->size };
	int r = parse_options(&p, err);

	if (r == 0)
		r = set_size(&p, err);
	if (r == 0)
		r = fill_footer(&p, err);
	if (r == 0)
		r = p.type == VHD_FIXED ? create_fixed(&p, err) : create_dynamic(&p, err);
	return r < 0 ? r : plt_store_sync(how->file, err);
}
