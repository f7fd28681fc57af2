/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A physical volume of LVM: a label, a header behind it, and a ring of texts, each of which describes the whole group
 * as of one change, so that older ones are still there.  A label says nothing that a text does not; a header only which
 * of the texts counts.  What one wrong bit explains is put right by the checksum; a label or a header that is gone is
 * made from the newest text that is whole.  The invariant: what is written is tried on the way of a reader who knows
 * nothing of repair (guestfs/free_lvm.c), an older text counts only if filesystems are found where it says that
 * volumes begin, and no text is touched but by one bit that its checksum proves.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/endian.h"
#include "guestfs/free.h"
#include "guestfs/lvm_text.h"
#include "repair/guest/guest.h"

#define LABELS 4                 /* sectors in which a label may stand */
#define USUAL_META 4096
#define RING_MAX (16u << 20)     /* a longer ring is left alone */
#define UNFLIP_PROVES (64u << 10) /* of a longer text some one bit too often fits a checksum of 32 bits by chance */
#define TRIES 16                 /* texts that are parsed, newest first */
#define NAME_MAX_LEN 128
#define LOCN 40                  /* in the header: where the text that counts is */
#define IGNORED 1                /* its flag: LVM itself does not read it */

static const uint8_t magic[] = " LVM2 x[5A%r0N*>";

/* A text in the ring: it begins so far behind the beginning of the area. */
struct text {
	uint64_t off, len, seqno;
	uint64_t made;            /* since 1970 */
	uint32_t crc;
	const uint8_t *group;     /* the id of the volume group, PLT_LVM_ID + 6 bytes */
	bool settled;
};

struct lvm {
	struct guest_exam *x;
	const struct plt_part *part;
	uint8_t labels[LABELS * GUEST_SECTOR], h[GUEST_SECTOR];
	unsigned at;              /* the sector of the label */
	bool label, header;       /* they are there */
	uint8_t id[PLT_LVM_ID];   /* of the label */
	uint64_t meta, area;      /* bytes of the volume; 0: not known */
	uint8_t *ring;            /* the area behind its header, twice in a row: a text may go on at the beginning */
	uint64_t ring_len;
	/* of the text that is taken */
	uint64_t dev_size, pe_start;
	char name[PLT_LVM_ID + 7];
};

static int get(const struct lvm *l, uint64_t off, void *buf, size_t len)
{
	return plt_in_range(off, len, l->part->len) ? l->x->disk.read(l->x->disk.arg, l->part->start + off, buf, len) : -ENODATA;
}

/* ---- one wrong bit --------------------------------------------------------------------------------------- */

/*
 * The byte of @p (a checksum of which is @want) in which one bit is wrong; it is put right.  UINT64_MAX: that does not
 * explain it.  What turning a bit does to the checksum is what turning it in the last byte does, a byte further each time.
 */
static uint64_t unflip(uint8_t *p, size_t len, uint32_t want)
{
	uint32_t syndrome = plt_lvm_crc(p, len) ^ want, turned[8];

	for (unsigned b = 0; b < 8; b++) {
		turned[b] = 1u << b;
		for (unsigned k = 0; k < 8; k++)
			turned[b] = turned[b] >> 1 ^ (turned[b] & 1 ? 0xedb88320u : 0);
	}
	for (size_t i = len; i--;)
		for (unsigned b = 0; b < 8; b++) {
			if (turned[b] == syndrome) {
				p[i] ^= (uint8_t)(1u << b);
				return i;
			}
			for (unsigned k = 0; k < 8; k++)
				turned[b] = turned[b] >> 1 ^ (turned[b] & 1 ? 0xedb88320u : 0);
		}
	return UINT64_MAX;
}

/* A sector with a checksum at @sum of what follows it from @from on.  1: verifies, or *ret_fixed it does now; 0: no. */
static bool verify(uint8_t *s, unsigned sum, unsigned from, bool *ret_fixed)
{
	uint32_t want = plt_get_le32(s + sum), have = plt_lvm_crc(s + from, GUEST_SECTOR - from);

	*ret_fixed = false;
	if (want == have)
		return true;
	*ret_fixed = !((want ^ have) & ((want ^ have) - 1)) || unflip(s + from, GUEST_SECTOR - from, want) != UINT64_MAX;
	if (*ret_fixed)
		plt_put_le32(s + sum, plt_lvm_crc(s + from, GUEST_SECTOR - from));
	return *ret_fixed;
}

