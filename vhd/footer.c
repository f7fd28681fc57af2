/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Footers and dynamic headers: checksums, geometry, the size that a creator means, and the search for
 * the copy that speaks for an image when one is damaged.  Nothing of a footer is used before its
 * checksum has been found right.
 */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/zero.h"
#include "vhd/vhd.h"

/* ---- sums ------------------------------------------------------------------------------------ */

uint32_t vhd_checksum(const void *p, size_t len, size_t checksum_at)
{
	const uint8_t *b = p;
	uint32_t sum = 0;

	for (size_t i = 0; i < len; i++)
		if (i < checksum_at || i >= checksum_at + 4)
			sum += b[i];
	return ~sum;
}

void vhd_footer_seal(struct vhd_footer *f)
{
	f->checksum = plt_be32_make(vhd_checksum(f, sizeof(*f), offsetof(struct vhd_footer, checksum)));
}

void vhd_header_seal(struct vhd_header *h)
{
	h->checksum = plt_be32_make(vhd_checksum(h, sizeof(*h), offsetof(struct vhd_header, checksum)));
}

/* Old blktap set the hidden byte without computing the sum anew. */
static bool footer_sum_right(const struct vhd_footer *f)
{
	size_t at = offsetof(struct vhd_footer, checksum);
	uint32_t want = plt_be32_get(f->checksum), sum = vhd_checksum(f, sizeof(*f), at);

	return sum == want || (f->hidden && sum + f->hidden == want);
}

uint32_t vhd_time(time_t t)
{
	return t < VHD_EPOCH || (uint64_t)t - VHD_EPOCH > UINT32_MAX ? 0 : (uint32_t)(t - VHD_EPOCH);
}

