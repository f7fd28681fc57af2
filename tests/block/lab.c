/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The workbench of the block layer's suites: see lab.h.  Nothing here expects anything of the engine
 * beyond that its calls succeed.
 */
#include "tests/block/lab.h"

#include <inttypes.h>
#include <stdio.h>

void lab_must(int r, const struct plt_error *err)
{
	lab_expect(r >= 0, "%d (%s): %s", r, strerror(-r), err ? err->text : "");
}

struct plt_ctx *lab_ctx(unsigned workers)
{
	struct plt_ctx_options o = PLT_CTX_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_ctx *ctx;

	o.cache_bytes = 1 << 20;
	o.workers = workers;
	lab_must(plt_ctx_new(&o, &ctx, &err), &err);
	lab_must(plt_ctx_add_object(ctx, "secret,id=s,data=lab", &err), &err);
	return ctx;
}

/* ---- images ---------------------------------------------------------------------------------- */

void lab_create(struct plt_ctx *ctx, struct plt_store *file, const char *options, uint64_t size, bool backing)
{
	struct plt_create_options c = PLT_CREATE_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	const char *v[] = { options, NULL };

	c.format = "qcow2";
	c.options = options ? v : NULL;
	c.virtual_size = size;
	c.flags = PLT_CREATE_UNCHECKED_BACKING;
	if (backing) {
		c.backing = "base";
		c.backing_format = "raw";
	}
	lab_must(plt_create_store(ctx, file, "top", &c, NULL, &err), &err);
}

struct plt_disk *lab_open(struct plt_ctx *ctx, struct plt_store *file, struct plt_store *base)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_error err = PLT_ERROR_INIT;
	static const char *const key[] = { "encrypt.key-secret=s", NULL }; /* should it be encrypted */
	struct plt_disk *disk, *b;

	o.options = key;
	o.flags = PLT_OPEN_WRITE | PLT_OPEN_NO_BACKING;
	lab_must(plt_disk_open_store(ctx, file, "top", "qcow2", &o, &disk, &err), &err);
	if (base) {
		o.flags = 0;
		o.options = NULL;
		lab_must(plt_disk_open_store(ctx, base, "base", "raw", &o, &b, &err), &err);
		plt_disk_attach_backing(disk, b);
	}
	return disk;
}

void lab_close(struct plt_disk *disk)
{
	struct plt_error err = PLT_ERROR_INIT;

	lab_must(plt_disk_close(disk, &err), &err);
}

static void no_finding(void *arg, const struct plt_check_finding *f)
{
	ck_abort_msg("%s: check: %s: %s", (const char *)arg, f->id, f->text);
}

void lab_check(struct plt_ctx *ctx, struct plt_store *file, const char *what)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_check_result res;

	lab_must(plt_check_store(ctx, file, "top", "qcow2", no_finding, (void *)(uintptr_t)what, &res, &err), &err);
	ck_assert_uint_eq(res.corruptions + res.leaks + res.check_errors, 0);
}

struct plt_store *lab_copy(struct plt_store *file)
{
	struct plt_store *st;
	size_t len;
	const void *p = plt_memory_data(file, &len);

	ck_assert_int_eq(plt_memory_new(p, len, 0, &st), 0);
	return st;
}

/* ---- a snapshot by hand ---------------------------------------------------------------------- */

#define OFFSET UINT64_C(0x00fffffffffffe00)
#define COPIED (UINT64_C(1) << 63)
#define PACKED (UINT64_C(1) << 62)

struct bytes {
	uint8_t *p;
	size_t len;
	unsigned bits;
	uint64_t cs;
};

static void add_count(struct bytes *b, uint64_t cluster, unsigned n)
{
	uint64_t per = b->cs / 2, table = plt_get_be64(b->p + 48);
	uint64_t block = plt_get_be64(b->p + table + cluster / per * 8) & OFFSET;
	uint8_t *c = b->p + block + cluster % per * 2;

	ck_assert_uint_ne(block, 0);
	plt_put_be16(c, (uint16_t)(plt_get_be16(c) + n));
}

static uint64_t append(struct bytes *b, size_t len)
{
	size_t at = plt_align_up(b->len, b->cs), end = at + plt_align_up(len, b->cs);

	b->p = realloc(b->p, end);
	memset(b->p + b->len, 0, end - b->len);
	b->len = end;
	for (size_t i = at; i < end; i += b->cs)
		add_count(b, i / b->cs, 1);
	return at;
}

