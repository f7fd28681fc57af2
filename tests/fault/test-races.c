/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The rules of freeing that only another thread can break: a request that is held up inside the
 * store meets a cluster that is being given up.  Each is shown with the rule in force, and that it
 * would be noticed without.  And power cuts while several threads write and flush.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>

#include "base/checked.h"
#include "io/private.h"
#include "qcow2/qcow2.h"
#include "tests/fault/scenarios.h"
#include "tests/unit.h"

/* ---- a store that holds up one operation ----------------------------------------------------- */

enum held { HOLD_NOTHING, HOLD_READ, HOLD_DISCARD };

struct hold {
	struct plt_store st; /* first: freed as one */
	struct plt_store *below;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum held what; /* the next of these is held up */
	bool holding, open;
};

static void pass(struct hold *h, enum held what)
{
	pthread_mutex_lock(&h->lock);
	if (h->what == what) {
		h->what = HOLD_NOTHING;
		h->holding = true;
		pthread_cond_broadcast(&h->changed);
		while (!h->open)
			pthread_cond_wait(&h->changed, &h->lock);
	}
	pthread_mutex_unlock(&h->lock);
}

static void hold_close(struct plt_store *st)
{
	struct hold *h = st->priv;

	plt_store_unref(h->below);
	pthread_mutex_destroy(&h->lock);
	pthread_cond_destroy(&h->changed);
}

static int hold_size(struct plt_store *st, uint64_t *ret, struct plt_error *err)
{
	return plt_store_size(((struct hold *)st->priv)->below, ret, err);
}

static int hold_read(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
		     enum plt_io_tag tag, struct plt_error *err)
{
	struct hold *h = st->priv;

	if (tag == PLT_IO_DATA)
		pass(h, HOLD_READ);
	return plt_store_readv(h->below, off, iov, niov, tag, err);
}

static int hold_write(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
		      enum plt_io_tag tag, struct plt_error *err)
{
	return plt_store_writev(((struct hold *)st->priv)->below, off, iov, niov, tag, err);
}

static int hold_zero(struct plt_store *st, uint64_t off, uint64_t len, unsigned flags,
		     enum plt_io_tag tag, struct plt_error *err)
{
	return plt_store_zero(((struct hold *)st->priv)->below, off, len, flags, tag, err);
}

static int hold_discard(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	struct hold *h = st->priv;

	pass(h, HOLD_DISCARD);
	return plt_store_discard(h->below, off, len, err);
}

static const struct plt_store_ops hold_ops = {
	.kind = "hold",
	.close = hold_close,
	.size = hold_size,
	.read = hold_read,
	.write = hold_write,
	.zero = hold_zero,
	.discard = hold_discard,
};

static struct hold *hold_new(struct plt_store *below)
{
	struct hold *h = calloc(1, sizeof(*h));

	ck_assert_ptr_nonnull(h);
	ck_assert_int_eq(plt_store_init(&h->st, &hold_ops, "hold"), 0);
	h->st.priv = h;
	h->below = plt_store_ref(below);
	pthread_mutex_init(&h->lock, NULL);
	pthread_cond_init(&h->changed, NULL);
	return h;
}

static void hold_arm(struct hold *h, enum held what)
{
	pthread_mutex_lock(&h->lock);
	h->what = what;
	pthread_mutex_unlock(&h->lock);
}

static void hold_wait(struct hold *h)
{
	pthread_mutex_lock(&h->lock);
	while (!h->holding)
		pthread_cond_wait(&h->changed, &h->lock);
	pthread_mutex_unlock(&h->lock);
}

static void hold_open(struct hold *h)
{
	pthread_mutex_lock(&h->lock);
	h->open = true;
	pthread_cond_broadcast(&h->changed);
	pthread_mutex_unlock(&h->lock);
}

/* ---- held up --------------------------------------------------------------------------------- */

#define CS 4096u

struct race {
	struct rig *r;
	struct hold *h;
	uint8_t buf[CS];
	int result;
	_Atomic bool over;
};

static void set_up(struct race *c, uint64_t rules_off)
{
	static const struct rig_layout layout = {.options = "cluster_size=4096", .size = 64 * CS};

	memset(c, 0, sizeof(*c));
	c->r = rig_new(&layout, 1);
	rig_open(c->r);
	rig_must(c->r, rig_write(c->r, 0, 4 * CS));
	rig_close(c->r);
	c->h = hold_new(c->r->file);
	rig_must(c->r, rig_open_on(c->r, &c->h->st, NULL, rules_off));
	rig_must(c->r, rig_write(c->r, 8 * CS, CS)); /* the first write is behind us */
	rig_must(c->r, rig_flush(c->r));
}

static void tear_down(struct race *c)
{
	rig_close(c->r);
	plt_store_unref(&c->h->st);
	rig_free(c->r);
}

