/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The rules of io/blkdebug.h, as the judge of a fault store.  Which events an operation raises is the
 * table below: by its tag and kind, in the order in which QEMU raises them around the same step.
 * Invariant: events and the check that follows them are one step under the lock, so a rule hits the
 * operation that raised its event and no other that runs beside it; only a held request lets go of
 * the lock, and is judged by what is armed when it goes on.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "io/blkdebug.h"

/* In the order of the events' introduction; the enum below names those that are raised here. */
static const char *const events[] = {
	"none", "read_aio", "write_aio", "flush_to_os", "flush_to_disk", "l2_load", "l2_update", "l2_alloc_write",
	"l1_update", "read_compressed", "write_compressed", "cow_read", "cow_write", "reftable_load",
	"reftable_update", "refblock_load", "refblock_update", "refblock_update_part", "cluster_free", "pwritev",
	"pwritev_zero", "pwritev_done",
	/* known, not raised */
	"l1_grow_alloc_table", "l1_grow_write_table", "l1_grow_activate_table", "l2_update_compressed",
	"l2_alloc_cow_read", "read_backing_aio", "vmstate_load", "vmstate_save", "reftable_grow",
	"refblock_alloc", "refblock_alloc_hookup", "refblock_alloc_write", "refblock_alloc_write_blocks",
	"refblock_alloc_write_table", "refblock_alloc_switch_table", "cluster_alloc", "cluster_alloc_bytes",
	"pwritev_rmw_head", "pwritev_rmw_after_head", "pwritev_rmw_tail", "pwritev_rmw_after_tail",
	"empty_image_prepare", "l1_shrink_write_table", "l1_shrink_free_l2_clusters", "cor_write",
	"cluster_alloc_space",
};

enum {
	NONE, READ_AIO, WRITE_AIO, FLUSH_TO_OS, FLUSH_TO_DISK, L2_LOAD, L2_UPDATE, L2_ALLOC_WRITE, L1_UPDATE,
	READ_COMPRESSED, WRITE_COMPRESSED, COW_READ, COW_WRITE, REFTABLE_LOAD, REFTABLE_UPDATE, REFBLOCK_LOAD,
	REFBLOCK_UPDATE, REFBLOCK_UPDATE_PART, CLUSTER_FREE, PWRITEV, PWRITEV_ZERO, PWRITEV_DONE,
};

struct rule {
	struct plt_blkdebug_rule rule;
	char *tag;            /* a breakpoint: not NULL */
	bool armed, used_up;
};

struct held {
	char *tag;
	bool go;
	struct held *next;
};

struct blkdebug {
	pthread_mutex_t lock;
	pthread_cond_t moved;  /* a request is let go */
	struct rule *rules;
	size_t n;
	int state;
	struct held *held;
};

/* ---- events ---------------------------------------------------------------------------------- */

#define EVENTS_MAX 3

/* Those that the operation raises before it is done. */
static unsigned events_of(enum plt_fault_op op, int tag, int v[EVENTS_MAX])
{
	static const int reads[PLT_IO_TAGS] = {
		[PLT_IO_DATA] = READ_AIO, [PLT_IO_COW] = COW_READ, [PLT_IO_COMPRESSED] = READ_COMPRESSED,
		[PLT_IO_L2] = L2_LOAD, [PLT_IO_REFTABLE] = REFTABLE_LOAD, [PLT_IO_REFBLOCK] = REFBLOCK_LOAD,
	};
	static const int writes[PLT_IO_TAGS][2] = {
		[PLT_IO_DATA] = { WRITE_AIO }, [PLT_IO_COW] = { COW_WRITE, WRITE_AIO },
		[PLT_IO_COMPRESSED] = { WRITE_COMPRESSED }, [PLT_IO_L1] = { L1_UPDATE }, [PLT_IO_L2] = { L2_UPDATE },
		[PLT_IO_REFTABLE] = { REFTABLE_UPDATE }, [PLT_IO_REFBLOCK] = { REFBLOCK_UPDATE, REFBLOCK_UPDATE_PART },
	};
	unsigned n = 0;

	switch (op) {
	case PLT_FAULT_READ:
		if (reads[tag])
			v[n++] = reads[tag];
		break;
	case PLT_FAULT_WRITE:
		for (unsigned i = 0; i < 2 && writes[tag][i]; i++)
			v[n++] = writes[tag][i];
		v[n++] = PWRITEV;
		break;
	case PLT_FAULT_ZERO:
		if (tag == PLT_IO_L2)
			v[n++] = L2_ALLOC_WRITE;
		v[n++] = PWRITEV_ZERO;
		break;
	case PLT_FAULT_DISCARD:
		v[n++] = CLUSTER_FREE;
		break;
	case PLT_FAULT_SYNC:
		v[n++] = FLUSH_TO_OS;
		v[n++] = FLUSH_TO_DISK;
		break;
	default:
		break;
	}
	return n;
}