static void share_table(struct bytes *b, uint64_t l2, unsigned entry)
{
	for (uint64_t i = 0; i < b->cs; i += entry) {
		uint8_t *p = b->p + l2 + i;
		uint64_t e = plt_get_be64(p), off = e & OFFSET;
		unsigned x = 62 - (b->bits - 8);

		if (e & PACKED) {
			off = e & ((UINT64_C(1) << x) - 1);
			uint64_t sectors = e >> x & ((UINT64_C(1) << (b->bits - 8)) - 1);
			uint64_t last = (off & ~UINT64_C(511)) + sectors * 512 + 511;

			for (uint64_t c = off / b->cs; c <= last / b->cs; c++)
				add_count(b, c, 1);
		} else if (off) {
			add_count(b, off / b->cs, 1);
			plt_put_be64(p, e & ~COPIED);
		}
	}
}

void lab_snapshot(struct plt_store **file)
{
	struct bytes b = { 0 };
	uint64_t l1, n, copy, snap;
	const void *data = plt_memory_data(*file, &b.len);
	unsigned entry;

	b.p = malloc(b.len);
	memcpy(b.p, data, b.len);
	b.bits = plt_get_be32(b.p + 20);
	b.cs = UINT64_C(1) << b.bits;
	ck_assert_uint_eq(plt_get_be32(b.p + 4) >= 3 ? plt_get_be32(b.p + 96) : 4, 4);
	entry = plt_get_be32(b.p + 4) >= 3 && plt_get_be64(b.p + 72) & 16 ? 16 : 8;
	l1 = plt_get_be64(b.p + 40);
	n = plt_get_be32(b.p + 36);
	copy = append(&b, n * 8);
	snap = append(&b, 64);
	for (uint64_t i = 0; i < n; i++) {
		uint64_t e = plt_get_be64(b.p + l1 + i * 8);

		if (!(e & OFFSET))
			continue;
		share_table(&b, e & OFFSET, entry);
		add_count(&b, (e & OFFSET) / b.cs, 1);
		plt_put_be64(b.p + l1 + i * 8, e & ~COPIED);
		plt_put_be64(b.p + copy + i * 8, e & ~COPIED);
	}
	plt_put_be64(b.p + snap, copy);
	plt_put_be32(b.p + snap + 8, (uint32_t)n);
	plt_put_be16(b.p + snap + 12, 1); /* id, name */
	plt_put_be16(b.p + snap + 14, 1);
	plt_put_be32(b.p + snap + 36, 16); /* extra data: large VM state, disk size */
	plt_put_be64(b.p + snap + 48, plt_get_be64(b.p + 24));
	memcpy(b.p + snap + 56, "1s", 2);
	plt_put_be32(b.p + 60, 1);
	plt_put_be64(b.p + 64, snap);
	plt_store_unref(*file);
	ck_assert_int_eq(plt_memory_new(b.p, b.len, 0, file), 0);
	free(b.p);
}

/* ---- a store that calls back ----------------------------------------------------------------- */

struct hooked {
	struct plt_store st;
	struct plt_store *below;
	struct lab_hook *hook;
};

static int call(struct plt_store *st, enum lab_event ev, uint64_t off, uint64_t len, enum plt_io_tag tag)
{
	struct hooked *h = st->priv;

	return h->hook->fn ? h->hook->fn(h->hook->arg, ev, off, len, tag) : 0;
}

static void hooked_close(struct plt_store *st)
{
	plt_store_unref(((struct hooked *)st->priv)->below);
}

static int hooked_size(struct plt_store *st, uint64_t *ret, struct plt_error *err)
{
	return plt_store_size(((struct hooked *)st->priv)->below, ret, err);
}

static int hooked_read(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov, enum plt_io_tag tag,
		       struct plt_error *err)
{
	int r = call(st, LAB_READ, off, plt_iov_len(iov, niov), tag);

	return r < 0 ? plt_error_set(err, -r, "read refused by the test") :
		       plt_store_readv(((struct hooked *)st->priv)->below, off, iov, niov, tag, err);
}

static int hooked_write(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov, enum plt_io_tag tag,
			struct plt_error *err)
{
	int r = call(st, LAB_WRITE, off, plt_iov_len(iov, niov), tag);

	return r < 0 ? plt_error_set(err, -r, "write refused by the test") :
		       plt_store_writev(((struct hooked *)st->priv)->below, off, iov, niov, tag, err);
}

static int hooked_discard(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	int r = call(st, LAB_DISCARD, off, len, PLT_IO_OTHER);

	return r < 0 ? plt_error_set(err, -r, "discard refused by the test") :
		       plt_store_discard(((struct hooked *)st->priv)->below, off, len, err);
}

