/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_BASE_CLEANUP_H
#define PLT_BASE_CLEANUP_H

/* Scope cleanup: PLT_CLEANUP(fn) calls fn on the variable's address when it leaves scope. */
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#define PLT_CLEANUP(fn) __attribute__((cleanup(fn)))

static inline void plt_freep(void *pp)
{
	free(*(void **)pp);
}

static inline void plt_closep(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void plt_unlockp(pthread_mutex_t **m)
{
	if (*m)
		pthread_mutex_unlock(*m);
}

static inline pthread_mutex_t *plt_lock_ret(pthread_mutex_t *m)
{
	pthread_mutex_lock(m);
	return m;
}

#define PLT_AUTOFREE PLT_CLEANUP(plt_freep)
#define PLT_AUTOCLOSE PLT_CLEANUP(plt_closep)

/* Hold @m until the end of the enclosing scope. */
#define PLT_LOCK_SCOPE_2(m, line)                                                                  \
	pthread_mutex_t *plt_scope_lock_##line PLT_CLEANUP(plt_unlockp) = plt_lock_ret(m);         \
	(void)plt_scope_lock_##line
#define PLT_LOCK_SCOPE_1(m, line) PLT_LOCK_SCOPE_2(m, line)
#define PLT_LOCK_SCOPE(m) PLT_LOCK_SCOPE_1(m, __LINE__)

/* Hand ownership out of a cleanup variable: returns the pointer and sets the variable to NULL. */
#define plt_steal(pp)                                                                              \
	__extension__({                                                                            \
		__typeof__(*(pp)) plt_stolen = *(pp);                                              \
		*(pp) = NULL;                                                                      \
		plt_stolen;                                                                        \
	})

#endif