static void *reader(void *arg)
{
	struct race *c = arg;

	c->result = plt_read(c->r->disk, 0, c->buf, CS, NULL);
	return NULL;
}

static void *reuser(void *arg)
{
	struct race *c = arg;

	rig_must(c->r, rig_zero(c->r, 0, CS, PLT_ZERO_UNMAP));
	rig_must(c->r, rig_flush(c->r));
	rig_must(c->r, rig_write(c->r, 16 * CS, CS)); /* takes the lowest free cluster */
	atomic_store(&c->over, true);
	return NULL;
}

/* A read that was mapped before its cluster was given up.  True: it saw what belongs elsewhere. */
static bool late_read(uint64_t rules_off)
{
	struct race c;
	pthread_t a, b;
	uint64_t tag;

	set_up(&c, rules_off);
	hold_arm(c.h, HOLD_READ);
	ck_assert_int_eq(pthread_create(&a, NULL, reader, &c), 0);
	hold_wait(c.h);
	ck_assert_int_eq(pthread_create(&b, NULL, reuser, &c), 0);
	/* the cluster may not be used again while it is being read: this is to take its time */
	for (unsigned i = 0; i < 200 && !atomic_load(&c.over); i++)
		nanosleep(&(struct timespec){0, 1000 * 1000}, NULL);
	hold_open(c.h);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	ck_assert_int_eq(c.result, 0);
	tag = plt_get_le64(c.buf) >> 24;
	ck_assert(tag == 0 || tag == 16 * CS / RIG_UNIT);
	tear_down(&c);
	return tag != 0;
}

static void *freer(void *arg)
{
	struct race *c = arg;

	rig_must(c->r, rig_zero(c->r, 0, CS, PLT_ZERO_UNMAP));
	rig_must(c->r, rig_flush(c->r));
	return NULL;
}

/* A punch that takes its time.  True: it hit what was written meanwhile. */
static bool late_punch(uint64_t rules_off)
{
	struct race c;
	pthread_t a;
	bool bad;

	set_up(&c, rules_off);
	hold_arm(c.h, HOLD_DISCARD);
	ck_assert_int_eq(pthread_create(&a, NULL, freer, &c), 0);
	hold_wait(c.h);
	/* the other thread is in the middle of its flush, and makes no events any more */
	rig_must(c.r, rig_write(c.r, 16 * CS, CS));
	hold_open(c.h);
	pthread_join(a, NULL);
	rig_must(c.r, rig_flush(c.r));
	bad = rig_verify_disk(c.r, c.r->disk, c.r->nmarks - 1, c.r->nevents) < 0;
	tear_down(&c);
	return bad;
}

START_TEST(test_late_read)
{
	ck_assert_msg(!late_read(0), "a read saw another place's data");
	ck_assert_msg(late_read(UINT64_C(1) << PLT_RULE_LIMBO_DRAIN),
		      "the rule is off and nobody notices");
}
END_TEST

START_TEST(test_late_punch)
{
	ck_assert_msg(!late_punch(0), "a punch hit what was written after it");
	ck_assert_msg(late_punch(UINT64_C(1) << QCOW2_RULE_GONE_REUSE),
		      "the rule is off and nobody notices");
}
END_TEST

/* ---- several writers ------------------------------------------------------------------------- */

#define THREADS 3

struct writer {
	struct rig *r;
	uint64_t off, len, seed; /* its own part of the disk */
};

static void *writer(void *arg)
{
	struct writer *w = arg;
	uint64_t cs = rig_cluster(w->r);

	for (unsigned i = 0; i < 30; i++) {
		uint64_t grain = plt_unit_random(&w->seed) % 2 ? RIG_UNIT : cs, off, len;

		off = plt_align_down(plt_unit_random(&w->seed) % w->len, grain);
		len = plt_align_up(1 + plt_unit_random(&w->seed) % (3 * cs), grain);
		len = PLT_MIN(len, w->len - off);
		if (w->r->l->copies && plt_unit_random(&w->seed) % 3 == 0) {
			rig_must(w->r, rig_read(w->r, w->off + off, len));
			continue;
		}
		switch (plt_unit_random(&w->seed) % 8) {
		case 0:
			rig_must(w->r, rig_zero(w->r, w->off + off, len, PLT_ZERO_UNMAP));
			break;
		case 1:
			rig_must(w->r, rig_discard(w->r, w->off + off, len));
			break;
		case 2:
			if (plt_disk_can_compress(w->r->disk)) {
				rig_must(w->r, rig_compressed(w->r, w->off + plt_align_down(off, cs)));
				break;
			}
			/* fall through */
		case 3:
			rig_must(w->r, rig_flush(w->r));
			break;
		default:
			rig_must(w->r, rig_write(w->r, w->off + off, len));
		}
	}
	return NULL;
}