/* Wait until somebody lets the request go.  Lock held, and let go of meanwhile. */
static void hold(struct blkdebug *b, struct rule *r)
{
	struct held h = { .tag = plt_steal(&r->tag), .next = b->held };

	r->used_up = true; /* a breakpoint holds one request */
	b->held = &h;
	while (!h.go)
		pthread_cond_wait(&b->moved, &b->lock);
	for (struct held **p = &b->held; *p; p = &(*p)->next)
		if (*p == &h) {
			*p = h.next;
			break;
		}
	free(h.tag);
}

static void raise_event(struct blkdebug *b, int event)
{
	int new_state = b->state;
	bool first = true;

	/* the newest rule first, so the oldest has the last word on the state */
	for (size_t i = b->n; i-- > 0;) {
		struct rule *r = &b->rules[i];

		if (r->used_up || r->tag || r->rule.event != event || (r->rule.state && r->rule.state != b->state))
			continue;
		if (r->rule.set_state) {
			new_state = r->rule.new_state;
			continue;
		}
		for (size_t j = 0; first && j < b->n; j++)
			b->rules[j].armed = false;
		first = false;
		r->armed = true;
	}
	b->state = new_state;
	for (size_t i = 0; i < b->n; i++) /* the rules may move while one is held */
		if (b->rules[i].tag && !b->rules[i].used_up && b->rules[i].rule.event == event)
			hold(b, &b->rules[i]);
}

static int verdict(struct blkdebug *b, unsigned iotype, uint64_t off, uint64_t len)
{
	for (size_t i = 0; i < b->n; i++) {
		struct rule *r = &b->rules[i];

		if (!r->armed || r->used_up || !(r->rule.iotypes & iotype))
			continue;
		if (r->rule.off != UINT64_MAX && !(r->rule.off >= off && r->rule.off - off < len))
			continue;
		if (r->rule.error && r->rule.once)
			r->used_up = true;
		return r->rule.error;
	}
	return 0;
}

static int before(void *arg, enum plt_fault_op op, int tag, uint64_t off, uint64_t len)
{
	static const unsigned iotypes[] = { PLT_BLKDEBUG_READ, PLT_BLKDEBUG_WRITE, PLT_BLKDEBUG_FLUSH,
					    PLT_BLKDEBUG_WRITE_ZEROES, PLT_BLKDEBUG_DISCARD, 0 /* truncate */,
					    PLT_BLKDEBUG_BLOCK_STATUS };
	struct blkdebug *b = arg;
	int v[EVENTS_MAX];

	PLT_LOCK_SCOPE(&b->lock);
	for (unsigned i = 0, n = events_of(op, tag, v); i < n; i++)
		raise_event(b, v[i]);
	return verdict(b, iotypes[__builtin_ctz(op)], off, len);
}

static void after(void *arg, enum plt_fault_op op)
{
	struct blkdebug *b = arg;

	if (op != PLT_FAULT_WRITE && op != PLT_FAULT_ZERO)
		return;
	PLT_LOCK_SCOPE(&b->lock);
	raise_event(b, PWRITEV_DONE);
}

/* ---- breakpoints ----------------------------------------------------------------------------- */

/* Let requests held as @tag (NULL: all) go, one or all.  How many. */
static unsigned let_go(struct blkdebug *b, const char *tag, bool all)
{
	unsigned n = 0;

	for (struct held *h = b->held; h && (all || !n); h = h->next) {
		if (h->go || (tag && strcmp(h->tag, tag)))
			continue;
		h->go = true;
		n++;
	}
	pthread_cond_broadcast(&b->moved);
	return n;
}

