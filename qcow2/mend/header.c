/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * The header, mended or made anew by what the rest of the file shows (find.h).  Each field is a claim: what agrees with
 * the file stays, what cannot be is taken from it.  If too little of it agrees, nothing of it is believed, and a header
 * of version 3 is made that says the same as far as it can be known; the backing file's name is kept if it still stands
 * in the first cluster.
 *
 * The invariant: a field that agrees with the file is not touched, and a header that cannot be read afterwards is no
 * repair.  An unknown incompatible feature stays what it is: an image of a program that knows more (features.c).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/shown.h"
#include "base/zero.h"
#include "qcow2/mend/find.h"

#define AT(field) offsetof(struct qcow2_header, field)

struct mending {
	struct plt_examine *ex;
	struct qcow2_find *f;
	uint8_t *buf;    /* the first cluster, as it is to be */
	uint32_t len;
	unsigned fields; /* changed */
	bool readable;   /* as it is: */
	unsigned astray; /* qcow2_astray() then */
	struct {
		char *text;
		uint64_t len;
	} notes[32];     /* what has been done */
	unsigned nnotes;
	uint64_t reftable; /* where one of zeros goes; 0: nowhere */
	bool guessed;    /* it is a new one, and the guest has not said how large the disk is */
	bool nameless;   /* it is a new one, and no name of a backing file was found */
};

static uint64_t get64(const struct mending *m, size_t at)
{
	return plt_get_be64(m->buf + at);
}

static uint32_t get32(const struct mending *m, size_t at)
{
	return plt_get_be32(m->buf + at);
}

