/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Waiting in the right order.  A request is parked at every need that a driver can have, and then every
 * exclusive operation starts against it; nothing may hang, everything ends right, and while the gate
 * is closed nothing passes that must not.  The parts by themselves are test-waiting's.
 */
#include <inttypes.h>
#include <stdio.h>

#include "formats/probe.h"
#include "qcow2/mapping.h"
#include "tests/block/exclusive.h"

#define K UINT64_C(1024)
#define STEPS 3000

/* ---- the needs ------------------------------------------------------------------------------- */

enum parked { AT_LOAD, AT_SLOT, AT_WRITEBACK, AT_LIMBO, AT_NEW_L2, AT_UNSHARE, AT_REFBLOCK, AT_REFTABLE, PARKED };
enum rival { BY_WORK, BY_LIMBO, BY_FLUSH, BY_GATE, BY_FULL_GATE, BY_DRAIN, BY_GROWTH, BY_SHRINKING, RIVALS };

static const char *const parked_names[] = { "load", "slot", "write-back", "limbo", "new L2", "unshare",
					    "new refcount block", "growing the refcount table" };
static const char *const rival_names[] = { "work", "limbo drain", "flush", "gate", "full gate", "epoch drain",
					   "growth", "shrinking" };

/* Guest layout: [0, old) is written; the parked request writes [target, +target_len). */
struct stage {
	enum parked parked;
	struct plt_ctx *ctx;
	struct plt_store *file;
	uint64_t size, old, target, target_len;
	struct plt_pins *pins; /* AT_SLOT */
};

static void paint(uint8_t *p, uint64_t off, uint64_t len, uint8_t value)
{
	for (uint64_t i = 0; i < len; i++)
		p[i] = (uint8_t)(value + ((off + i) >> 9) * 7);
}

static void write_guest(struct plt_disk *disk, uint64_t off, uint64_t len, uint8_t value)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint8_t *buf = malloc(len);

	paint(buf, off, len, value);
	lab_must(plt_write(disk, off, buf, len, &err), &err);
	free(buf);
}

static void stage_new(struct stage *st, enum parked parked)
{
	struct plt_disk *disk;

	*st = (struct stage){ .parked = parked, .size = 8192 * K, .old = 1024 * K };
	st->ctx = lab_ctx(1);
	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &st->file), 0);
	lab_create(st->ctx, st->file,
		   parked == AT_REFTABLE ? "cluster_size=512,refcount_bits=64" : "cluster_size=512", st->size, false);
	st->target = 4096 * K + 1024; /* its L2 table exists */
	st->target_len = 2048;
	disk = lab_open(st->ctx, st->file, NULL);
	write_guest(disk, 4096 * K, 512, 1);
	switch (parked) {
	case AT_LIMBO: /* backwards, so that no two are neighbours in limbo */
		st->old = 2048 * K;
		for (uint64_t off = st->old; off; off -= 512)
			write_guest(disk, off - 512, 512, 1);
		break;
	case AT_REFTABLE:
		st->old = 1900 * K;
		write_guest(disk, 0, st->old, 1);
		break;
	default:
		write_guest(disk, 0, st->old, 1);
	}
	switch (parked) {
	case AT_NEW_L2:
		st->target = 5000 * K;
		break;
	case AT_UNSHARE:
		st->target = 2 * K;
		break;
	case AT_REFBLOCK:
	case AT_REFTABLE:
		st->target_len = 200 * K;
		break;
	default:
		break;
	}
	lab_close(disk);
	if (parked == AT_UNSHARE)
		lab_snapshot(&st->file);
	lab_check(st->ctx, st->file, "the prepared image");
}

static void stage_free(struct stage *st)
{
	plt_store_unref(st->file);
	plt_ctx_free(st->ctx);
}

static const struct plt_meta_type low_type = { .name = "test table", .tag = PLT_IO_OTHER };

/* Where the guest's byte @off lies. */
static uint64_t host_of(struct plt_disk *disk, uint64_t off)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_extent x;
	unsigned n;

	lab_must(plt_status(disk, off, 512, 0, &x, 1, &n, &err), &err);
	lab_expect(x.flags & PLT_EXTENT_OFFSET, "no place");
	return x.host_off;
}