static unsigned remove_breaks(struct blkdebug *b, const char *tag)
{
	unsigned n = 0;

	for (size_t i = 0; i < b->n; i++) {
		struct rule *r = &b->rules[i];

		if (!r->tag || (tag && strcmp(r->tag, tag)))
			continue;
		r->used_up = true;
		free(r->tag);
		r->tag = NULL;
		n++;
	}
	return n;
}

/* Space for one rule more: one that is used up, or new.  Lock held. */
static struct rule *new_rule(struct blkdebug *b)
{
	struct rule *grown;

	grown = realloc(b->rules, (b->n + 1) * sizeof(*grown));
	if (!grown)
		return NULL;
	b->rules = grown;
	return memset(&b->rules[b->n++], 0, sizeof(*grown));
}

static struct blkdebug *blkdebug_of(struct plt_store *st)
{
	const struct plt_fault_judge *j = plt_fault_judge(st);

	return j && j->before == before ? j->arg : NULL;
}

int plt_blkdebug_do(struct plt_store *st, enum plt_debug_verb verb, const char *event, const char *tag)
{
	struct blkdebug *b = blkdebug_of(st);
	unsigned n = 0;

	PLT_LOCK_SCOPE(&b->lock);
	switch (verb) {
	case PLT_DEBUG_BREAK: {
		int e = plt_blkdebug_event(event);
		char *copy = strdup(tag);
		struct rule *r = e >= 0 && copy ? new_rule(b) : NULL;

		if (!r) {
			free(copy);
			return e < 0 ? -ENOENT : -ENOMEM;
		}
		r->rule.event = e;
		r->tag = copy;
		return 0;
	}
	case PLT_DEBUG_RESUME:
		return let_go(b, tag, false) ? 0 : -ENOENT;
	case PLT_DEBUG_REMOVE:
		n = remove_breaks(b, tag);
		n += let_go(b, tag, true);
		return n ? 0 : -ENOENT;
	case PLT_DEBUG_SUSPENDED:
		for (struct held *h = b->held; h; h = h->next)
			if (!h->go && !strcmp(h->tag, tag))
				return 1;
		return 0;
	case PLT_DEBUG_RELEASE:
		(void)remove_breaks(b, NULL);
		(void)let_go(b, NULL, true);
		return 0;
	}
	return -EINVAL;
}

/* ---- the store ------------------------------------------------------------------------------- */

static void blkdebug_free(void *arg)
{
	struct blkdebug *b = arg;

	for (size_t i = 0; i < b->n; i++)
		free(b->rules[i].tag);
	free(b->rules);
	pthread_cond_destroy(&b->moved);
	pthread_mutex_destroy(&b->lock);
	free(b);
}

int plt_blkdebug_new(struct plt_store *below, struct plt_store **ret)
{
	struct blkdebug *b = calloc(1, sizeof(*b));
	int r = b ? plt_fault_new(below, ret) : -ENOMEM;

	if (r < 0) {
		free(b);
		return r;
	}
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->moved, NULL);
	b->state = 1;
	plt_fault_set_judge(*ret, &(struct plt_fault_judge){ before, after, blkdebug_free, b });
	return 0;
}

bool plt_blkdebug_is(struct plt_store *st)
{
	return blkdebug_of(st) != NULL;
}

int plt_blkdebug_add(struct plt_store *st, const struct plt_blkdebug_rule *rule)
{
	struct blkdebug *b = blkdebug_of(st);
	struct rule *r;

	PLT_LOCK_SCOPE(&b->lock);
	r = new_rule(b);
	if (!r)
		return -ENOMEM;
	r->rule = *rule;
	return 0;
}

void plt_blkdebug_start(struct plt_store *st)
{
	struct blkdebug *b = blkdebug_of(st);

	PLT_LOCK_SCOPE(&b->lock);
	raise_event(b, NONE);
}

/* ---- names ----------------------------------------------------------------------------------- */

int plt_blkdebug_event(const char *name)
{
	for (size_t i = 0; i < PLT_ARRAY_SIZE(events); i++)
		if (!strcmp(name, events[i]))
			return (int)i;
	return -1;
}

unsigned plt_blkdebug_iotype(const char *name)
{
	static const char *const names[] = { "read", "write", "write-zeroes", "discard", "flush", "block-status" };

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(names); i++)
		if (!strcmp(name, names[i]))
			return 1u << i;
	return 0;
}
