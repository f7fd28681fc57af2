/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The way of completions and wakes from any thread to the owner of a ring.  The invariants: nothing
 * posted is ever missed by a sleeping owner (posting and falling asleep are ordered by one mutex),
 * and after the owner has taken the last completion no other thread touches the queue, so that the
 * ring may be freed.  System calls are made only for an owner that sleeps or polls.
 */
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "io/private.h"

void plt_completions_init(struct plt_completions *c)
{
	c->head = NULL;
	c->tail = &c->head;
	atomic_init(&c->some, false);
	c->woken = c->asleep = c->polled = c->drains = false;
	c->eventfd = -1;
	pthread_mutex_init(&c->mutex, NULL);
	pthread_cond_init(&c->posted, NULL);
}

void plt_completions_release(struct plt_completions *c)
{
	/* The last poster may still be on its way out of the mutex. */
	pthread_mutex_lock(&c->mutex);
	pthread_mutex_unlock(&c->mutex);
	if (c->eventfd >= 0)
		close(c->eventfd);
	pthread_cond_destroy(&c->posted);
	pthread_mutex_destroy(&c->mutex);
}

int plt_completions_poll(struct plt_completions *c)
{
	uint64_t one = 1;

	PLT_LOCK_SCOPE(&c->mutex);
	if (c->eventfd >= 0)
		return c->eventfd;
	c->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->eventfd < 0)
		return -1;
	if ((c->head || c->woken) && write(c->eventfd, &one, sizeof(one)) < 0)
		(void)errno; /* an empty counter takes it */
	c->polled = c->drains = true;
	return c->eventfd;
}

/* The mutex is held. */
static void alarm_owner(struct plt_completions *c)
{
	uint64_t one = 1;

	atomic_store(&c->some, true);
	if (c->asleep || c->polled) {
		/* It fails only when the counter is full, which is as good as one more. */
		if (c->eventfd >= 0 && write(c->eventfd, &one, sizeof(one)) < 0)
			(void)errno;
		c->asleep = false;
	}
	pthread_cond_signal(&c->posted);
}

void plt_completions_post(struct plt_completions *c, struct plt_op *op)
{
	op->next = NULL;
	PLT_LOCK_SCOPE(&c->mutex);
	*c->tail = op;
	c->tail = &op->next;
	alarm_owner(c);
}

void plt_completions_wake(struct plt_completions *c)
{
	PLT_LOCK_SCOPE(&c->mutex);
	c->woken = true;
	alarm_owner(c);
}

struct plt_op *plt_completions_take(struct plt_completions *c, bool wait)
{
	struct plt_op *list;
	uint64_t n;

	if (!wait && !atomic_load(&c->some))
		return NULL;
	PLT_LOCK_SCOPE(&c->mutex);
	while (wait && !c->head && !c->woken)
		pthread_cond_wait(&c->posted, &c->mutex);
	list = c->head;
	c->head = NULL;
	c->tail = &c->head;
	if (wait)
		c->woken = false;
	c->asleep = false;
	atomic_store(&c->some, false);
	if (c->drains && read(c->eventfd, &n, sizeof(n)) < 0)
		(void)errno; /* EAGAIN: it was empty */
	return list;
}

bool plt_completions_woken(struct plt_completions *c)
{
	bool woken;

	PLT_LOCK_SCOPE(&c->mutex);
	woken = c->woken;
	c->woken = false;
	return woken;
}

void plt_completions_always_signal(struct plt_completions *c)
{
	uint64_t one = 1;

	PLT_LOCK_SCOPE(&c->mutex);
	if ((c->head || c->woken) && write(c->eventfd, &one, sizeof(one)) < 0)
		(void)errno;
	c->polled = true;
}

bool plt_completions_doze(struct plt_completions *c)
{
	PLT_LOCK_SCOPE(&c->mutex);
	if (c->head || c->woken)
		return false;
	c->asleep = true;
	return true;
}

int plt_completions_run(struct plt_ring *ring, struct plt_op *list)
{
	int n = 0;

	while (list) {
		struct plt_op *op = list;

		/* done() may free or submit it again. */
		list = op->next;
		ring->inflight--;
		op->done(op);
		n++;
	}
	return n;
}
