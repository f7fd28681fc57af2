/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Locks of ranges of aligned units of one file, for stores that must read, modify and write a unit
 * to change a part of it.  The invariant: while a range is held exclusively nobody else holds any
 * byte of it.  Holders and waiters stand in the same two rings in the order in which they came; one
 * waits for those before it that conflict, so nobody is overtaken for ever.  The usual case, many
 * shared holders and nobody exclusive, looks at an empty ring.  Which ranges to lock, and when, is
 * left to direct.c and the rings.
 */
#include "io/private.h"

static void list_init(struct plt_unit_hold *head)
{
	head->next = head->prev = head;
}

static void list_append(struct plt_unit_hold *head, struct plt_unit_hold *h)
{
	h->next = head;
	h->prev = head->prev;
	h->prev->next = h;
	head->prev = h;
}

void plt_unitlock_init(struct plt_unitlock *ul)
{
	pthread_mutex_init(&ul->mutex, NULL);
	pthread_cond_init(&ul->released, NULL);
	ul->tickets = 0;
	ul->waiting = 0;
	list_init(&ul->shared);
	list_init(&ul->exclusive);
}

void plt_unitlock_release(struct plt_unitlock *ul)
{
	pthread_cond_destroy(&ul->released);
	pthread_mutex_destroy(&ul->mutex);
}

static bool conflicts(const struct plt_unit_hold *head, const struct plt_unit_hold *h)
{
	for (const struct plt_unit_hold *o = head->next; o != head; o = o->next) {
		if (o->ticket >= h->ticket)
			break;
		if (o->off < h->end && h->off < o->end)
			return true;
	}
	return false;
}

static bool must_wait(const struct plt_unitlock *ul, const struct plt_unit_hold *h)
{
	return conflicts(&ul->exclusive, h) || (h->exclusive && conflicts(&ul->shared, h));
}

static void set(struct plt_unitlock *ul, struct plt_unit_hold *h, uint64_t off, uint64_t end,
		bool exclusive)
{
	h->off = off;
	h->end = end;
	h->exclusive = exclusive;
	h->ticket = ul->tickets++;
}

void plt_unit_acquire(struct plt_unitlock *ul, struct plt_unit_hold *h, uint64_t off, uint64_t end,
		      bool exclusive)
{
	pthread_mutex_lock(&ul->mutex);
	set(ul, h, off, end, exclusive);
	list_append(exclusive ? &ul->exclusive : &ul->shared, h);
	while (must_wait(ul, h)) {
		ul->waiting++;
		pthread_cond_wait(&ul->released, &ul->mutex);
		ul->waiting--;
	}
	pthread_mutex_unlock(&ul->mutex);
}

bool plt_unit_try_shared(struct plt_unitlock *ul, struct plt_unit_hold *h, uint64_t off,
			 uint64_t end)
{
	bool ok;

	pthread_mutex_lock(&ul->mutex);
	set(ul, h, off, end, false);
	ok = !must_wait(ul, h);
	if (ok)
		list_append(&ul->shared, h);
	pthread_mutex_unlock(&ul->mutex);
	return ok;
}

void plt_unit_drop(struct plt_unitlock *ul, struct plt_unit_hold *h)
{
	pthread_mutex_lock(&ul->mutex);
	h->prev->next = h->next;
	h->next->prev = h->prev;
	if (ul->waiting)
		pthread_cond_broadcast(&ul->released);
	pthread_mutex_unlock(&ul->mutex);
}