#define PINS 300

/* Every slot is pinned, by nobody who will need anything. */
static void pin_all(struct stage *st, struct plt_disk *disk)
{
	struct plt_image *img = plt_disk_image(disk);
	struct plt_need need = { 0 };
	struct plt_block *b;
	uint64_t host[PINS];
	unsigned n = 0;

	for (unsigned i = 0; i < PINS; i++)
		host[i] = host_of(disk, i * 512);
	st->pins = calloc(PINS, sizeof(*st->pins));
	while (need.kind != PLT_NEED_SLOT) {
		lab_expect(n < PINS, "more slots than the budget has");
		if (plt_meta_get(img, &st->pins[n], &low_type, host[n], &b, &need, NULL) == 0)
			n++;
		else if (need.kind == PLT_NEED_LOAD)
			lab_must(plt_meta_load_wait(img, need.block, NULL), NULL);
	}
}

/* The L2 slice that the target is in waits for so much that it takes no more. */
static void fill_edges(struct stage *st, struct plt_disk *disk)
{
	struct plt_image *img = plt_disk_image(disk);
	struct qcow2_state *q = qcow2_of(img);
	struct plt_pins pins = PLT_PINS_BLOCKING;
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_block *l1, *l2;
	uint64_t at = q->l1_offset + (st->target >> 15) * 8;

	lab_must(plt_meta_get_wait(img, &pins, &qcow2_l1_type, at, &l1, &err), &err);
	at = plt_block_get64(l1, (unsigned)(at % img->slice / 8)) & QCOW2_L1_OFFSET;
	lab_must(plt_meta_get_wait(img, &pins, &qcow2_l2_type, at, &l2, &err), &err);
	for (unsigned i = 0; i < 13; i++) {
		struct plt_pins one = PLT_PINS_BLOCKING;
		struct plt_block *b;

		lab_must(plt_meta_get_wait(img, &one, &low_type, host_of(disk, i * 512), &b, &err), &err);
		pthread_mutex_lock(&img->lock);
		plt_block_dirty(b);
		plt_block_dirty(l2);
		plt_block_after_block(l2, b);
		pthread_mutex_unlock(&img->lock);
		plt_pins_drop(&one);
	}
	plt_pins_drop(&pins);
}

static void prepare(struct stage *st, struct plt_disk *disk)
{
	struct plt_error err = PLT_ERROR_INIT;

	/* first_write is behind us */
	write_guest(disk, 4096 * K, 512, 1);
	lab_must(plt_flush(disk, &err), &err);
	if (st->parked == AT_SLOT)
		pin_all(st, disk);
	if (st->parked == AT_WRITEBACK)
		fill_edges(st, disk);
	if (st->parked == AT_LIMBO) {
		lab_must(plt_discard(disk, 0, st->old, &err), &err);
		pthread_mutex_lock(&plt_disk_image(disk)->lock);
		ck_assert_uint_eq(plt_limbo_room(plt_disk_image(disk)), 0);
		pthread_mutex_unlock(&plt_disk_image(disk)->lock);
	}
}

static bool is_parked(const struct stage *st, const struct plt_io *io)
{
	static const struct {
		enum plt_need_kind kind;
		int code;
	} want[] = {
		{ PLT_NEED_LOAD, 0 }, { PLT_NEED_SLOT, 0 }, { PLT_NEED_WRITEBACK, 0 }, { PLT_NEED_LIMBO, 0 },
		{ PLT_NEED_WORK, QCOW2_WORK_NEW_L2 }, { PLT_NEED_WORK, QCOW2_WORK_UNSHARE_L2 },
		{ PLT_NEED_WORK, QCOW2_WORK_NEW_REFBLOCK }, { PLT_NEED_WORK, QCOW2_WORK_GROW_REFTABLE },
	};

	return io && io->need.kind == want[st->parked].kind &&
	       (io->need.kind != PLT_NEED_WORK || io->need.code == want[st->parked].code);
}

/* ---- one meeting ----------------------------------------------------------------------------- */

