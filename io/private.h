/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_IO_PRIVATE_H
#define PLT_IO_PRIVATE_H

/*
 * What the files of io/ share among themselves: the words of I/O errors, locks of aligned units,
 * the file store's insides (for the rings), and the queue on which completions come back.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "io/ring.h"
#include "io/store.h"

/* store.c */

/*
 * "Could not WHAT LEN bytes at offset OFF of 'NAME': strerror".  @errnum positive; returns -errnum.
 */
int plt_io_error(struct plt_error *err, int errnum, const char *what, const struct plt_store *st,
		 uint64_t off, uint64_t len);
/* @below's limits and read-only state, for a store that passes everything on to it. */
void plt_store_inherit(struct plt_store *st, const struct plt_store *below);

/* unitlock.c */

/*
 * Locks of ranges of aligned units in one file: shared for writes that cover whole units, exclusive
 * for read-modify-write.  First come, first served.  No thread may wait for a lock while it is the
 * one that would have to release another that conflicts.
 */
struct plt_unit_hold {
	uint64_t off, end; /* end UINT64_MAX: to the end of everything */
	uint64_t ticket;
	bool exclusive;
	struct plt_unit_hold *next, *prev;
};

struct plt_unitlock {
	pthread_mutex_t mutex;
	pthread_cond_t released;
	uint64_t tickets;
	unsigned waiting;
	struct plt_unit_hold shared, exclusive; /* heads of rings, in the order of tickets */
};

void plt_unitlock_init(struct plt_unitlock *ul);
void plt_unitlock_release(struct plt_unitlock *ul);
void plt_unit_acquire(struct plt_unitlock *ul, struct plt_unit_hold *h, uint64_t off, uint64_t end,
		      bool exclusive);
/* Shared, without waiting; false: somebody holds or wants it exclusively. */
bool plt_unit_try_shared(struct plt_unitlock *ul, struct plt_unit_hold *h, uint64_t off,
			 uint64_t end);
void plt_unit_drop(struct plt_unitlock *ul, struct plt_unit_hold *h);

/* file.c, direct.c, device.c */

struct plt_file {
	struct plt_store st; /* first: freed as one */
	int fd;
	bool direct; /* O_DIRECT is set: limits.align > 1 */
	bool no_lock;
	uint32_t mem_align;	   /* of memory, under O_DIRECT */
	struct plt_unitlock units; /* used only if direct */
	_Atomic bool no_punch, no_zero_range, no_fallocate, no_seek;
	pthread_mutex_t mutex; /* the fields below */
	unsigned held_perm, held_shared;
	uint64_t data_off, data_end; /* last run of data that the filesystem named; empty: none */
};

extern const struct plt_store_ops plt_file_ops, plt_device_ops;

/* NULL if @st is neither a regular file nor a block device of ours. */
struct plt_file *plt_file_of(struct plt_store *st);

int plt_file_size(struct plt_store *st, uint64_t *ret, struct plt_error *err);
int plt_file_read(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
		  enum plt_io_tag tag, struct plt_error *err);
int plt_file_write(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
		   enum plt_io_tag tag, struct plt_error *err);
int plt_file_sync(struct plt_store *st, struct plt_error *err);
int plt_file_lock(struct plt_store *st, unsigned perm, unsigned shared, struct plt_error *err);
int plt_file_fd(struct plt_store *st);
int64_t plt_file_allocated(struct plt_store *st);
void plt_file_close(struct plt_store *st);
/* fallocate() that repeats EINTR; 0 or -errno. */
int plt_file_fallocate(struct plt_file *f, int mode, uint64_t off, uint64_t len);

/* Whole transfers on a descriptor; reads past the end of the file give zeros.  0 or -errno. */
int plt_fd_read(int fd, uint64_t off, const struct iovec *iov, int niov, uint32_t align);
int plt_fd_write(int fd, uint64_t off, const struct iovec *iov, int niov);

/* Whether the kernel takes this request under O_DIRECT as it is. */
bool plt_direct_aligned(const struct plt_file *f, uint64_t off, const struct iovec *iov, int niov);
int plt_direct_read(struct plt_file *f, uint64_t off, const struct iovec *iov, int niov);
int plt_direct_write(struct plt_file *f, uint64_t off, const struct iovec *iov, int niov);
/*
 * Lock the units of a change that does not pass through plt_direct_write(): exclusive unless it
 * covers whole units.  Nothing if the file is not direct.  Drop with plt_direct_drop().
 */
void plt_direct_acquire(struct plt_file *f, struct plt_unit_hold *h, uint64_t off, uint64_t end);
void plt_direct_drop(struct plt_file *f, struct plt_unit_hold *h);
/* Find what O_DIRECT asks of requests on f->fd: sets limits.align and mem_align. */
void plt_direct_probe(struct plt_file *f);

/* Limits of the block device under f->fd. */
int plt_device_init(struct plt_file *f, struct plt_error *err);

/* completion.c */

/*
 * Completions on their way to the owner of a ring.  Any thread posts and wakes; the owner takes.
 * An event descriptor is used only where the owner sleeps on descriptors.
 */
struct plt_completions {
	pthread_mutex_t mutex;
	pthread_cond_t posted;
	struct plt_op *head, **tail;
	_Atomic bool some; /* anything to take: a look without the lock */
	bool woken;
	bool asleep; /* the owner waits (or polls) on the descriptor */
	bool polled; /* somebody polls the descriptor at any time */
	bool drains; /* take empties the descriptor (a ring may read it in other ways) */
	int eventfd; /* -1: none */
};

void plt_completions_init(struct plt_completions *c);
void plt_completions_release(struct plt_completions *c);
/*
 * For an owner that sleeps in poll: the descriptor, readable while there is something to take; -1.
 */
int plt_completions_poll(struct plt_completions *c);
void plt_completions_post(struct plt_completions *c, struct plt_op *op);
void plt_completions_wake(struct plt_completions *c);
/*
 * All that is there, oldest first.  With @wait sleep until there is some or a wake, and clear that.
 */
struct plt_op *plt_completions_take(struct plt_completions *c, bool wait);
/* Whether there was a wake; it is cleared. */
bool plt_completions_woken(struct plt_completions *c);
/* From now on post and wake write to the descriptor, asleep or not. */
void plt_completions_always_signal(struct plt_completions *c);
/* About to sleep on the descriptor: false if there is something to take already. */
bool plt_completions_doze(struct plt_completions *c);
/* Run done() of each; returns how many. */
int plt_completions_run(struct plt_ring *ring, struct plt_op *list);

#endif