/* What is done counts, and is told, when it has made the header one that can be read, and better than it was. */
static void note(struct mending *m, uint64_t len, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static void note(struct mending *m, uint64_t len, const char *fmt, ...)
{
	va_list ap;

	m->fields++;
	if (m->nnotes == PLT_ARRAY_SIZE(m->notes))
		return;
	va_start(ap, fmt);
	if (vasprintf(&m->notes[m->nnotes].text, fmt, ap) >= 0)
		m->notes[m->nnotes++].len = len;
	va_end(ap);
}

static void tell(struct mending *m, bool done)
{
	for (unsigned i = 0; i < m->nnotes; i++) {
		if (done)
			plt_emit(m->ex, &(struct plt_finding){.id = "Q-HDR", .severity = PLT_CORRUPTION, .count = 1,
							      .beyond_qemu = true, .mended = m->ex->mend != NULL,
							      .host_len = m->notes[i].len},
				 "%s header: %s", m->ex->mend ? "Repairing" : "ERROR", m->notes[i].text);
		free(m->notes[i].text);
	}
}

static void say(struct mending *m, const char *name, uint64_t was, uint64_t is, const char *why)
{
	note(m, 512, "the %s says %#" PRIx64 "; %s: %#" PRIx64, name, was, why, is);
}

static void set64(struct mending *m, size_t at, uint64_t v, const char *name, const char *why)
{
	if (get64(m, at) == v)
		return;
	say(m, name, get64(m, at), v, why);
	plt_put_be64(m->buf + at, v);
}

static void set32(struct mending *m, size_t at, uint32_t v, const char *name, const char *why)
{
	if (get32(m, at) == v)
		return;
	say(m, name, get32(m, at), v, why);
	plt_put_be32(m->buf + at, v);
}

/* ---- what is believed ------------------------------------------------------------------------------------- */

static bool is_place(const struct qcow2_find *f, uint64_t off)
{
	return off && !(off & (f->x.q.cluster_size - 1)) && off < f->file_size;
}

static uint64_t l1_need(const struct qcow2_find *f, uint64_t size)
{
	return qcow2_l1_entries(&f->x.q, size);
}

/* How many fields agree with the file? */
static unsigned agreeing(const struct mending *m)
{
	const struct qcow2_find *f = m->f;
	uint64_t size = get64(m, AT(size));

	return (get32(m, AT(magic)) == QCOW2_MAGIC) + (get32(m, AT(version)) == 2 || get32(m, AT(version)) == 3) +
	       (get32(m, AT(cluster_bits)) == f->x.q.cluster_bits) +
	       (f->l1_offset && get64(m, AT(l1_table_offset)) == f->l1_offset) +
	       (f->reftable_offset && get64(m, AT(refcount_table_offset)) == f->reftable_offset) +
	       (size && size <= INT64_MAX && get32(m, AT(l1_size)) && l1_need(f, size) <= get32(m, AT(l1_size)) &&
		f->mapped_end <= plt_align_up(size, f->x.q.cluster_size));
}

/* The count of the cluster at @off, as the refcount table says that was found; -1: not known. */
static int64_t count_at(struct qcow2_find *f, uint64_t off)
{
	struct qcow2_state as = f->x.q;
	uint64_t k = off >> as.cluster_bits, at;
	plt_be64 block;
	uint8_t word[8];

	if (!f->reftable_offset)
		return -1;
	as.refcount_order = f->refcount_order;
	qcow2_state_derive(&as);
	if (k >> as.rb_bits >= (uint64_t)f->reftable_clusters << (as.cluster_bits - 3) ||
	    plt_store_read(f->file, f->reftable_offset + (k >> as.rb_bits) * 8, &block, 8, PLT_IO_REFTABLE, NULL) < 0 ||
	    !is_place(f, plt_be64_get(block)))
		return 0;
	k &= (UINT64_C(1) << as.rb_bits) - 1;
	at = plt_align_down(k << f->refcount_order >> 3, 8);
	if (plt_store_read(f->file, plt_be64_get(block) + at, word, sizeof(word), PLT_IO_REFBLOCK, NULL) < 0)
		return -1;
	return (int64_t)PLT_MIN(qcow2_count_at(&as, word, k - (at << 3 >> f->refcount_order)), (uint64_t)INT64_MAX);
}

static bool table_at(const struct qcow2_find *f, uint64_t off)
{
	for (uint32_t i = 0; i < f->nt; i++)
		if (f->t[i].off == off)
			return true;
	return false;
}

/* An L1 table ends in zeros as a rule: clusters of them that are counted, behind the last that is used, are its own. */
static void extend_l1(struct qcow2_find *f, uint64_t need)
{
	const struct qcow2_state *q = &f->x.q;
	uint64_t end = f->l1_offset + (uint64_t)f->l1_size * 8;
	PLT_AUTOFREE uint8_t *buf = plt_alloc_io(q->cluster_size);

	while (buf && f->l1_offset && f->l1_size < need && f->l1_size + q->cluster_size / 8 <= QCOW2_MAX_L1_BYTES / 8 &&
	       count_at(f, end) == 1 && !table_at(f, end) &&
	       plt_store_read(f->file, end, buf, q->cluster_size, PLT_IO_L1, NULL) == 0 && plt_is_zero(buf, q->cluster_size)) {
		f->l1_size += q->cluster_size / 8;
		end += q->cluster_size;
	}
}

/* Size of the disk by what the guest and its map say, as far as the L1 table reaches. */
static uint64_t found_size(struct qcow2_find *f)
{
	uint64_t mask = ~(uint64_t)(f->x.q.cluster_size - 1), size = 0;

	if (f->gpt_size && (f->l1_offset && !f->usual ? f->guest_start && (f->gpt & mask) == f->guest_start : !f->gpt_several))
		size = f->gpt_size;
	if (f->l1_offset && l1_need(f, size) > f->l1_size) {
		extend_l1(f, l1_need(f, size));
		if (l1_need(f, size) > f->l1_size)
			size = (uint64_t)f->l1_size << (f->x.q.cluster_bits + f->x.q.l2_bits);
	}
	/* Larger than it was does no harm: what is behind the end reads as zeros. */
	if (!size)
		size = (uint64_t)f->l1_used << (f->x.q.cluster_bits + f->x.q.l2_bits);
	/* the last cluster may be longer than the rest of the disk */
	if (size < f->mapped_end && f->mapped_end - size >= f->x.q.cluster_size)
		size = f->mapped_end;
	return size;
}

/*
 * The same where the header's L1 table of @l1_size entries is believed: no partition table in the image (an overlay has
 * none of its own, as a rule), and what is mapped ends before what its L1 table covers.
 */
static uint64_t covered(struct qcow2_find *f, uint32_t l1_size)
{
	const uint64_t size = found_size(f), all = (uint64_t)l1_size << (f->x.q.cluster_bits + f->x.q.l2_bits);

	return size != f->gpt_size && l1_size > f->l1_used && l1_size <= f->l1_size && all > size ? all : size;
}

/* ---- names ------------------------------------------------------------------------------------------------ */

static bool is_printable(const uint8_t *p, uint32_t len)
{
	char name[QCOW2_MAX_BACKING_NAME + 1] = "";
	uint32_t i = 0;

	memcpy(name, p, PLT_MIN(len, (uint32_t)QCOW2_MAX_BACKING_NAME));
	while (i < len && plt_utf8_sequence((unsigned char *)name + i) && (unsigned char)name[i] >= 0x20 && name[i] != 0x7f)
		i += plt_utf8_sequence((unsigned char *)name + i);
	return len > 0 && i == len;
}

/* The only text in the first cluster behind @from that stands where a name can, zeros around it. */
static bool find_name(const struct mending *m, uint32_t from, uint32_t *ret_off, uint32_t *ret_len)
{
	uint32_t off = from, end;

	while (off < m->len && !m->buf[off])
		off++;
	for (end = off; end < m->len && m->buf[end]; end++)
		;
	if (off == m->len || end - off > QCOW2_MAX_BACKING_NAME || !is_printable(m->buf + off, end - off) ||
	    !plt_is_zero(m->buf + end, m->len - end))
		return false;
	*ret_off = off;
	*ret_len = end - off;
	return true;
}

/* ---- a header of which most is right ------------------------------------------------------------------------ */

static void mend_version(struct mending *m)
{
	uint32_t length = get32(m, AT(header_length)), version = get32(m, AT(version));
	bool three = length >= QCOW2_V3_HEADER && length <= 4096 && length % 8 == 0 && get32(m, AT(refcount_order)) <= 6, zeros = false;

	for (uint32_t i = 0; i < m->f->nt; i++)
		zeros |= m->f->t[i].zeros;
	if (version == 3 || (version == 2 && !(three && (zeros || m->f->x.q.extl2))))
		return;
	set32(m, AT(version), three ? 3 : 2, "version", three ? "the fields of version 3 are there" : "it has no fields of version 3");
}

/* Does the snapshot table, as far as it can be read, name this L1 table? */
static bool is_snapshots(const struct mending *m, uint64_t l1)
{
	uint64_t off = get64(m, AT(snapshots_offset));
	uint32_t n = PLT_MIN(get32(m, AT(nb_snapshots)), 256u);

	for (uint32_t i = 0; i < n && is_place(m->f, plt_align_down(off, m->f->x.q.cluster_size)); i++) {
		struct qcow2_snapshot_entry e;
		uint64_t len;

		if (plt_store_read(m->f->file, off, &e, sizeof(e), PLT_IO_SNAPSHOT_TABLE, NULL) < 0)
			return true;
		if (plt_be64_get(e.l1_table_offset) == l1)
			return true;
		len = sizeof(e) + (uint64_t)plt_be32_get(e.extra_data_size) + plt_be16_get(e.id_size) + plt_be16_get(e.name_size);
		off += plt_align_up(len, 8);
	}
	return false;
}

/* Something else lies there: a table of clusters, or anything but zeros that names no tables. */
static bool is_no_l1(struct qcow2_find *f, uint64_t off)
{
	uint8_t buf[4096];
	uint32_t tables = 0, n = 0;

	if (plt_store_read(f->file, off, buf, sizeof(buf), PLT_IO_L1, NULL) < 0)
		return false;
	for (uint32_t i = 0; i < sizeof(buf) && i < f->x.q.cluster_size; i += 8) {
		uint64_t e = plt_get_be64(buf + i);

		n += e != 0;
		tables += e && table_at(f, e & QCOW2_L1_OFFSET);
	}
	return n > 1 && tables * 4 < n && table_at(f, off); /* (some of the guest's clusters look like tables) */
}

/* What lies there is known to be something else: the header of the encryption, the refcount table. */
static bool is_others(const struct qcow2_find *f, uint64_t off)
{
	return off == f->luks || off == f->reftable_offset;
}

/* The table that was found is counted from its beginning, and what the header names lies in it. */
static bool is_inside(struct qcow2_find *f, uint64_t l1)
{
	return l1 > f->l1_offset && l1 < f->l1_offset + (uint64_t)f->l1_used * 8 && count_at(f, f->l1_offset) > 0;
}

static void mend_tables(struct mending *m)
{
	struct qcow2_find *f = m->f;
	uint64_t l1 = get64(m, AT(l1_table_offset)), rt = get64(m, AT(refcount_table_offset)), size = get64(m, AT(size)), need;
	uint32_t l1_size = get32(m, AT(l1_size));

	/* (one that is zero, or damaged, may be the right one all the same: then it is counted) */
	if (f->l1_offset && l1 != f->l1_offset && !is_snapshots(m, f->l1_offset) &&
	    (!is_place(f, l1) || count_at(f, l1) == 0 || is_no_l1(f, l1) || is_inside(f, l1) ||
	     is_others(f, l1))) {
		set64(m, AT(l1_table_offset), f->l1_offset, "place of the L1 table", "one that leads to tables lies at");
		l1 = f->l1_offset;
	}
	if (f->reftable_offset && rt != f->reftable_offset) {
		set64(m, AT(refcount_table_offset), f->reftable_offset, "place of the refcount table",
		      "one that counts what is in use lies at");
		set32(m, AT(refcount_table_clusters), f->reftable_clusters, "length of the refcount table", "it takes");
	} else if (f->reftable_offset && (!get32(m, AT(refcount_table_clusters)) ||
					  get32(m, AT(refcount_table_clusters)) > QCOW2_MAX_REFTABLE_BYTES >> f->x.q.cluster_bits ||
					  rt + ((uint64_t)get32(m, AT(refcount_table_clusters)) << f->x.q.cluster_bits) > f->file_size)) {
		set32(m, AT(refcount_table_clusters), f->reftable_clusters, "length of the refcount table", "it takes");
	} else if (!f->reftable_offset && (rt & (f->x.q.cluster_size - 1) || rt > INT64_MAX / 2 ||
					   get32(m, AT(refcount_table_clusters)) > QCOW2_MAX_REFTABLE_BYTES >> f->x.q.cluster_bits)) {
		set64(m, AT(refcount_table_offset), 0, "place of the refcount table", "none is there; it is made anew");
		set32(m, AT(refcount_table_clusters), 0, "length of the refcount table", "none is there");
	}
	if (get32(m, AT(version)) == 3 && (f->reftable_offset ? get32(m, AT(refcount_order)) != f->refcount_order
							      : get32(m, AT(refcount_order)) > 6))
		set32(m, AT(refcount_order), f->reftable_offset ? f->refcount_order : 4, "width of the counts",
		      "the counts are right with");
	if (l1 != f->l1_offset || !f->l1_offset)
		return;
	need = size <= INT64_MAX ? l1_need(f, size) : UINT64_MAX;
	/* the disk, or the table that is too short for it? */
	if (!size || need > f->l1_size || (need > l1_size && found_size(f) && l1_need(f, found_size(f)) == l1_size) ||
	    (f->mapped_end > size && f->mapped_end - size >= f->x.q.cluster_size &&
					   f->gpt_size == found_size(f))) {
		if (found_size(f)) {
			set64(m, AT(size), covered(f, l1_size), "size of the disk", "what is mapped, and the guest's partition table, say");
			need = l1_need(f, get64(m, AT(size)));
		}
	}
	if (need <= QCOW2_MAX_L1_BYTES / 8 && qcow2_l1_runs_over(f->file, l1, need, l1_size, f->x.q.cluster_bits))
		set32(m, AT(l1_size), (uint32_t)need, "length of the L1 table", "behind what the disk needs lies something else;");
	else if (l1_size < need || l1_size < f->l1_used || (uint64_t)l1_size * 8 > QCOW2_MAX_L1_BYTES ||
		 !plt_in_range(l1, (uint64_t)l1_size * 8, plt_align_up(f->file_size, f->x.q.cluster_size)))
		set32(m, AT(l1_size), (uint32_t)PLT_MIN(PLT_MAX(need, f->l1_used), QCOW2_MAX_L1_BYTES / 8), "length of the L1 table",
		      "the disk needs");
}

/* Where the extension of type @type begins, by walking; 0: there is none. */
static uint32_t extension_at(const struct mending *m, uint32_t type)
{
	uint32_t off = get32(m, AT(version)) == 3 ? get32(m, AT(header_length)) : QCOW2_V2_HEADER;

	for (unsigned i = 0; i < 64 && off <= m->len - 8; i++) {
		uint32_t t = plt_get_be32(m->buf + off), len = plt_get_be32(m->buf + off + 4);

		if (t == type)
			return off;
		if (t == QCOW2_EXT_END || len > m->len - off - 8)
			return 0;
		off += 8 + (uint32_t)plt_align_up(len, 8);
	}
	return 0;
}

static void mend_crypt(struct mending *m)
{
	struct qcow2_find *f = m->f;
	uint32_t method = get32(m, AT(crypt_method)), ext = extension_at(m, QCOW2_EXT_LUKS), is = method;
	const bool luks = is_place(f, f->luks);
	uint8_t start[1024];

	if (method == QCOW2_CRYPT_NONE && ext && luks)
		is = QCOW2_CRYPT_LUKS;
	else if (method > QCOW2_CRYPT_LUKS)
		is = ext && luks ? QCOW2_CRYPT_LUKS : QCOW2_CRYPT_NONE;
	else if (method == QCOW2_CRYPT_LUKS && !luks && !ext)
		is = QCOW2_CRYPT_NONE;
	else if (method == QCOW2_CRYPT_AES && f->guest_start &&
		 plt_store_read(f->file, f->guest_start, start, sizeof(start), PLT_IO_DATA, NULL) == 0 && start[510] == 0x55 &&
		 start[511] == 0xaa)
		is = QCOW2_CRYPT_NONE;
	if (is != method)
		set32(m, AT(crypt_method), is, "method of encryption", "by what is in the file it is");
	if (is == QCOW2_CRYPT_LUKS && ext && luks && plt_get_be32(m->buf + ext + 4) == 16 &&
	    !is_place(f, plt_get_be64(m->buf + ext + 8)))
		set64(m, ext + 8, f->luks, "place of the encryption header", "one lies at");
}

static void mend_features(struct mending *m)
{
	struct qcow2_find *f = m->f;
	uint64_t bits = get64(m, AT(incompatible_features)), is = bits;
	bool compressed = false;
	uint32_t length = get32(m, AT(header_length));

	if (get32(m, AT(version)) != 3)
		return;
	if (length < QCOW2_V3_HEADER || length > m->len || length % 8 || length > 4096)
		set32(m, AT(header_length), sizeof(struct qcow2_header), "length of the header", "it takes");
	for (uint32_t i = 0; i < f->nt; i++)
		compressed |= f->t[i].compressed;
	if (f->l1_offset)
		is = f->x.q.extl2 ? is | QCOW2_INCOMPAT_EXTL2 : is & ~QCOW2_INCOMPAT_EXTL2;
	if (f->external)
		is |= QCOW2_INCOMPAT_DATA_FILE;
	else if ((is & QCOW2_INCOMPAT_DATA_FILE) && !extension_at(m, QCOW2_EXT_DATA_FILE))
		is &= ~QCOW2_INCOMPAT_DATA_FILE;
	if (compressed)
		is = f->zstd ? is | QCOW2_INCOMPAT_COMPRESSION : is & ~QCOW2_INCOMPAT_COMPRESSION;
	else if (m->buf[AT(compression_type)] > QCOW2_COMPRESSION_ZSTD || get32(m, AT(header_length)) <= AT(compression_type))
		is &= ~QCOW2_INCOMPAT_COMPRESSION;
	if (!compressed && m->buf[AT(compression_type)] == QCOW2_COMPRESSION_ZSTD && !(is & QCOW2_INCOMPAT_COMPRESSION))
		m->buf[AT(compression_type)] = 0;
	if (!compressed && m->buf[AT(compression_type)] == 0)
		is &= ~QCOW2_INCOMPAT_COMPRESSION;
	if (is != bits)
		set64(m, AT(incompatible_features), is, "incompatible features", "what is in the file has");
	if (get32(m, AT(header_length)) > AT(compression_type) && (is & QCOW2_INCOMPAT_COMPRESSION ? 1 : 0) != m->buf[AT(compression_type)]) {
		say(m, "type of compression", m->buf[AT(compression_type)], is & QCOW2_INCOMPAT_COMPRESSION ? 1 : 0, "the clusters' is");
		m->buf[AT(compression_type)] = is & QCOW2_INCOMPAT_COMPRESSION ? QCOW2_COMPRESSION_ZSTD : QCOW2_COMPRESSION_ZLIB;
	}
}

static bool is_known_ext(uint32_t type)
{
	return type == QCOW2_EXT_BACKING_FORMAT || type == QCOW2_EXT_FEATURES || type == QCOW2_EXT_BITMAPS ||
	       type == QCOW2_EXT_LUKS || type == QCOW2_EXT_DATA_FILE;
}

/* How long an extension must be of which the length is damaged: up to the next, or as its type has it. */
static uint32_t ext_length(const struct mending *m, uint32_t off, uint32_t type, uint32_t end)
{
	uint32_t at;

	if (type == QCOW2_EXT_LUKS)
		return 16;
	if (type == QCOW2_EXT_BITMAPS)
		return 24;
	if (type != QCOW2_EXT_FEATURES) {
		for (at = off; at < end && m->buf[at]; at++)
			;
		return at - off;
	}
	for (at = off; at + 8 <= end; at += sizeof(struct qcow2_feature_name))
		if (is_known_ext(plt_get_be32(m->buf + at)) || !m->buf[at + 2])
			break;
	return at - off;
}

static void mend_extensions(struct mending *m)
{
	uint64_t backing = get64(m, AT(backing_file_offset));
	uint32_t off = get32(m, AT(version)) == 3 ? get32(m, AT(header_length)) : QCOW2_V2_HEADER,
		 end = backing && backing <= m->len ? (uint32_t)backing : m->len;

	while (off + 8 <= end) {
		uint32_t type = plt_get_be32(m->buf + off), len = plt_get_be32(m->buf + off + 4);

		if (type == QCOW2_EXT_END)
			return;
		if (len > end - off - 8 || (type == QCOW2_EXT_BACKING_FORMAT && len > QCOW2_MAX_BACKING_FORMAT) ||
		    (type == QCOW2_EXT_LUKS && len != 16)) {
			if (!is_known_ext(type) || ext_length(m, off + 8, type, end) > end - off - 8) {
				/* what follows cannot be read */
				say(m, "header extension's length", len, 0, "it and what follows are taken out");
				memset(m->buf + off, 0, end - off);
				return;
			}
			len = ext_length(m, off + 8, type, end);
			set32(m, off + 4, len, "header extension's length", "its content takes");
		}
		off += 8 + (uint32_t)plt_align_up(len, 8);
	}
}

static void mend_backing(struct mending *m)
{
	uint64_t off = get64(m, AT(backing_file_offset));
	uint32_t len = get32(m, AT(backing_file_size)), at = get32(m, AT(version)) == 3 ? get32(m, AT(header_length)) : QCOW2_V2_HEADER,
		 n;

	if (!off && !len)
		return;
	if (off && off < m->len && len && len <= PLT_MIN((uint32_t)QCOW2_MAX_BACKING_NAME, m->len - (uint32_t)off) &&
	    is_printable(m->buf + off, len))
		return;
	while (at + 8 <= m->len && plt_get_be32(m->buf + at) != QCOW2_EXT_END &&
	       plt_get_be32(m->buf + at + 4) <= m->len - at - 8) /* to the end of the extensions */
		at += 8 + (uint32_t)plt_align_up(plt_get_be32(m->buf + at + 4), 8);
	if (!find_name(m, at, &at, &n))
		at = n = 0;
	set64(m, AT(backing_file_offset), at, "place of the backing file's name", at ? "a name stands at" : "no name is there");
	set32(m, AT(backing_file_size), n, "length of the backing file's name", "it takes");
}

/* ---- a new one -------------------------------------------------------------------------------------------- */

static void new_header(struct mending *m)
{
	struct qcow2_find *f = m->f;
	const struct qcow2_state *q = &f->x.q;
	uint32_t name = 0, name_len = 0;
	uint64_t size = f->made_size ? f->made_size : found_size(f), incompatible = 0;
	bool named = find_name(m, 512, &name, &name_len), luks = is_place(f, f->luks) && !qcow2_find_maps(f, f->luks);
	uint8_t *ext = m->buf + sizeof(struct qcow2_header);

	memset(m->buf, 0, named ? 512 : m->len);
	plt_put_be32(m->buf + AT(magic), QCOW2_MAGIC);
	plt_put_be32(m->buf + AT(version), 3);
	if (named) {
		plt_put_be64(m->buf + AT(backing_file_offset), name);
		plt_put_be32(m->buf + AT(backing_file_size), name_len);
	}
	plt_put_be32(m->buf + AT(cluster_bits), q->cluster_bits);
	plt_put_be64(m->buf + AT(size), size);
	/* (all of its clusters are its own: who sees the guest may find a larger disk) */
	plt_put_be32(m->buf + AT(l1_size), (uint32_t)PLT_MAX(l1_need(f, size), size == f->gpt_size ? f->l1_used : f->l1_size));
	plt_put_be64(m->buf + AT(l1_table_offset), f->l1_offset);
	/* (one of zeros is made anew like any other that is damaged; without one the image does not open) */
	m->reftable = f->reftable_offset ? 0 : PLT_MAX(plt_align_up(f->file_size, q->cluster_size),
						       f->made_size ? plt_align_up(f->l1_offset + (uint64_t)f->l1_size * 8, q->cluster_size) : 0);
	plt_put_be64(m->buf + AT(refcount_table_offset), f->reftable_offset ? f->reftable_offset : m->reftable);
	plt_put_be32(m->buf + AT(refcount_table_clusters), f->reftable_offset ? f->reftable_clusters : 1);
	if (f->l1_is_snapshots) /* of a table that is nowhere (its place stays 0): it is made by the L1 tables that are there */
		plt_put_be32(m->buf + AT(nb_snapshots), 1);
	if (f->zstd)
		incompatible |= QCOW2_INCOMPAT_COMPRESSION;
	if (q->extl2)
		incompatible |= QCOW2_INCOMPAT_EXTL2;
	if (f->external)
		incompatible |= QCOW2_INCOMPAT_DATA_FILE;
	plt_put_be64(m->buf + AT(incompatible_features), incompatible);
	plt_put_be32(m->buf + AT(refcount_order), f->reftable_offset ? f->refcount_order : 4);
	plt_put_be32(m->buf + AT(header_length), sizeof(struct qcow2_header));
	m->buf[AT(compression_type)] = f->zstd ? QCOW2_COMPRESSION_ZSTD : QCOW2_COMPRESSION_ZLIB;
	if (luks) {
		uint8_t head[108];
		uint64_t len = 0;

		/* key material ends where the payload would begin */
		if (plt_store_read(f->file, f->luks, head, sizeof(head), PLT_IO_HEADER, NULL) == 0)
			len = (uint64_t)plt_get_be32(head + 104) * 512;
		plt_put_be32(m->buf + AT(crypt_method), QCOW2_CRYPT_LUKS);
		plt_put_be32(ext, QCOW2_EXT_LUKS);
		plt_put_be32(ext + 4, 16);
		plt_put_be64(ext + 8, f->luks);
		plt_put_be64(ext + 16, len);
	}
	m->guessed = size != f->gpt_size;
	m->nameless = !named;
	note(m, q->cluster_size,
		 "it is gone; by what is in the file the image has clusters of %" PRIu32 " bytes, %" PRIu32
		 " tables, the L1 table at offset %#" PRIx64 ", the refcount table at %#" PRIx64 ", a disk of %" PRIu64 " bytes%s%s%s",
		 q->cluster_size, f->nt, f->l1_offset, f->reftable_offset, size,
		 luks ? ", encrypted" : "", f->external ? ", its data in another file, whose name is lost" : "",
		 named ? ", and a backing file whose name still stands there" :
			 "; whether it had a backing file or snapshots cannot be told: what is not in it reads as zeros");
}

/* ---- both ------------------------------------------------------------------------------------------------- */

/*
 * An L1 table that is made anew: as long as its last byte is there, all of it is.  Over an external data file tables say
 * themselves where they belong; of two for one place neither is put there.
 */
static int write_l1(struct mending *m)
{
	const struct qcow2_find *f = m->f;
	const unsigned bits = f->x.q.cluster_bits + f->x.q.l2_bits;
	static const uint8_t zeros[512];
	PLT_AUTOFREE uint8_t *named = calloc((size_t)f->l1_size + 1, 1);
	int r = named ? plt_store_write(m->ex->file, f->l1_offset + plt_align_up((uint64_t)f->l1_size * 8, sizeof(zeros)) -
					sizeof(zeros), zeros, sizeof(zeros), PLT_IO_L1, NULL) : -ENOMEM;

	for (uint32_t i = 0; r == 0 && f->external && i < f->nt; i++) {
		uint64_t index = f->t[i].base >> bits;

		if (index < f->l1_size && named[index] < 2)
			named[index]++;
	}
	for (uint32_t i = 0; r == 0 && f->external && i < f->nt; i++) {
		uint64_t index = f->t[i].base >> bits;
		plt_be64 e = plt_be64_make(f->t[i].off | QCOW2_COPIED);

		if (index < f->l1_size && named[index] == 1)
			r = plt_store_write(m->ex->file, f->l1_offset + index * 8, &e, 8, PLT_IO_L1, NULL);
	}
	return r;
}

static int write_out(struct mending *m, const uint8_t *was)
{
	uint32_t from = 0, to = m->len;

	while (from < to && !memcmp(m->buf + from, was + from, PLT_MIN(512u, to - from)))
		from += PLT_MIN(512u, to - from);
	while (to > from && !memcmp(m->buf + to - 512, was + to - 512, 512))
		to -= 512;
	return from < to ? plt_store_write(m->ex->file, from, m->buf + from, to - from, PLT_IO_HEADER, NULL) : 0;
}

static int decide(struct mending *m, struct plt_error *err)
{
	static const uint8_t zeros[512];
	struct qcow2_find *f = m->f;
	PLT_AUTOFREE uint8_t *was = plt_alloc_io(f->x.q.cluster_size);
	PLT_AUTOFREE char *backing = NULL, *format = NULL;
	struct qcow2_state q = {0};
	unsigned now;
	bool smaller;
	int r;

	m->len = f->x.q.cluster_size;
	m->buf = plt_alloc_io(m->len);
	if (!m->buf || !was)
		return -ENOMEM;
	r = plt_store_read(f->file, 0, m->buf, m->len, PLT_IO_HEADER, err);
	if (r < 0)
		return r;
	memcpy(was, m->buf, m->len);
	if (agreeing(m) >= 3) {
		set32(m, AT(magic), QCOW2_MAGIC, "mark of the format", "it is");
		/* (damaged tables say little of what they were: one must lead to others) */
		/* (parts of large tables look like tables of an image with smaller clusters) */
		smaller = f->hint > f->x.q.cluster_bits && get32(m, AT(cluster_bits)) == f->hint &&
			  qcow2_l1_fits(f, get64(m, AT(l1_table_offset)), get32(m, AT(l1_size)), f->hint);
		if (smaller && m->readable)
			return -ENOENT;
		if (!smaller && (f->l1_offset || !f->hint))
			set32(m, AT(cluster_bits), f->x.q.cluster_bits, "cluster size", "the tables are whole with");
		if (!smaller) {
			mend_version(m);
			mend_features(m);
		}
		if (get32(m, AT(version)) == 3 && get64(m, AT(incompatible_features)) & ~QCOW2_INCOMPAT_KNOWN)
			return -ENOENT; /* the reader has said so */
		mend_backing(m);
		mend_extensions(m);
		if (!smaller)
			mend_crypt(m);
		if (get32(m, AT(cluster_bits)) == f->x.q.cluster_bits)
			mend_tables(m);
	} else if (f->is_qcow2 || !(m->ex->mend && m->ex->mend->guess)) {
		if (!f->usual && !qcow2_find_l1_place(f) && !f->is_qcow2)
			return -ENOENT;
		new_header(m);
	}
	if (!m->fields)
		return -ENOENT;
	r = write_out(m, was);
	if (r == 0 && f->made_size)
		r = write_l1(m);
	if (r == 0 && m->reftable) /* (as long as its last byte is there, all of it is) */
		r = plt_store_write(f->file, m->reftable + f->x.q.cluster_size - sizeof(zeros), zeros, sizeof(zeros), PLT_IO_REFTABLE, NULL);
	if (r == 0) {
		r = qcow2_header_read(f->file, m->ex->name, true, &q, &backing, &format, err);
		now = r == 0 ? qcow2_astray(f->file, &q) : 0;
		if (r == 0 && m->readable && (now > m->astray || (now == m->astray && now > QCOW2_ASTRAY_SOME)))
			r = -ENOENT; /* no better than before */
		qcow2_state_release(&q);
		if (r < 0)
			(void)plt_store_write(f->file, 0, was, m->len, PLT_IO_HEADER, NULL); /* (an overlay) */
	}
	if (m->ex->mend && r == 0) {
		m->ex->mend->changed = true;
		m->ex->mend->map_damaged |= f->made_size != 0;
		m->ex->mend->nameless |= m->nameless;
		m->ex->mend->size_guessed |= m->guessed;
	}
	return r;
}

int qcow2_mend_header(struct plt_examine *ex, int read_error, unsigned astray, struct plt_error *err)
{
	struct qcow2_find f = {.ctx = ex->ctx, .file = ex->file, .hint_order = 4};
	struct mending m = {.ex = ex, .f = &f, .readable = !read_error, .astray = astray};
	struct qcow2_header h;
	int r = qcow2_find_sights(&f);

	if (r == 0)
		r = plt_store_read(ex->file, 0, &h, sizeof(h), PLT_IO_HEADER, NULL);
	if (r == 0 && plt_be32_get(h.cluster_bits) >= QCOW2_MIN_CLUSTER_BITS && plt_be32_get(h.cluster_bits) <= QCOW2_MAX_CLUSTER_BITS)
		f.hint = plt_be32_get(h.cluster_bits);
	if (r == 0 && plt_be32_get(h.version) == 3 && plt_be32_get(h.refcount_order) <= 6)
		f.hint_order = plt_be32_get(h.refcount_order);
	if (r == 0)
		f.hint_reftable = plt_be64_get(h.refcount_table_offset);
	if (r == 0)
		r = qcow2_find_tables(&f);
	/* (of a header that is one the rest is better evidence) */
	if ((r == 0 || r == -ENOENT) && !f.is_qcow2 && !f.large && plt_be32_get(h.magic) != QCOW2_MAGIC &&
	    !(ex->mend && ex->mend->guess) && qcow2_find_usual(&f))
		r = 0;
	if (r == 0 && ex->mend && !ex->mend->look && plt_overlay_failed(ex->file))
		r = -EIO; /* what was not seen may be the half of it */
	if (r == 0)
		r = f.nt || f.usual ? decide(&m, read_error ? NULL : err) : -ENOENT;
	tell(&m, r == 0);
	free(m.buf);
	qcow2_find_release(&f);
	return r;
}

int qcow2_recognise(struct plt_ctx *ctx, struct plt_store *file, bool quick, struct plt_error *err)
{
	struct qcow2_find f = {.ctx = ctx, .file = file};
	int r;

	if (quick) {
		r = plt_store_size(file, &f.file_size, err);
		return r < 0 ? r : qcow2_find_usual(&f);
	}
	r = qcow2_find_sights(&f);
	if (r == 0)
		r = qcow2_find_tables(&f);
	r = r == 0 ? f.is_qcow2 : r == -ENOENT ? 0 : plt_error_errno(err, -r, "'%s' cannot be looked through", file->name);
	qcow2_find_release(&f);
	return r;
}