struct meeting {
	struct stage *st;
	enum rival rival;
	struct lab_queue lq;
	struct lab_order *o;
	struct lab_req a, b, other, read;
	struct exclusive x;
	struct plt_image *img;
};

static const char *meeting_name(const struct meeting *m)
{
	static char text[1400];

	snprintf(text, sizeof(text), "parked at %s, against %s, order %s", parked_names[m->st->parked],
		 rival_names[m->rival], lab_order_text(m->o));
	return text;
}

/*
 * While the gate is held nothing of the guest's is under way that it keeps out, and who is kept out
 * has nothing in his hands.  The same while a driver's exclusive work runs.
 */
static unsigned watch(void *arg, struct plt_op *const *pending, unsigned n)
{
	struct meeting *m = arg;
	struct plt_op *next = pending[m->lq.next];
	struct plt_io *worker = ((struct plt_io_op *)next)->io;

	for (struct plt_io *p = m->img->engine->gate_parked.head; p; p = p->next)
		lab_expect(!p->has_range && !p->in_epoch && !p->pins.n && !p->pins.privileged,
			   "%s: parked at the gate with something in hand", meeting_name(m));
	for (unsigned i = 0; next->kind == PLT_OP_CALL && worker->owns_gate && i < n; i++)
		lab_expect(pending[i]->kind != PLT_OP_WRITE, "%s: a write is under way during exclusive work",
			   meeting_name(m));
	for (unsigned i = 0; m->x.held && m->x.level && i < n; i++) {
		bool data = pending[i]->tag == PLT_IO_DATA || pending[i]->tag == PLT_IO_COW;

		lab_expect(pending[i]->kind == PLT_OP_CALL || !data ||
			      (pending[i]->kind == PLT_OP_READ && m->x.level == 1),
			      "%s: a data operation (%d) is under way behind the gate", meeting_name(m),
			      pending[i]->kind);
	}
	return m->lq.next;
}

static uint64_t resized(const struct meeting *m)
{
	return m->rival == BY_GROWTH ? 9000 * K : m->rival == BY_SHRINKING ? 5500 * K : m->st->size;
}

static void start_rival(struct meeting *m)
{
	struct plt_queue *q = m->lq.q;

	switch (m->rival) {
	case BY_WORK:
		m->b = (struct lab_req){ .kind = PLT_IO_WRITE_REQ, .off = 6000 * K, .len = 1024 };
		m->b.buf = malloc(m->b.len);
		paint(m->b.buf, m->b.off, m->b.len, 3);
		lab_start(q, m->img, &m->b, &m->lq.clock);
		break;
	case BY_LIMBO:
	case BY_FLUSH:
		m->b = (struct lab_req){ .kind = PLT_IO_FLUSH_REQ };
		lab_start(q, m->img, &m->b, &m->lq.clock);
		break;
	case BY_GROWTH: /* the L1 table moves */
	case BY_SHRINKING:
		m->b = (struct lab_req){ .kind = PLT_IO_RESIZE_REQ, .flags = PLT_RESIZE_SHRINK,
					 .len = resized(m) };
		lab_start(q, m->img, &m->b, &m->lq.clock);
		break;
	default:
		exclusive_start(q, m->img, &m->x, m->rival == BY_GATE ? 1 : m->rival == BY_FULL_GATE ? 2 : 0);
	}
}

static bool all_done(const struct meeting *m)
{
	return m->a.done && m->other.done && m->read.done && (m->b.started ? m->b.done : m->x.done);
}

static void verify(struct meeting *m, struct plt_disk *disk)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct stage *st = m->st;
	uint64_t size = resized(m);
	uint8_t *want = calloc(1, 9000 * K), *got = malloc(size);

	if (st->parked != AT_LIMBO)
		paint(want, 0, st->old, 1);
	paint(want + 4096 * K, 4096 * K, 512, 1);
	if (m->rival == BY_LIMBO && st->parked != AT_LIMBO)
		memset(want + 512 * K, 0, 1024);
	paint(want + st->target, st->target, st->target_len, 2);
	paint(want + m->other.off, m->other.off, m->other.len, 4);
	if (m->rival == BY_WORK)
		paint(want + m->b.off, m->b.off, m->b.len, 3);
	ck_assert_uint_eq(plt_disk_size(disk), size);
	lab_must(plt_read(disk, 0, got, size, &err), &err);
	for (uint64_t i = 0; memcmp(want, got, size); i++)
		lab_expect(want[i] == got[i], "%s: byte %" PRIu64 " is %#x, not %#x", meeting_name(m), i, got[i],
			      want[i]);
	free(want);
	free(got);
}