static int hooked_sync(struct plt_store *st, struct plt_error *err)
{
	int r = call(st, LAB_SYNC, 0, 0, PLT_IO_OTHER);

	return r < 0 ? plt_error_set(err, -r, "sync refused by the test") :
		       plt_store_sync(((struct hooked *)st->priv)->below, err);
}

static const struct plt_store_ops hooked_ops = {
	.kind = "hooked",
	.close = hooked_close,
	.size = hooked_size,
	.read = hooked_read,
	.write = hooked_write,
	.discard = hooked_discard,
	.sync = hooked_sync,
};

struct plt_store *lab_hooked(struct plt_store *below, struct lab_hook *hook)
{
	struct hooked *h = calloc(1, sizeof(*h));

	ck_assert_int_eq(plt_store_init(&h->st, &hooked_ops, "hooked"), 0);
	h->st.priv = h;
	h->below = plt_store_ref(below);
	h->hook = hook;
	return &h->st;
}

/* ---- choices --------------------------------------------------------------------------------- */

unsigned lab_choose(struct lab_order *o, unsigned n)
{
	unsigned c = 0, i = o->n;

	lab_expect(i < LAB_CHOICES, "the requests do not end (%u steps)", i);
	if (i < o->fixed)
		c = o->pick[i] % n;
	else if (o->random)
		c = (unsigned)(plt_unit_random(&o->seed) % n);
	o->pick[i] = (uint16_t)c;
	o->of[i] = (uint16_t)n;
	o->n = i + 1;
	return c;
}

bool lab_next(struct lab_order *o)
{
	unsigned i = o->n;

	while (i && o->pick[i - 1] + 1 == o->of[i - 1])
		i--;
	o->n = 0;
	o->fixed = i;
	if (!i)
		return false;
	o->pick[i - 1]++;
	return true;
}

const char *lab_order_text(const struct lab_order *o)
{
	static char text[1024];
	size_t n = 0;

	text[0] = 0;
	for (unsigned i = 0; i < o->n && n < sizeof(text) - 16; i++)
		if (o->of[i] > 1)
			n += (size_t)sprintf(text + n, "%u/%u ", o->pick[i], o->of[i]);
	return text;
}

/* ---- requests -------------------------------------------------------------------------------- */

static unsigned pick(void *arg, struct plt_op *const *pending, unsigned n)
{
	struct lab_queue *lq = arg;

	lq->picked = true;
	if (lq->choose)
		return lq->choose(lq->arg, pending, n);
	lab_expect(lq->next < n, "operation %u of %u", lq->next, n);
	return lq->next;
}

void lab_queue_new(struct lab_queue *lq, struct plt_ctx *ctx)
{
	struct plt_ring *ring;

	memset(lq, 0, sizeof(*lq));
	ck_assert_int_eq(plt_ring_test_new(pick, lq, &ring), 0);
	ck_assert_int_eq(plt_queue_new(ctx, ring, false, &lq->q), 0);
}

void lab_queue_free(struct lab_queue *lq)
{
	ck_assert_uint_eq(plt_ring_test_pending(lq->q->ring), 0);
	plt_queue_free(lq->q);
}

static void req_done(struct plt_io *io)
{
	struct lab_req *r = io->arg;

	lab_expect(!r->done, "a request completed twice");
	r->done = true;
	r->io = NULL;
	r->result = io->result;
	r->ended = ++*r->clock;
	r->err = io->err;
}

void lab_start(struct plt_queue *q, struct plt_image *img, struct lab_req *r, uint64_t *clock)
{
	struct plt_io *io = plt_io_new(q, NULL, img, r->kind);

	lab_expect(io, "no memory");
	r->iov = (struct iovec){ r->buf, r->len };
	io->off = io->pos = r->off;
	io->len = r->len;
	io->iov = &r->iov;
	io->niov = 1;
	io->flags = r->kind == PLT_IO_COMPRESSED_REQ ? (unsigned)img->drv->codec(img) : r->flags;
	io->done = req_done;
	io->arg = r;
	r->io = io;
	r->started = true;
	r->clock = clock;
	r->begun = ++*clock;
	plt_io_start(io);
}

unsigned lab_settle(struct lab_queue *lq)
{
	plt_queue_poll(lq->q, false);
	return plt_ring_test_pending(lq->q->ring);
}

void lab_complete(struct lab_queue *lq, unsigned i)
{
	lq->next = i;
	lq->picked = false;
	lq->steps++;
	while (!lq->picked)
		plt_queue_poll(lq->q, true);
}
