/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * The LUKS header of an encrypted image: the extension that says where it lies, its fields, its key slots.  Without it
 * nobody reads what the guest has written, so it is found where nothing names it, and what of it the rest tells is put right.
 *
 * The invariant: its clusters are counted wherever they are known to lie, whether anything is mended or not.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "crypt/luks.h"
#include "qcow2/check.h"

#define LOOKS (UINT64_C(1) << 20) /* clusters that are looked at for a header that nothing names */

#define SAY(x, is_mended, off, len, ...)                                                                       \
	plt_emit((x)->ex, &(struct plt_finding){.id = "Q-LUKS", .severity = PLT_CORRUPTION, .count = 1,        \
						.beyond_qemu = true, .mended = (is_mended), .host_off = (off), \
						.host_len = (len)}, __VA_ARGS__)

static bool mends(const struct qcow2_exam *x)
{
	return x->ex->mend && x->ex->mend->what & PLT_MEND_MAP;
}

/*
 * What the header and its key material take, by a header at @off that is whole or can be; 0: none lies there.  -EIO: what
 * lies there does not read.
 */
static int header_at(const struct qcow2_exam *x, uint64_t off, uint64_t *ret)
{
	struct plt_luks_mended m;
	struct plt_luks *l = NULL;
	uint64_t len = 0;
	int r;

	*ret = 0;
	if (!off || off & (x->q.cluster_size - 1) || off >= x->c.file_size)
		return 0;
	r = plt_luks_mend(x->c.file, off, x->c.file_size - off, true, &m, NULL);
	if (r < 0)
		return r == -EIO || r == -ENOMEM ? r : 0;
	if (m.fields && m.whole) {
		struct luks_header_ondisk h;

		memcpy(&h, m.header, sizeof(h));
		len = (uint64_t)plt_be32_get(h.payload_offset) * 512;
	} else if (!m.fields && plt_luks_read(x->c.file, off, UINT64_MAX, &l, NULL) == 0) {
		len = l->payload_offset;
		plt_luks_free(l);
	}
	*ret = len;
	return 0;
}

/* The first header in the file that begins with its mark. */
static uint64_t find_header(const struct qcow2_exam *x, uint64_t *ret_len)
{
	const uint64_t cs = x->q.cluster_size;
	char mark[LUKS_MAGIC_LEN];

	*ret_len = 0;
	for (uint64_t off = cs, n = 0; off < x->c.file_size && n < LOOKS; off += cs, n++)
		if (plt_store_read(x->c.file, off, mark, sizeof(mark), PLT_IO_HEADER, NULL) == 0 &&
		    !memcmp(mark, LUKS_MAGIC, sizeof(mark)) && header_at(x, off, ret_len) == 0 && *ret_len)
			return off;
	return 0;
}

/* Into the extension, or one that is added; -ENOSPC: the first cluster has no room. */
static int put_extension(struct qcow2_exam *x, uint64_t place, uint64_t len)
{
	const struct qcow2_state *q = &x->q;
	uint8_t buf[4096], ext[32] = { 0 };
	uint32_t end = PLT_MIN(q->cluster_size, (uint32_t)sizeof(buf)), off, n = 24;
	int r = plt_store_read(x->c.file, 0, buf, end, PLT_IO_HEADER, NULL);

	if (r < 0)
		return r;
	off = q->version == 3 ? plt_get_be32(buf + offsetof(struct qcow2_header, header_length)) : QCOW2_V2_HEADER;
	if (plt_get_be64(buf + 8)) /* the backing file's name */
		end = (uint32_t)PLT_MIN((uint64_t)end, plt_get_be64(buf + 8));
	if (off > end) /* (a header_length that cannot be) */
		return -ENOSPC;
	while (off + 8 <= end && plt_get_be32(buf + off) != QCOW2_EXT_END && plt_get_be32(buf + off) != QCOW2_EXT_LUKS) {
		uint32_t skip = plt_get_be32(buf + off + 4);

		if (skip > end)
			return -ENOSPC;
		off += 8 + (uint32_t)plt_align_up(skip, 8);
	}
	if (off + sizeof(ext) > end)
		return -ENOSPC;
	if (plt_get_be32(buf + off) == QCOW2_EXT_END)
		n = sizeof(ext); /* and the end behind it */
	plt_put_be32(ext, QCOW2_EXT_LUKS);
	plt_put_be32(ext + 4, 16);
	plt_put_be64(ext + 8, place);
	plt_put_be64(ext + 16, len);
	x->ex->mend->changed = true;
	return plt_store_write(x->c.file, off, ext, n, PLT_IO_HEADER, NULL);
}