static int fix_sector(struct lvm *l, const uint8_t *s, uint64_t off, const char *what)
{
	bool mend = guest_mends(l->x);
	int r = mend ? guest_put(l->x, l->part->start + off, s, GUEST_SECTOR, PLT_PROVEN, "") : 0;

	if (r == 0)
		guest_found(l->x, "R-LVM", mend, l->part->start + off, GUEST_SECTOR, "%s of an LVM physical volume has one wrong "
			    "bit, by its checksum", what);
	return r;
}

/* ---- what is there --------------------------------------------------------------------------------------- */

static int find_label(struct lvm *l)
{
	bool fixed = false;
	uint8_t *p = NULL;
	const uint8_t *q, *end;
	int r = get(l, 0, l->labels, sizeof(l->labels));

	if (r < 0) /* what is around a sector that does not read counts */
		for (unsigned i = 0; i < LABELS; i++)
			if (get(l, i * GUEST_SECTOR, l->labels + i * GUEST_SECTOR, GUEST_SECTOR) < 0)
				memset(l->labels + i * GUEST_SECTOR, 0, GUEST_SECTOR);
	l->at = 1;
	for (unsigned i = 0; i < LABELS && !p; i++) {
		uint8_t *s = l->labels + i * GUEST_SECTOR;

		if (!memcmp(s, "LABELONE", 8) && plt_get_le64(s + 8) == i && verify(s, 16, 20, &fixed) &&
		    !memcmp(s + 24, "LVM2 001", 8) && plt_get_le32(s + 20) <= GUEST_SECTOR - 40 - 2 * 16) {
			p = s;
			l->at = i;
		}
	}
	if (!p)
		return 0;
	l->label = true;
	q = p + plt_get_le32(p + 20);
	end = p + GUEST_SECTOR;
	memcpy(l->id, q, sizeof(l->id));
	for (q += 40; q + 16 <= end && plt_get_le64(q); q += 16)
		;
	q += 16;
	if (q + 16 <= end && plt_in_range(plt_get_le64(q), plt_get_le64(q + 8), l->part->len)) {
		l->meta = plt_get_le64(q);
		l->area = plt_get_le64(q + 8);
	}
	return fixed ? fix_sector(l, p, l->at * GUEST_SECTOR, "the label") : 0;
}

static int find_header(struct lvm *l)
{
	uint64_t at = l->meta ? l->meta : USUAL_META;
	bool fixed;

	if (l->label && !l->meta)
		return 0; /* (it keeps none) */
	if (get(l, at, l->h, sizeof(l->h)) < 0)
		memset(l->h, 0, sizeof(l->h));
	if (!verify(l->h, 0, 4, &fixed) || memcmp(l->h + 4, magic, 16) || plt_get_le64(l->h + 24) != at ||
	    !plt_in_range(at, plt_get_le64(l->h + 32), l->part->len))
		return 0;
	l->header = true;
	l->meta = at;
	l->area = plt_get_le64(l->h + 32);
	return fixed ? fix_sector(l, l->h, at, "the header of the metadata") : 0;
}

/* Reads the ring; of what does not read there are zeros. */
static int read_ring(struct lvm *l)
{
	uint64_t n = l->area;

	if (n < 2 * GUEST_SECTOR || n > RING_MAX)
		return 0;
	n -= GUEST_SECTOR;
	l->ring = malloc(2 * n + GUEST_SECTOR);
	if (!l->ring)
		return -ENOMEM;
	for (uint64_t at = 0, k; at < n; at += k) {
		k = PLT_MIN(n - at, UINT64_C(65536));
		if (get(l, l->meta + GUEST_SECTOR + at, l->ring + at, k) == 0)
			continue;
		k = PLT_MIN(k, (uint64_t)GUEST_SECTOR);
		if (get(l, l->meta + GUEST_SECTOR + at, l->ring + at, k) < 0)
			memset(l->ring + at, 0, k);
	}
	memcpy(l->ring + n, l->ring, n);
	memset(l->ring + 2 * n, 0, GUEST_SECTOR);
	l->ring_len = n;
	return 0;
}