static const struct rig_layout shared_layouts[] = {
	{.options = "cluster_size=512", .size = 96 * 1024, .backing = true},
	{.options = "cluster_size=512,refcount_bits=64", .size = 96 * 1024},
	{.options = "cluster_size=1024,lazy_refcounts=on", .size = 96 * 1024, .backing = true},
	{.options = "cluster_size=4096", .size = 384 * 1024, .backing = true},
	{.options = "cluster_size=4096", .size = 384 * 1024, .backing = true, .copies = true},
	{.format = "vpc", .options = "force_size=on,block_size=1024", .size = 96 * 1024},
	{.format = "vpc", .options = "force_size=on,block_size=4096", .size = 192 * 1024, .backing = true},
	{.format = "vpc", .options = "force_size=on,block_size=2048", .size = 96 * 1024, .backing = true,
	 .copies = true},
};

/* So that they meet. */
static const struct plt_fault_rule delays[] = {
	{.ops = PLT_FAULT_SYNC, .tag = -1, .delay_us = 300},
	{.ops = PLT_FAULT_WRITE | PLT_FAULT_ZERO | PLT_FAULT_DISCARD, .tag = -1, .delay_us = 30},
};

START_TEST(test_writers)
{
	uint64_t seed = plt_unit_seed();
	struct powercut_limits limits = {.seed = seed, .total = getenv("PLT_SANITIZER") ? 500 : 1500};
	struct rig *r = rig_new(&shared_layouts[_i], seed);
	struct plt_store *log, *data, *slow;
	struct writer w[THREADS];
	pthread_t t[THREADS];
	int ret;

	rig_log(r, &log, &data);
	ck_assert_int_eq(plt_fault_new(log, &slow), 0);
	for (unsigned i = 0; i < PLT_ARRAY_SIZE(delays); i++)
		ck_assert_int_ge(plt_fault_add(slow, &delays[i]), 0);
	rig_must(r, rig_open_on(r, slow, NULL, 0));
	for (unsigned i = 0; i < THREADS; i++) {
		w[i] = (struct writer){r, i * (r->size / THREADS), r->size / THREADS, seed + i};
		ck_assert_int_eq(pthread_create(&t[i], NULL, writer, &w[i]), 0);
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	rig_close(r);
	plt_store_unref(slow);
	plt_store_unref(log);
	ret = rig_cut_power(r, &limits, NULL);
	ck_assert_msg(ret == 0, "%s: %s", shared_layouts[_i].options, r->violation);
	rig_free(r);
}
END_TEST

/* ---- a flush beside a writer that never rests -------------------------------------------------- */

struct restless {
	struct rig *r;
	_Atomic bool stop;
};

/* Publishes into the same few L2 slices without end. */
static void *restless(void *arg)
{
	static const uint8_t buf[512] = {1};
	struct restless *w = arg;

	for (uint64_t c = 0; !w->stop; c = (c + 1) % 256) {
		ck_assert_int_eq(plt_write(w->r->disk, c * 4096, buf, sizeof(buf), NULL), 0);
		if (c == 255) /* kept clusters: each write publishes again */
			ck_assert_int_eq(plt_write_zeroes(w->r->disk, 0, 256 * 4096, 0, NULL), 0);
	}
	return NULL;
}

START_TEST(test_flush_ends)
{
	static const struct rig_layout layout = {.options = "cluster_size=4096", .size = 4096 * 4096};
	static const struct plt_fault_rule slow_sync = {.ops = PLT_FAULT_SYNC, .tag = -1, .delay_us = 3000};
	struct restless w = {.r = rig_new(&layout, 1)};
	struct plt_store *slow;
	pthread_t t;

	ck_assert_int_eq(plt_fault_new(w.r->file, &slow), 0);
	ck_assert_int_ge(plt_fault_add(slow, &slow_sync), 0);
	rig_must(w.r, rig_open_on(w.r, slow, NULL, 0));
	ck_assert_int_eq(pthread_create(&t, NULL, restless, &w), 0);
	for (int i = 0; i < 10; i++) {
		uint64_t before = plt_fault_seen(slow, PLT_FAULT_SYNC), syncs;

		ck_assert_int_eq(plt_flush(w.r->disk, NULL), 0);
		syncs = plt_fault_seen(slow, PLT_FAULT_SYNC) - before;
		ck_assert_msg(syncs < 60, "one flush took %" PRIu64 " syncs", syncs);
	}
	w.stop = true;
	pthread_join(t, NULL);
	rig_close(w.r);
	plt_store_unref(slow);
	rig_free(w.r);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("fault/races");
	TCase *t = tcase_create("races");

	tcase_add_test(t, test_late_read);
	tcase_add_test(t, test_late_punch);
	tcase_add_loop_test(t, test_writers, 0, PLT_ARRAY_SIZE(shared_layouts));
	tcase_add_test(t, test_flush_ends);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