static void meet(struct stage *st, enum rival rival, struct lab_order *o)
{
	struct plt_store *file = lab_copy(st->file);
	struct plt_disk *disk = lab_open(st->ctx, file, NULL);
	struct meeting m = { .st = st, .rival = rival, .o = o, .img = plt_disk_image(disk) };
	struct plt_error err = PLT_ERROR_INIT;
	unsigned n, steps = 0;
	uint8_t seen[512];

	prepare(st, disk);
	if (rival == BY_LIMBO && st->parked != AT_LIMBO && st->parked != AT_UNSHARE)
		lab_must(plt_discard(disk, 512 * K, 1024, &err), &err);
	if (st->parked == AT_LOAD) { /* cold again */
		lab_close(disk);
		disk = lab_open(st->ctx, file, NULL);
		m.img = plt_disk_image(disk);
		if (rival == BY_LIMBO) /* the tables of the target stay cold */
			lab_must(plt_discard(disk, 512 * K, 1024, &err), &err);
	}
	if (rival == BY_LIMBO && st->parked == AT_UNSHARE)
		lab_must(plt_discard(disk, 512 * K, 1024, &err), &err);
	lab_queue_new(&m.lq, st->ctx);
	m.lq.choose = watch;
	m.lq.arg = &m;
	m.a = (struct lab_req){ .kind = PLT_IO_WRITE_REQ, .off = st->target, .len = st->target_len };
	m.a.buf = malloc(m.a.len);
	paint(m.a.buf, m.a.off, m.a.len, 2);
	lab_start(m.lq.q, m.img, &m.a, &m.lq.clock);
	while (!is_parked(st, m.a.io)) {
		n = lab_settle(&m.lq);
		lab_expect(n && !m.a.done, "%s is not reached", parked_names[st->parked]);
		lab_complete(&m.lq, 0);
	}
	start_rival(&m);
	/* others come too: a write that follows, and a read */
	m.other = (struct lab_req){ .kind = PLT_IO_WRITE_REQ, .off = 300 * K, .len = 1536 };
	m.other.buf = malloc(m.other.len);
	paint(m.other.buf, m.other.off, m.other.len, 4);
	lab_start(m.lq.q, m.img, &m.other, &m.lq.clock);
	m.read = (struct lab_req){ .kind = PLT_IO_READ_REQ, .off = 4096 * K, .len = 512, .buf = seen };
	lab_start(m.lq.q, m.img, &m.read, &m.lq.clock);
	if (rival == BY_FULL_GATE)
		ck_assert(!m.read.done);
	while ((n = lab_settle(&m.lq))) {
		lab_expect(++steps < STEPS, "%s does not end", meeting_name(&m));
		lab_complete(&m.lq, lab_choose(o, n));
	}
	lab_expect(all_done(&m), "%s hangs: parked %d, rival %d, write %d, read %d", meeting_name(&m), m.a.done,
		      m.b.started ? m.b.done : m.x.done, m.other.done, m.read.done);
	lab_expect(!m.a.result && !m.b.result && !m.other.result && !m.read.result, "%s: %d %d %d %d %s",
		      meeting_name(&m), m.a.result, m.b.result, m.other.result, m.read.result, m.a.err.text);
	for (unsigned i = 0; st->pins && i < PINS; i++)
		plt_pins_drop(&st->pins[i]);
	free(st->pins);
	st->pins = NULL;
	lab_queue_free(&m.lq);
	verify(&m, disk);
	lab_close(disk);
	lab_check(st->ctx, file, meeting_name(&m));
	disk = lab_open(st->ctx, file, NULL);
	verify(&m, disk);
	lab_close(disk);
	free(m.a.buf);
	free(m.b.buf);
	free(m.other.buf);
	plt_store_unref(file);
}