static int mend_place(struct qcow2_exam *x)
{
	struct qcow2_state *q = &x->q;
	uint64_t was = q->luks_offset, len = 0, off = find_header(x, &len);
	int r = off && mends(x) ? put_extension(x, off, len) : 0;

	if (!off) {
		SAY(x, false, was, 0, "ERROR no LUKS header lies at offset %#" PRIx64 ", where one should be, and none is found: "
		    "without its key slots nobody reads what the image encrypts. Where the ciphertext lies the map still says", was);
		return 0;
	}
	if (r < 0 && r != -ENOSPC)
		return r;
	q->luks_offset = off; /* which is counted */
	q->luks_length = len;
	SAY(x, mends(x) && r == 0, off, len, "%s header: the LUKS header does not lie at offset %#" PRIx64 "; one lies at %#" PRIx64 "%s",
	    mends(x) && r == 0 ? "Repairing" : "ERROR", was, off, r ? ", and there is no room to say so" : "");
	return 0;
}

static int mend_fields(struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;
	struct plt_luks_mended m;
	int r = plt_luks_mend(x->c.file, q->luks_offset, q->luks_length, true, &m, NULL);

	if (r == -ENOMEM || (r == 0 && !m.fields))
		return r;
	if (r < 0)
		return 0; /* (a version that is not known here, ...) */
	SAY(x, mends(x) && m.whole, q->luks_offset, sizeof(m.header), "%s the LUKS header at offset %#" PRIx64 ": wrong %s %s. %s",
	    mends(x) && m.whole ? "Repairing" : "ERROR", q->luks_offset, m.fields == 1 ? "is" : "are", m.text,
	    m.whole ? "The rest of it tells what is right" : "What is right cannot be told from the rest");
	if (!mends(x) || !m.whole)
		return 0;
	x->ex->mend->changed = true;
	return plt_store_write(x->c.file, q->luks_offset, m.header, sizeof(m.header), PLT_IO_HEADER, NULL);
}

static int look_at_slots(struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;
	struct plt_luks *l = NULL;
	unsigned left = 0, active = 0, unread = 0;
	int r = plt_luks_read(x->c.file, q->luks_offset, q->luks_length, &l, NULL);

	for (unsigned i = 0; r == 0 && i < LUKS_SLOTS; i++) {
		struct plt_luks_wear w;

		if (!l->slot[i].active)
			continue;
		active++;
		r = plt_luks_worn(x->c.file, l, i, &w, NULL);
		if (r == -EIO) {
			unread++;
			r = 0;
			QCOW2_SAY(x, PLT_CHECK_ERROR, "Q-READ", w.first, 512, "ERROR key slot %u: its key material cannot be read", i);
		} else if (r == 0 && w.worn) {
			SAY(x, false, w.first, 512, "ERROR key slot %u: %s", i, w.text);
		} else {
			left += r == 0;
		}
	}
	if (r == 0 && !left && !unread)
		SAY(x, false, q->luks_offset, q->luks_length, "ERROR no key slot is left %s: nobody reads what the image encrypts any more. "
		    "Where the ciphertext lies the map still says", active ? "that opens" : "that is active");
	plt_luks_free(l);
	return r == -ENOMEM ? r : 0;
}

int qcow2_exam_luks(struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;
	uint64_t len = 0;
	int r = 0;

	if (q->crypt_method != QCOW2_CRYPT_LUKS)
		return 0;
	if (q->luks_length)
		r = header_at(x, q->luks_offset, &len);
	if (r == -EIO) { /* (it is counted where it is said to be) */
		QCOW2_SAY(x, PLT_CHECK_ERROR, "Q-READ", q->luks_offset, q->luks_length, "ERROR the LUKS header at offset %#" PRIx64
			  " cannot be read", q->luks_offset);
		return 0;
	}
	if (r == 0 && !len)
		r = mend_place(x);
	if (r == 0 && q->luks_length)
		r = mend_fields(x);
	return r == 0 && q->luks_length ? look_at_slots(x) : r;
}
