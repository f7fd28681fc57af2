/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * What the guest's own structures say of the map is done: L2 tables and clusters that lie in each other's places, or
 * of which newer ones wait that nothing names, get the entries that are theirs.  Whoever says so has weighed it; here
 * it is only seen to that all moves of a round are done together, by what the entries were before, and that no table
 * that a snapshot has too is touched.  In an external data file a cluster lies where the guest has it, and nowhere else.
 *
 * The invariant: a table that is changed is written anew behind the end of the file; the old one stays where it was.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "qcow2/check.h"

#define MAX_DONORS 16          /* snapshots, the newest */
#define MAX_LOOKS (1U << 16)   /* at pairs of tables */

struct moving {
	struct qcow2_exam *x;
	struct qcow2_tree t;
	uint64_t *l1;       /* as stored */
	uint8_t *table;
	uint64_t (*now)[2]; /* of each move: its entry, and the second word of an extended one */
	unsigned bits;      /* of the guest offset that one L2 table covers */
};

static const char *const words[] = { "guess", "likely", "strong", "proven" };

static int note_entry(void *arg, uint32_t index, uint64_t e)
{
	struct moving *m = arg;

	m->l1[index] = e;
	return 0;
}

static uint64_t table_at(const struct moving *m, uint64_t guest)
{
	uint64_t index = guest >> m->bits, e = index < m->t.l1_size ? m->l1[index] : 0, off = e & QCOW2_L1_OFFSET;

	return e & QCOW2_L1_RESERVED || off & (m->x->q.cluster_size - 1) || off >= m->x->c.file_size ? 0 : off;
}

static int doubt(struct moving *m, const struct plt_move *v, uint64_t span)
{
	return v->host_off == PLT_UNPLACED ?
		qcow2_doubt(m->x, &m->t, PLT_LOST, v->guest_off, span, PLT_GUESS, v->why) :
		qcow2_doubt(m->x, &m->t, PLT_INFERRED, v->guest_off, span, v->certainty, v->why);
}

/* ---- tables -------------------------------------------------------------------------------------------- */

/* Does a table that the plan has made lie at that place, and nowhere afterwards? */
static bool gives_way(const struct moving *m, uint64_t table)
{
	const struct plt_mend *mend = m->x->ex->mend;

	if (!table || !qcow2_is_added(m->x, table))
		return false;
	for (size_t i = 0; i < mend->nmoves; i++)
		if (mend->moves[i].host_off == table)
			return false;
	return true;
}

static int move_tables(struct moving *m)
{
	struct qcow2_exam *x = m->x;
	const struct plt_mend *mend = x->ex->mend;
	int r = 0;

	for (size_t i = 0; i < mend->nmoves && r == 0; i++) {
		const struct plt_move *v = &mend->moves[i];
		uint64_t index = v->guest_off >> m->bits, stored = 0, old = table_at(m, v->guest_off);
		plt_be64 e;

		if (index >= m->t.l1_size || (v->host_off != PLT_UNPLACED && v->host_off >= x->c.file_size))
			continue;
		if (gives_way(m, old) && (r = qcow2_leave_behind(x, old)) < 0)
			break;
		if (v->host_off == PLT_UNPLACED) {
			r = qcow2_l1_set(x, &m->t, (uint32_t)index, 0);
			if (r == 0)
				r = doubt(m, v, mend->move_span);
			x->map_changed = x->ex->mend->changed = true;
			continue;
		}
		(void)qcow2_stored_count(&x->c, v->host_off >> x->q.cluster_bits, &stored);
		e = plt_be64_make(v->host_off | (stored == 1 ? QCOW2_COPIED : 0));
		r = plt_store_write(x->c.file, m->t.l1_offset + index * 8, &e, 8, PLT_IO_L1, NULL);
		if (r == 0)
			r = doubt(m, v, mend->move_span);
		x->map_changed = x->ex->mend->changed = true;
		plt_emit(x->ex,
			 &(struct plt_finding){.id = "Q-L1", .severity = PLT_CORRUPTION, .count = 1, .beyond_qemu = true,
					       .mended = true, .host_off = v->host_off, .host_len = x->q.cluster_size,
					       .guest_off = v->guest_off, .guest_len = mend->move_span},
			 "Repairing L1 entry %" PRIu64 ": it names another L2 table than the one at offset %#" PRIx64
			 ", which belongs there (%s: %s)", index, v->host_off, words[v->certainty], v->why);
	}
	return r;
}

/* ---- clusters ------------------------------------------------------------------------------------------- */