const char *vhd_id_text(const uint8_t id[16], char buf[VHD_ID_TEXT])
{
	char *p = buf;

	for (unsigned i = 0; i < 16; i++)
		p += sprintf(p, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", id[i]);
	return buf;
}

/* ---- size and geometry ----------------------------------------------------------------------- */

/* The specification's appendix: never more than @sectors, and the machines' BIOSes count on it. */
void vhd_geometry(uint64_t sectors, uint32_t *ret_c, uint32_t *ret_h, uint32_t *ret_s)
{
	uint64_t t = PLT_MIN(sectors, VHD_MAX_CHS), tracks; /* cylinders times heads */
	uint32_t h, s;

	if (t >= UINT64_C(65535) * 16 * 63) {
		s = 255;
		h = 16;
		tracks = t / s;
	} else {
		s = 17;
		tracks = t / s;
		h = (uint32_t)PLT_MAX((tracks + 1023) / 1024, UINT64_C(4));
		if (tracks >= (uint64_t)h * 1024 || h > 16) {
			s = 31;
			h = 16;
			tracks = t / s;
		}
		if (tracks >= (uint64_t)h * 1024) {
			s = 63;
			h = 16;
			tracks = t / s;
		}
	}
	*ret_c = (uint32_t)(tracks / h);
	*ret_h = h;
	*ret_s = s;
}

uint64_t vhd_chs_sectors(const struct vhd_footer *f)
{
	return (uint64_t)plt_be16_get(f->cylinders) * f->heads * f->sectors;
}

void vhd_set_chs(struct vhd_footer *f, uint32_t c, uint32_t h, uint32_t s)
{
	f->cylinders = plt_be16_make((uint16_t)c);
	f->heads = (uint8_t)h;
	f->sectors = (uint8_t)s;
}

bool vhd_is_creator(const struct vhd_footer *f, const char *four)
{
	return !memcmp(f->creator, four, 4);
}

/*
 * Virtual PC, Virtual Server and QEMU without force_size gave their guests what the geometry says; all
 * others, known or not, the size.  The largest geometry says that there is none.
 */
static bool shows_chs(const struct vhd_footer *f)
{
	return vhd_is_creator(f, "vpc ") || vhd_is_creator(f, "vs  ") || vhd_is_creator(f, "qemu");
}

uint64_t vhd_size(const struct vhd_footer *f, enum vhd_size_rule rule, bool *ret_chs)
{
	uint64_t current = plt_align_down(plt_be64_get(f->current_size), VHD_SECTOR);
	uint64_t chs = vhd_chs_sectors(f);

	*ret_chs = chs != VHD_MAX_CHS &&
		   (rule == VHD_SIZE_CHS ||
		    (rule == VHD_SIZE_AUTO && shows_chs(f) && chs && chs * VHD_SECTOR <= current));
	return *ret_chs ? chs * VHD_SECTOR : current;
}

/* ---- the ends of a file ---------------------------------------------------------------------- */

/* Is this a footer that can be believed?  Sets state and why. */
static void judge(struct vhd_copy *c, bool head, uint64_t file_size)
{
	const struct vhd_footer *f = &c->f;
	uint32_t type = plt_be32_get(f->type);
	uint64_t data = plt_be64_get(f->data_offset);

	c->state = VHD_COPY_NONE;
	if (memcmp(f->cookie, VHD_COOKIE, 8)) {
		snprintf(c->why, sizeof(c->why), "no footer ('conectix' is missing)");
		return;
	}
	c->state = VHD_COPY_BAD;
	if (!footer_sum_right(f))
		snprintf(c->why, sizeof(c->why), "a footer whose checksum is %#x instead of %#x",
			 plt_be32_get(f->checksum),
			 vhd_checksum(f, sizeof(*f), offsetof(struct vhd_footer, checksum)));
	else if (plt_be32_get(f->version) >> 16 != VHD_VERSION >> 16)
		snprintf(c->why, sizeof(c->why), "a footer of format version %#x (%#x is known)",
			 plt_be32_get(f->version), VHD_VERSION);
	else if (type != VHD_DYNAMIC && type != VHD_DIFFERENCING && (head || type != VHD_FIXED))
		snprintf(c->why, sizeof(c->why), "a footer of disk type %u (%s)", type,
			 head ? "3 and 4 have a copy there" : "2, 3 and 4 are known");
	else if (type != VHD_FIXED && (data % VHD_SECTOR || data < VHD_FOOTER ||
				       !plt_in_range(data, offsetof(struct vhd_header, parent_name), file_size)))
		snprintf(c->why, sizeof(c->why), "a footer that puts the dynamic header at %#" PRIx64
			 ", outside of the file", data);
	else
		c->state = VHD_COPY_GOOD;
}

static int read_copy(struct plt_store *file, uint64_t off, uint32_t len, bool head, uint64_t file_size,
		     struct vhd_copy *c, struct plt_error *err)
{
	int r;

	memset(c, 0, sizeof(*c));
	c->off = off;
	c->len = len;
	r = plt_store_read(file, off, &c->f, len, PLT_IO_HEADER, err);
	if (r == 0)
		judge(c, head, file_size);
	return r;
}

static bool is_fixed(const struct vhd_copy *c)
{
	return c->state == VHD_COPY_GOOD && plt_be32_get(c->f.type) == VHD_FIXED;
}

static bool fits_exactly(const struct vhd_copy *c)
{
	return is_fixed(c) && plt_align_down(plt_be64_get(c->f.current_size), VHD_SECTOR) == c->off;
}

#define LOOK_BACK (UINT64_C(16) << 20)

/*
 * A disk was being made larger: the file is long already, its footer still where it used to end, zeros
 * behind it.  Looks at the last sectors that are not zeros.
 */
static int find_displaced(struct plt_store *file, uint64_t file_size, struct vhd_copy *c, struct plt_error *err)
{
	PLT_AUTOFREE uint8_t *buf = NULL;
	uint64_t end = 0, n = 0;
	int r;

	for (uint64_t off = 0; off < file_size; off += n) {
		enum plt_store_kind kind;

		r = plt_store_extents(file, off, file_size - off, &kind, &n, err);
		if (r < 0)
			return r;
		if (kind == PLT_STORE_DATA)
			end = off + n;
	}
	end = plt_align_up(PLT_MIN(end, file_size), VHD_SECTOR);
	buf = plt_alloc_io(1 << 16);
	if (!buf)
		return plt_error_set(err, ENOMEM, "out of memory");
	for (uint64_t stop = end > LOOK_BACK ? end - LOOK_BACK : 0; end > stop; end -= n) {
		n = PLT_MIN(end - stop, UINT64_C(1) << 16);
		r = plt_store_read(file, end - n, buf, n, PLT_IO_HEADER, err);
		if (r < 0)
			return r;
		for (uint64_t at = n; at; at -= VHD_SECTOR) {
			if (plt_is_zero(buf + at - VHD_SECTOR, VHD_SECTOR))
				continue;
			r = read_copy(file, end - n + at - VHD_SECTOR, VHD_FOOTER, false, file_size, c, err);
			if (r == 0 && is_fixed(c) && !fits_exactly(c))
				c->state = VHD_COPY_NONE;
			return r;
		}
	}
	return 0;
}

static int read_tail(struct plt_store *file, struct vhd_ends *e, struct plt_error *err)
{
	struct vhd_copy other;
	int r = read_copy(file, e->file_size - VHD_FOOTER, VHD_FOOTER, false, e->file_size, &e->tail, err);

	if (r < 0 || e->tail.state != VHD_COPY_NONE)
		return r;
	r = read_copy(file, e->file_size - VHD_OLD_FOOTER, VHD_OLD_FOOTER, false, e->file_size, &other, err);
	if (r == 0 && other.state == VHD_COPY_GOOD) {
		e->tail = other;
		return 0;
	}
	if (r < 0 || !plt_is_zero(&e->tail.f, VHD_FOOTER))
		return r;
	memset(&other, 0, sizeof(other));
	r = find_displaced(file, e->file_size, &other, err);
	/* (what is not the same as the copy at the start may be anything) */
	if (r == 0 && other.state == VHD_COPY_GOOD && other.off &&
	    (e->head.state != VHD_COPY_GOOD || !memcmp(&other.f, &e->head.f, sizeof(other.f)))) {
		e->tail = other;
		e->displaced = true;
	}
	return r;
}

int vhd_read_ends(struct plt_store *file, struct vhd_ends *e, struct plt_error *err)
{
	int r;

	memset(e, 0, sizeof(*e));
	r = plt_store_size(file, &e->file_size, err);
	if (r < 0)
		return r;
	if (e->file_size < VHD_FOOTER)
		return plt_error_set(err, EINVAL, "the file has %" PRIu64 " bytes, fewer than the footer of a VHD",
				     e->file_size);
	r = read_copy(file, 0, VHD_FOOTER, true, e->file_size, &e->head, err);
	if (r == 0)
		r = read_tail(file, e, err);
	if (r < 0)
		return r;
	/*
	 * A fixed disk whose footer fits exactly is one, whatever its first sector holds: that is the
	 * guest's.  Otherwise the copy at the start is written last, and wins.
	 */
	if (fits_exactly(&e->tail))
		e->use = &e->tail;
	else if (e->head.state == VHD_COPY_GOOD)
		e->use = &e->head;
	else if (e->tail.state == VHD_COPY_GOOD)
		e->use = &e->tail;
	else
		return plt_error_set(err, EINVAL, "not a VHD, or both its footers are damaged: the file starts with %s "
				     "and ends with %s", e->head.why, e->tail.why);
	return 0;
}

/* ---- dynamic header -------------------------------------------------------------------------- */

int vhd_check_header(const struct vhd_header *h, uint64_t file_size, struct plt_error *err)
{
	uint32_t sum = vhd_checksum(h, sizeof(*h), offsetof(struct vhd_header, checksum));
	uint64_t table = plt_be64_get(h->table_offset);
	uint32_t entries = plt_be32_get(h->entries), bs = plt_be32_get(h->block_size);

	if (memcmp(h->cookie, VHD_HEADER_COOKIE, 8))
		return plt_error_set(err, EUCLEAN, "dynamic header: 'cxsparse' is missing");
	/* in QEMU's words, and like there whatever the checksum says */
	if (!plt_is_pow2(bs) || bs < VHD_MIN_BLOCK || bs > VHD_MAX_BLOCK)
		return plt_error_set(err, EUCLEAN, "Invalid block size %u", bs);
	if (entries > VHD_MAX_ENTRIES)
		return plt_error_set(err, EFBIG, "Max Table Entries too large (%u)", entries);
	if (plt_be32_get(h->checksum) != sum)
		return plt_error_set(err, EUCLEAN, "dynamic header: its checksum is %#x instead of %#x",
				     plt_be32_get(h->checksum), sum);
	if (plt_be32_get(h->version) >> 16 != VHD_VERSION >> 16)
		return plt_error_set(err, ENOTSUP, "dynamic header: version %#x (%#x is known)", plt_be32_get(h->version),
				     VHD_VERSION);
	if (table % VHD_SECTOR || table < VHD_FOOTER)
		return plt_error_set(err, EUCLEAN, "dynamic header: block allocation table at %#" PRIx64
				     " (a multiple of 512 behind the footer is expected)", table);
	if (!plt_in_range(table, (uint64_t)entries * 4, file_size))
		return plt_error_set(err, EUCLEAN, "dynamic header: block allocation table of %u entries at %#" PRIx64
				     " lies beyond the end of the file (%" PRIu64 " bytes)", entries, table, file_size);
	return 0;
}

int vhd_read_header(struct plt_store *file, uint64_t file_size, const struct vhd_footer *f, struct vhd_header *ret,
		    struct plt_error *err)
{
	int r = plt_store_read(file, plt_be64_get(f->data_offset), ret, sizeof(*ret), PLT_IO_HEADER, err);

	return r < 0 ? r : vhd_check_header(ret, file_size, err);
}

/* Of a fixed one nothing tells (the footer of what the guest has at its end could as well be the guest's). */
int vhd_recognise(struct plt_ctx *ctx, struct plt_store *file, bool quick, struct plt_error *err)
{
	struct vhd_copy tail;
	struct vhd_header h;
	uint64_t size;
	int r = plt_store_size(file, &size, err);

	(void)ctx;
	(void)quick;
	if (r < 0 || size < VHD_FOOTER + sizeof(h) + VHD_FOOTER)
		return r;
	r = plt_store_read(file, VHD_FOOTER, &h, sizeof(h), PLT_IO_HEADER, err);
	if (r == 0 && vhd_check_header(&h, size, NULL) == 0) /* where all creators have it */
		return 1;
	if (r == 0)
		r = read_copy(file, size - VHD_FOOTER, VHD_FOOTER, false, size, &tail, err);
	return r < 0 ? r : tail.state == VHD_COPY_GOOD && !is_fixed(&tail) && vhd_read_header(file, size, &tail.f, &h, NULL) == 0;
}