/* ---- texts ------------------------------------------------------------------------------------------------ */

/* Does a text of a group begin here?  Which, and its number. */
static bool begins_text(const uint8_t *p, struct text *ret)
{
	const char *s = (const char *)p, *q;
	size_t name = 0;
	char *end;

	/* (no further: a ring may be one long name) */
	while (name <= NAME_MAX_LEN && s[name] && strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+_.-", s[name]))
		name++;
	if (!name || name > NAME_MAX_LEN || strncmp(s + name, " {\nid = \"", 9))
		return false;
	ret->group = p + name + 9;
	q = s + name + 9 + PLT_LVM_ID + 6;
	if (strncmp(q, "\"\nseqno = ", 10) || q[10] < '0' || q[10] > '9')
		return false;
	ret->seqno = strtoull(q + 10, &end, 10);
	return *end == '\n';
}

/* Which physical volume of the group is this one: by its id, or the only one, or the only one of this size. */
static const struct plt_lvm_node *own_pv(struct lvm *l, const struct plt_lvm_text *t, const struct plt_lvm_node *vg)
{
	const struct plt_lvm_node *pvs = plt_lvm_find(t, vg, "physical_volumes", true), *fit = NULL, *any = NULL;
	unsigned nfit = 0, nany = 0;
	char id[PLT_LVM_ID + 7];

	plt_lvm_id_text(l->id, id);
	for (uint32_t i = pvs ? (uint32_t)(pvs - t->v) + 1 : 0; pvs && i < pvs->end; i = t->v[i].end) {
		uint64_t size;

		if (t->v[i].value)
			continue;
		if (l->label && plt_lvm_string_is(t, &t->v[i], "id", id))
			return &t->v[i];
		any = &t->v[i];
		nany++;
		if (plt_lvm_number(t, any, "dev_size", &size) && size == l->part->len / GUEST_SECTOR) {
			fit = any;
			nfit++;
		}
	}
	return l->label ? NULL : nfit == 1 ? fit : nany == 1 ? any : NULL;
}

/* Is the text whole, and does it describe this volume?  What it says is kept. */
static int describes(struct lvm *l, struct text *w, bool *ret)
{
	char *copy = malloc(w->len + 1);
	const struct plt_lvm_node *vg, *own, *id;
	struct plt_lvm_text t;
	uint64_t n;
	bool alone;
	int r;

	*ret = false;
	if (!copy)
		return -ENOMEM;
	memcpy(copy, l->ring + (w->off - GUEST_SECTOR), w->len);
	copy[w->len] = '\0';
	r = plt_lvm_text_parse(copy, &t);
	if (r < 0) {
		free(copy);
		return r == -ENOMEM ? r : 0;
	}
	vg = plt_lvm_find(&t, NULL, NULL, true);
	/* (a text whose end another has taken has that one's sections, or ends early) */
	alone = vg == t.v;
	for (uint32_t i = alone ? vg->end : 0; alone && i < t.n; i = t.v[i].end)
		alone = t.v[i].value;
	own = alone && plt_lvm_string_is(&t, NULL, "contents", "Text Format Volume Group") &&
	      plt_lvm_number(&t, vg, "extent_size", &n) ? own_pv(l, &t, vg) : NULL;
	id = own ? plt_lvm_find(&t, own, "id", false) : NULL;
	*ret = id && strlen(id->value) == PLT_LVM_ID + 8 && plt_lvm_number(&t, own, "dev_size", &l->dev_size) &&
	       plt_lvm_number(&t, own, "pe_start", &l->pe_start) && l->pe_start > USUAL_META / GUEST_SECTOR &&
	       l->pe_start <= l->dev_size && l->dev_size <= l->part->len / GUEST_SECTOR;
	if (*ret) {
		memcpy(l->name, id->value + 1, sizeof(l->name) - 1);
		l->name[sizeof(l->name) - 1] = '\0';
		if (!plt_lvm_number(&t, NULL, "creation_time", &w->made))
			w->made = 0;
	}
	plt_lvm_text_release(&t);
	free(copy);
	return 0;
}

static int by_seqno(const void *a, const void *b)
{
	const struct text *x = a, *y = b;

	return x->seqno > y->seqno ? -1 : x->seqno < y->seqno;
}

/* Every beginning of a text in the ring; .len 0: it has no end.  free() it. */
static size_t find_texts(const struct lvm *l, struct text **ret)
{
	size_t n = 0, nul = 2 * l->ring_len; /* the first byte from where we stand on that ends a text */
	const uint8_t *p = memchr(l->ring, 0, l->ring_len);
	struct text *v = *ret = calloc(l->ring_len / GUEST_SECTOR + 1, sizeof(*v));

	if (p)
		nul = (size_t)(p - l->ring) + l->ring_len;
	for (size_t at = l->ring_len / GUEST_SECTOR * GUEST_SECTOR; v && at;) {
		struct text w = { .off = at };

		at -= GUEST_SECTOR;
		p = memchr(l->ring + at, 0, GUEST_SECTOR);
		nul = p ? (size_t)(p - l->ring) : nul;
		if (!begins_text(l->ring + at, &w))
			continue;
		w.len = nul + 1 - at; /* (the byte that ends it belongs to it) */
		w.len = w.len <= l->ring_len && w.len <= PLT_LVM_TEXT_MAX ? w.len : 0;
		v[n++] = w;
	}
	return n;
}

/*
 * The newest text of the ring that is whole, of the group that was there last, and the number of the newest of that group
 * that began there.  What the header names (@bad, or NULL) is known to be damaged.
 */
static int newest(struct lvm *l, const struct text *bad, struct text *ret, uint64_t *ret_last)
{
	struct text *v = NULL;
	size_t n;
	int r = 0;

	*ret = (struct text){ 0 };
	*ret_last = 0;
	if (!l->ring)
		return 0;
	n = find_texts(l, &v);
	if (!v)
		return -ENOMEM;
	if (n)
		qsort(v, n, sizeof(*v), by_seqno);
	for (size_t i = 0, tries = 0; i < n && tries < TRIES && r == 0; i++) {
		bool is = false;

		if (v[i].settled || !v[i].len || (bad && bad->off == v[i].off))
			continue;
		tries++;
		r = describes(l, &v[i], &is);
		for (size_t k = i; is && k < n; k++) /* those of its group are older */
			v[k].settled |= !memcmp(v[k].group, v[i].group, PLT_LVM_ID + 6);
		if (is && (!ret->len || v[i].made > ret->made))
			*ret = v[i];
	}
	for (size_t i = 0; i < n && ret->len; i++)
		if (!memcmp(v[i].group, ret->group, PLT_LVM_ID + 6))
			*ret_last = PLT_MAX(*ret_last, v[i].seqno);
	if (r == 0 && ret->len) {
		bool is;

		r = describes(l, ret, &is); /* (another may have been looked at since) */
		ret->crc = plt_lvm_crc(l->ring + (ret->off - GUEST_SECTOR), ret->len);
	}
	free(v);
	return r;
}

/* ---- what is made of it ------------------------------------------------------------------------------------- */

static void make_label(const struct lvm *l, uint8_t *p)
{
	unsigned n = 0;

	memset(p, 0, GUEST_SECTOR);
	memcpy(p, "LABELONE", 8);
	for (const char *s = l->name; *s && n < PLT_LVM_ID; s++)
		if (*s != '-')
			p[32 + n++] = (uint8_t)*s;
	plt_put_le64(p + 8, 1);
	plt_put_le32(p + 20, 32);
	memcpy(p + 24, "LVM2 001", 8);
	plt_put_le64(p + 64, l->dev_size * GUEST_SECTOR);
	plt_put_le64(p + 72, l->pe_start * GUEST_SECTOR); /* the data area, up to the end */
	plt_put_le64(p + 104, l->meta);                   /* behind the empty entry: the metadata area */
	plt_put_le64(p + 112, l->area);
	plt_put_le32(p + 136, 2);                         /* and the extension: version, flags */
	plt_put_le32(p + 140, 1);
	plt_put_le32(p + 16, plt_lvm_crc(p + 20, GUEST_SECTOR - 20));
}

static void make_header(const struct lvm *l, const struct text *w, uint8_t *p)
{
	memset(p, 0, GUEST_SECTOR);
	memcpy(p + 4, magic, 16);
	plt_put_le32(p + 20, 1);
	plt_put_le64(p + 24, l->meta);
	plt_put_le64(p + 32, l->area);
	plt_put_le64(p + LOCN, w->off);
	plt_put_le64(p + LOCN + 8, w->len);
	plt_put_le32(p + LOCN + 16, w->crc);
	plt_put_le32(p, plt_lvm_crc(p + 4, GUEST_SECTOR - 4));
}

/* ---- is it right ------------------------------------------------------------------------------------------- */

/* The volume with another label and header, from 0 on. */
struct trial {
	const struct lvm *l;
	const uint8_t *label, *header;
	unsigned good, bad; /* volumes at whose beginning there is a filesystem that fits in, or one that does not */
};

static void lay_over(uint64_t off, uint8_t *buf, size_t len, uint64_t at, const uint8_t *sector)
{
	for (unsigned i = 0; i < GUEST_SECTOR; i++)
		if (at + i >= off && at + i - off < len)
			buf[at + i - off] = sector[i];
}

static int trial_read(void *arg, uint64_t off, void *buf, size_t len)
{
	const struct trial *t = arg;
	int r = get(t->l, off, buf, len);

	if (r == 0) {
		lay_over(off, buf, len, t->l->at * GUEST_SECTOR, t->label);
		lay_over(off, buf, len, t->l->meta, t->header);
	}
	return r;
}

static int weigh_lv(void *arg, const char *name, const struct plt_lv_piece *v, unsigned n, uint64_t size, const char *why)
{
	struct trial *t = arg;
	struct plt_super s;

	(void)name;
	if (why || !n || !plt_super_first(&t->l->x->disk, t->l->part->start + v[0].pv_off, &s))
		return 0;
	if (s.size <= size)
		t->good++;
	else
		t->bad++;
	return 0;
}

/* Does another reader follow @label and @header? */
static bool is_followed(struct trial *t)
{
	const struct plt_guest view = { .read = trial_read, .arg = t, .size = t->l->part->len };
	char why[200] = "";
	struct plt_free f = { .vol = &view, .why = why, .why_size = sizeof(why) };

	return plt_free_lvm(&f, weigh_lv, t) == 0;
}

/* ---- all of it ----------------------------------------------------------------------------------------------- */

static int make_new(struct lvm *l, const struct text *w, bool older, uint64_t last)
{
	const uint64_t start = l->part->start;
	uint8_t label[GUEST_SECTOR], header[GUEST_SECTOR];
	bool new_header = !l->header || older, mend;
	struct trial t = { .l = l, .label = label, .header = header };
	char why[96];
	int r = 0;

	memcpy(label, l->labels + l->at * GUEST_SECTOR, sizeof(label));
	memcpy(header, l->h, sizeof(header));
	if (!l->label)
		make_label(l, label);
	if (new_header)
		make_header(l, w, header);
	mend = is_followed(&t) && !t.bad && (!older || t.good) && guest_mends(l->x);
	if (!l->label && mend)
		r = guest_put(l->x, start + GUEST_SECTOR, label, sizeof(label), PLT_STRONG,
			      "the label is made from the volume's own metadata");
	if (!l->label && r == 0)
		guest_found(l->x, "R-LVM", mend, start + GUEST_SECTOR, GUEST_SECTOR, "the label of an LVM physical volume at %#" PRIx64
			    " is gone; its metadata describe it", start);
	snprintf(why, sizeof(why), "text %" PRIu64 " of the LVM metadata is the newest that is whole", w->seqno);
	if (new_header && mend && r == 0)
		r = guest_put(l->x, start + l->meta, header, sizeof(header), PLT_STRONG, why);
	if (new_header && r == 0 && older)
		guest_found(l->x, "R-LVM", mend, start + l->meta, GUEST_SECTOR, "the metadata of an LVM physical volume at %#" PRIx64
			    " are damaged as of change %" PRIu64 "; as of change %" PRIu64 " they are there%s", start, last,
			    w->seqno, t.bad ? ", but a filesystem is larger than its volume was then" :
			    t.good ? ", and filesystems begin where these say" : ", but nothing is found that confirms them");
	else if (new_header && r == 0)
		guest_found(l->x, "R-LVM", mend, start + l->meta, GUEST_SECTOR, "the header of the LVM metadata at %#" PRIx64
			    " is gone; text %" PRIu64 " in it is whole", start + l->meta, w->seqno);
	return r;
}

/* The text that the header names; *ret: it is right, or is once a bit is put right. */
static int current(struct lvm *l, struct text *w, bool *ret)
{
	uint8_t *p;
	uint64_t bit;
	bool mend = guest_mends(l->x);
	int r;

	*w = (struct text){ .off = plt_get_le64(l->h + LOCN), .len = plt_get_le64(l->h + LOCN + 8),
			    .crc = plt_get_le32(l->h + LOCN + 16) };
	*ret = false;
	if (!l->ring || w->off < GUEST_SECTOR || w->off - GUEST_SECTOR >= l->ring_len || w->len > l->ring_len ||
	    w->len > PLT_LVM_TEXT_MAX)
		return 0;
	p = l->ring + (w->off - GUEST_SECTOR);
	*ret = plt_lvm_crc(p, w->len) == w->crc;
	bit = *ret ? UINT64_MAX : unflip(p, w->len, w->crc);
	if (bit == UINT64_MAX)
		return 0;
	*ret = true;
	bit = (w->off - GUEST_SECTOR + bit) % l->ring_len;
	r = mend ? guest_put(l->x, l->part->start + l->meta + GUEST_SECTOR + bit,
			     p + (bit + l->ring_len - (w->off - GUEST_SECTOR)) % l->ring_len, 1,
			     w->len <= UNFLIP_PROVES ? PLT_PROVEN : PLT_STRONG, "one bit of the metadata was turned, by their checksum") : 0;
	if (r == 0)
		guest_found(l->x, "R-LVM", mend, l->part->start + l->meta + GUEST_SECTOR + bit, 1, "the metadata of an LVM physical "
			    "volume have one wrong bit, by their checksum");
	return r;
}

static int mend_volume(struct lvm *l, bool by_text, bool *ret_is)
{
	struct text now = { 0 }, w = { 0 };
	bool right = false, named, known = false;
	uint64_t last = 0;
	int r = find_label(l);

	if (r == 0)
		r = find_header(l);
	*ret_is = l->label || l->header;
	if (r < 0 || (l->label && !l->meta) || (!*ret_is && !by_text))
		return r;
	if (!l->meta) { /* up to where its extents begin, at a MiB or wherever the text says */
		l->meta = USUAL_META;
		l->area = PLT_MIN(l->part->len, UINT64_C(1) << 20) - USUAL_META;
	}
	r = read_ring(l);
	named = l->header && plt_get_le64(l->h + LOCN + 8);
	/* it belongs to no group yet, or others have its metadata; or it is more than we look at */
	if (r < 0 || (l->label && l->header && (!named || !l->ring || plt_get_le32(l->h + LOCN + 20) & IGNORED)))
		return r;
	if (named)
		r = current(l, &now, &right);
	if (r < 0 || (right && l->label))
		return r;
	w = now;
	if (right)
		r = describes(l, &w, &known);
	else
		r = newest(l, named ? &now : NULL, &w, &last);
	if (right && !known)
		w.len = 0; /* it is right, and does not tell which of several this one is */
	if (r == 0 && !l->label && !l->header && w.len)
		l->area = l->pe_start * GUEST_SECTOR - l->meta;
	if (r == 0 && w.len) {
		*ret_is = true;
		r = make_new(l, &w, !right && (named || last > w.seqno), PLT_MAX(last, w.seqno));
	} else if (r == 0 && *ret_is) {
		guest_found(l->x, "R-LVM", false, l->part->start + (l->label ? l->meta : GUEST_SECTOR), GUEST_SECTOR,
			    "%s of an LVM physical volume at %#" PRIx64 " %s, and no text in its metadata tells what it was",
			    l->label ? "the metadata" : "the label", l->part->start, l->label ? "are damaged" : "is gone");
	}
	return r;
}

int guest_mend_lvm(struct guest_exam *x, const struct plt_part *part, bool by_text, bool *ret_is)
{
	struct lvm *l = calloc(1, sizeof(*l));
	int r;

	*ret_is = false;
	if (!l || part->len < 1 << 20) {
		free(l);
		return l ? 0 : -ENOMEM;
	}
	l->x = x;
	l->part = part;
	r = mend_volume(l, by_text, ret_is);
	free(l->ring);
	free(l);
	return r;
}