static int read_entry(struct moving *m, uint64_t guest, uint64_t ret[2])
{
	const struct qcow2_state *q = &m->x->q;
	uint64_t table = table_at(m, guest), at = (guest >> q->cluster_bits & ((UINT64_C(1) << q->l2_bits) - 1)) * q->l2_entry_size;
	uint8_t e[16] = { 0 };
	int r = table ? plt_store_read(m->x->c.file, table + at, e, q->l2_entry_size, PLT_IO_L2, NULL) : 0;

	ret[0] = plt_get_be64(e);
	ret[1] = q->extl2 ? plt_get_be64(e + 8) : 0;
	return r;
}

static bool is_possible(const struct moving *m)
{
	const struct plt_mend *mend = m->x->ex->mend;

	for (size_t i = 0; m->x->c.external && i < mend->nmoves; i++)
		if (mend->moves[i].host_off != mend->moves[i].guest_off || mend->moves[i].packed)
			return false;
	return true;
}

/* The entries that there will be, by those that there are. */
static int new_entries(struct moving *m)
{
	const struct qcow2_state *q = &m->x->q;
	const struct plt_mend *mend = m->x->ex->mend;
	int r = 0;

	for (size_t i = 0; i < mend->nmoves && r == 0; i++) {
		const struct plt_move *v = &mend->moves[i];
		uint64_t from[2] = { 0, UINT32_MAX }; /* which subclusters of an orphan were in use nothing says */

		if (v->from != PLT_UNPLACED)
			r = read_entry(m, v->from, from);
		if (v->packed) {
			m->now[i][0] = qcow2_packed_entry(q, v->host_off, v->packed);
			m->now[i][1] = 0;
		} else if (v->host_off != PLT_UNPLACED) {
			m->now[i][0] = v->host_off | (m->x->c.external ? QCOW2_COPIED : 0);
			m->now[i][1] = q->extl2 ? from[1] : 0;
		} else {
			m->now[i][0] = q->version >= 3 && !q->extl2 ? QCOW2_L2_ZERO : 0;
			m->now[i][1] = q->extl2 ? (uint64_t)UINT32_MAX << 32 : 0;
		}
	}
	return r;
}

static bool was_only_here(const struct qcow2_exam *x, uint64_t table)
{
	const struct qcow2_l2ref *l = qcow2_l2_find(&x->c, table);

	return l && l->active + l->others == 1;
}

/* Moves from @i on into the same table; *ret_next: the first of the next one. */
static int move_some(struct moving *m, size_t i, size_t *ret_next)
{
	struct qcow2_exam *x = m->x;
	const struct qcow2_state *q = &x->q;
	const struct plt_mend *mend = x->ex->mend;
	uint64_t index = mend->moves[i].guest_off >> m->bits, old = table_at(m, mend->moves[i].guest_off), now = old;
	size_t first = i;
	int r;

	memset(m->table, 0, q->cluster_size);
	r = old ? qcow2_l2_read(&x->c, old, m->table) : 0;
	for (; i < mend->nmoves && mend->moves[i].guest_off >> m->bits == index && r == 0; i++) {
		const struct plt_move *v = &mend->moves[i];
		uint8_t *p = m->table + (v->guest_off >> q->cluster_bits & ((UINT64_C(1) << q->l2_bits) - 1)) * q->l2_entry_size;

		plt_put_be64(p, m->now[i][0]);
		if (q->extl2)
			plt_put_be64(p + 8, m->now[i][1]);
		r = doubt(m, v, q->cluster_size);
		if (v->host_off == PLT_UNPLACED)
			continue;
		plt_emit(x->ex,
			 &(struct plt_finding){.id = "Q-ENT", .severity = PLT_CORRUPTION, .count = 1, .beyond_qemu = true,
					       .mended = true, .host_off = v->host_off, .host_len = q->cluster_size,
					       .guest_off = v->guest_off, .guest_len = q->cluster_size},
			 "Repairing an L2 entry: at guest offset %#" PRIx64 " it does not show the %scluster at offset %#" PRIx64
			 ", which belongs there (%s: %s)", v->guest_off, v->packed ? "compressed " : "", v->host_off,
			 words[v->certainty], v->why);
	}
	*ret_next = i;
	if (r == 0 && (!old || !qcow2_is_added(x, old))) {
		r = qcow2_fresh_place(x, &now);
		if (r == 0)
			r = qcow2_l1_set(x, &m->t, (uint32_t)(mend->moves[first].guest_off >> m->bits), now);
		if (r == 0 && old && was_only_here(x, old)) /* else a snapshot still has it */
			r = qcow2_leave_behind(x, old);
	}
	x->map_changed = x->ex->mend->changed = true;
	return r < 0 ? r : plt_store_write(x->c.file, now, m->table, q->cluster_size, PLT_IO_L2, NULL);
}