START_TEST(every_need)
{
	uint64_t seed = plt_unit_seed();
	bool slow = getenv("PLT_SANITIZER");
	struct stage st;

	stage_new(&st, (enum parked)_i);
	for (enum rival r = 0; r < RIVALS; r++) {
		struct lab_order o = { 0 };
		unsigned left = slow ? 4 : 16;

		do
			meet(&st, r, &o);
		while (--left && lab_next(&o));
		for (unsigned i = 0; !left && i < (slow ? 4 : 16); i++) {
			o = (struct lab_order){ .random = true, .seed = plt_unit_random(&seed) };
			meet(&st, r, &o);
		}
	}
	stage_free(&st);
}
END_TEST

/* ---- a guessed raw image ---------------------------------------------------------------------- */

/*
 * Writes that are harmless one by one and make a header together, in every order of their operations:
 * one of them is refused, and what is there in the end is still raw.  The others succeed.
 */
static void guessed_order(struct lab_order *o)
{
	static const uint8_t halves[2][4] = { { 'Q', 'F', 'I', 0xfb }, { 0, 0, 0, 3 } };
	static const struct {
		enum plt_io_kind kind;
		uint64_t off, len;
	} what[] = {
		{ PLT_IO_WRITE_REQ, 0, 4 }, { PLT_IO_WRITE_REQ, 4, 4 }, { PLT_IO_ZERO_REQ, 512, 4096 },
		{ PLT_IO_WRITE_REQ, 100000, 100 }, { PLT_IO_RESIZE_REQ, 0, 2 << 20 },
	};
	struct plt_open_options oo = PLT_OPEN_OPTIONS_INIT;
	struct lab_req req[PLT_ARRAY_SIZE(what)] = { 0 };
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_ctx *ctx = lab_ctx(0);
	const struct plt_driver *drv;
	uint8_t buf[100] = { 7 };
	struct plt_store *file;
	struct plt_disk *disk;
	struct lab_queue lq;
	unsigned n, refused;

	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &file), 0);
	lab_must(plt_store_truncate(file, 1 << 20, &err), &err);
	oo.flags = PLT_OPEN_WRITE;
	lab_must(plt_disk_open_store(ctx, file, "guessed", NULL, &oo, &disk, &err), &err);
	lab_queue_new(&lq, ctx);
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(what); i++) {
		req[i].kind = what[i].kind;
		req[i].off = what[i].off;
		req[i].len = what[i].len;
		req[i].buf = i < 2 ? (uint8_t *)(uintptr_t)halves[i] : buf;
		lab_start(lq.q, plt_disk_image(disk), &req[i], &lq.clock);
	}
	while ((n = lab_settle(&lq)))
		lab_complete(&lq, lab_choose(o, n));
	refused = (req[0].result == -EPERM) + (req[1].result == -EPERM);
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(what); i++)
		lab_expect(req[i].done, "request %u has not ended; order %s", i, lab_order_text(o));
	lab_expect(refused == 1 && req[0].result + req[1].result == -EPERM, "%d, %d; order %s", req[0].result,
		   req[1].result, lab_order_text(o));
	ck_assert_int_eq(req[2].result, 0);
	ck_assert_int_eq(req[3].result, 0);
	lab_must(plt_probe(file, &drv, &err), &err);
	lab_expect(!strcmp(drv->name, "raw"), "is %s now; order %s", drv->name, lab_order_text(o));
	ck_assert_ptr_null(plt_disk_image(disk)->engine->ranges);
	lab_queue_free(&lq);
	lab_close(disk);
	plt_store_unref(file);
	plt_ctx_free(ctx);
}

START_TEST(guessed_raw_stays_raw)
{
	uint64_t seed = plt_unit_seed();
	struct lab_order o = { 0 };
	unsigned left = 300;

	do
		guessed_order(&o);
	while (--left && lab_next(&o));
	for (left = 300; left; left--) {
		o = (struct lab_order){ .random = true, .seed = plt_unit_random(&seed) };
		guessed_order(&o);
	}
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("block/needs");
	TCase *t = tcase_create("needs");

	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, every_need, 0, PARKED);
	tcase_add_test(t, guessed_raw_stays_raw);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