/* ---- all of it ------------------------------------------------------------------------------------------ */

int qcow2_mend_moves(struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;
	const struct plt_mend *mend = x->ex->mend;
	struct moving m = {.x = x, .t = {PLT_DISK_ACTIVE, q->l1_offset, q->virtual_size, q->l1_size},
			   .bits = q->cluster_bits + q->l2_bits};
	int r;

	if (!mend->nmoves || !(mend->what & PLT_MEND_MAP))
		return 0;
	m.l1 = calloc((size_t)q->l1_size + 1, sizeof(*m.l1));
	m.table = plt_alloc_io(q->cluster_size);
	m.now = calloc(mend->nmoves, sizeof(*m.now));
	r = m.l1 && m.table && m.now ? qcow2_l1_each(&x->c, q->l1_offset, q->l1_size, note_entry, &m) : -ENOMEM;
	if (r == 0 && mend->move_span == UINT64_C(1) << m.bits) {
		r = move_tables(&m);
	} else if (r == 0 && mend->move_span == q->cluster_size && is_possible(&m)) {
		r = new_entries(&m);
		for (size_t i = 0; i < mend->nmoves && r == 0;)
			if (mend->moves[i].guest_off >> m.bits >= q->l1_size)
				i++;
			else
				r = move_some(&m, i, &i);
	}
	free(m.l1);
	free(m.table);
	free(m.now);
	return r == -EIO ? 0 : r;
}

/* ---- for those who decide -------------------------------------------------------------------------------- */

static int fill(struct plt_orphans *p, uint64_t span, uint32_t n)
{
	free(p->v);
	free(p->gaps);
	*p = (struct plt_orphans){.span = span, .v = calloc((size_t)n + 1, sizeof(*p->v)), .n = n};
	return p->v ? 0 : -ENOMEM;
}

/*
 * Clusters that a snapshot names and that are counted once more than they are named: the disk had them in the same
 * place, where it has nothing now, or a cluster that is named more often than it is counted.
 */
struct common {
	struct qcow2_exam *x;
	struct plt_orphans *ret;
	uint64_t *l1;
	uint8_t *mine, *theirs;
	size_t cap;
	uint32_t looks;
};

static int note_l1(void *arg, uint32_t index, uint64_t e)
{
	((struct common *)arg)->l1[index] = e & QCOW2_L1_OFFSET;
	return 0;
}

/* How often it is counted, less how often it is named. */
static int64_t surplus(struct qcow2_exam *x, uint64_t off)
{
	uint64_t k = off >> x->q.cluster_bits, stored;

	return off & (x->q.cluster_size - 1) || off >= x->c.file_size || x->map_unread || qcow2_stored_count(&x->c, k, &stored) < 0 ? 0 :
	       (int64_t)stored - (int64_t)qcow2_references(&x->c, k);
}

static int add_common(struct common *c, uint64_t host, uint64_t guest)
{
	if (c->ret->n >= c->cap) {
		void *v = realloc(c->ret->v, 2 * (c->cap + 16) * sizeof(*c->ret->v));

		if (!v)
			return -ENOMEM;
		c->ret->v = v;
		c->cap = 2 * (c->cap + 16);
	}
	c->ret->v[c->ret->n++] = (struct plt_orphan){.host_off = host, .guest_off = guest};
	return 0;
}

static bool is_plain(uint64_t e)
{
	return !(e & (QCOW2_COMPRESSED | QCOW2_L2_ZERO)) && e & QCOW2_L2_OFFSET;
}

static int common_table(void *arg, uint32_t index, uint64_t entry)
{
	struct common *c = arg;
	struct qcow2_exam *x = c->x;
	const struct qcow2_state *q = &x->q;
	uint64_t off = entry & QCOW2_L1_OFFSET, own = index < q->l1_size ? c->l1[index] : 0;
	int r = 0;

	if (!own || own == off || own & (q->cluster_size - 1) || off & (q->cluster_size - 1) || own >= x->c.file_size ||
	    off >= x->c.file_size || ++c->looks > MAX_LOOKS || qcow2_l2_read(&x->c, own, c->mine) < 0 ||
	    qcow2_l2_read(&x->c, off, c->theirs) < 0)
		return 0;
	for (uint32_t i = 0; i < 1U << q->l2_bits && r == 0; i++) {
		uint64_t mine = plt_get_be64(c->mine + (size_t)i * q->l2_entry_size);
		uint64_t theirs = plt_get_be64(c->theirs + (size_t)i * q->l2_entry_size);

		if (is_plain(theirs) && (mine & QCOW2_L2_OFFSET) != (theirs & QCOW2_L2_OFFSET) &&
		    (!mine || (is_plain(mine) && surplus(x, mine & QCOW2_L2_OFFSET) < 0)) &&
		    surplus(x, theirs & QCOW2_L2_OFFSET) > 0)
			r = add_common(c, theirs & QCOW2_L2_OFFSET,
				       ((uint64_t)index << q->l2_bits | i) << q->cluster_bits);
	}
	return r;
}

static int find_common(struct qcow2_exam *x, struct plt_orphans *ret)
{
	const struct qcow2_state *q = &x->q;
	struct common c = {.x = x, .ret = ret, .cap = ret->n};
	int r;

	if (!q->nb_snapshots || x->refs_bad || x->counts_gone || x->c.external)
		return 0;
	c.l1 = calloc((size_t)q->l1_size + 1, sizeof(*c.l1));
	c.mine = plt_alloc_io(q->cluster_size);
	c.theirs = plt_alloc_io(q->cluster_size);
	r = c.l1 && c.mine && c.theirs ? qcow2_l1_each(&x->c, q->l1_offset, q->l1_size, note_l1, &c) : -ENOMEM;
	for (uint32_t i = q->nb_snapshots; i-- && i + MAX_DONORS >= q->nb_snapshots && r == 0;) {
		const struct qcow2_snapshot *s = &q->snapshots[i];

		if (x->snapshot_times[i] && x->snapshot_times[i] != QCOW2_ASTRAY)
			r = qcow2_l1_each(&x->c, s->l1_offset, s->l1_size, common_table, &c);
	}
	free(c.l1);
	free(c.mine);
	free(c.theirs);
	return r == -EIO ? 0 : r;
}

int qcow2_tell_orphans(struct qcow2_exam *x)
{
	const struct qcow2_state *q = &x->q;
	struct plt_mend *mend = x->ex->mend;
	const bool counted = !x->refs_bad; /* else anything may be free */
	int r = fill(&mend->pieces, UINT64_C(1) << (q->cluster_bits + q->l2_bits), counted ? x->npieces : 0);

	if (r == 0)
		r = fill(&mend->clusters, q->cluster_size, x->c.external || !counted ? 0 : x->nstrays);
	for (size_t i = 0; r == 0 && i < mend->pieces.n; i++)
		mend->pieces.v[i] = (struct plt_orphan){.host_off = x->pieces[i].off, .guest_off = PLT_UNPLACED};
	for (size_t i = 0; r == 0 && i < mend->clusters.n; i++)
		mend->clusters.v[i] = (struct plt_orphan){.host_off = x->strays[i], .guest_off = PLT_UNPLACED};
	return r == 0 ? find_common(x, &mend->clusters) : r;
}

struct listing {
	const struct qcow2_state *q;
	struct plt_orphans *ret;
	uint64_t end;
	size_t cap;
};

static int list_table(void *arg, uint32_t index, uint64_t e)
{
	struct listing *l = arg;
	struct plt_orphans *p = l->ret;
	uint64_t off = e & QCOW2_L1_OFFSET;

	if (!off || e & QCOW2_L1_RESERVED || off & (l->q->cluster_size - 1) || off >= l->end ||
	    index * p->span >= l->q->virtual_size)
		return 0;
	if (p->n == l->cap) {
		size_t cap = l->cap ? 2 * l->cap : 64;
		void *v = realloc(p->v, cap * sizeof(*p->v));

		if (!v)
			return -ENOMEM;
		p->v = v;
		l->cap = cap;
	}
	p->v[p->n++] = (struct plt_orphan){.host_off = off, .guest_off = index * p->span};
	return 0;
}

int qcow2_map_tables(struct plt_ctx *ctx, struct plt_store *file, struct plt_orphans *ret, struct plt_error *err)
{
	struct qcow2_state q = {0};
	PLT_AUTOFREE char *backing = NULL, *format = NULL;
	struct qcow2_recount c = {.ctx = ctx, .file = file, .q = &q};
	struct listing l = {.q = &q, .ret = ret};
	int r;

	q.ignore = plt_ctx_ignored_features(ctx);
	r = qcow2_header_read(file, "", true, &q, &backing, &format, err);

	*ret = (struct plt_orphans){0};
	if (r < 0)
		return r;
	ret->span = UINT64_C(1) << (q.cluster_bits + q.l2_bits);
	r = plt_store_size(file, &c.file_size, err);
	l.end = c.file_size;
	if (r == 0)
		r = qcow2_l1_each(&c, q.l1_offset, (uint32_t)PLT_MIN((uint64_t)q.l1_size, qcow2_l1_entries(&q, q.virtual_size)),
				  list_table, &l);
	qcow2_state_release(&q);
	return r < 0 ? plt_error_default(err, -r, "its L1 table cannot be read") : 0;
}
