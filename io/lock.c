/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Image locks that QEMU understands (io/lock.h has the bytes).  The invariant: new locks are taken
 * before conflicts are looked for, and old ones are dropped only afterwards; so of two processes
 * that come at the same moment at least one sees the other, and a failure leaves what was held.
 */
#include "io/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/error.h"
#include "io/store.h"

#define PERM_BASE 100
#define UNSHARED_BASE 200
#define PERMS 4

static const char *const perm_names[PERMS] = { "consistent read", "write", "write unchanged",
					       "resize" };

static _Atomic bool no_ofd;

/* F_SETLK or F_GETLK of one byte; fills *fl. */
static int lock_byte(int fd, bool query, int type, int byte, struct flock *fl)
{
	for (;;) {
		bool ofd = !atomic_load(&no_ofd);
		int cmd = query ? F_GETLK : F_SETLK;

		if (ofd)
			cmd = query ? F_OFD_GETLK : F_OFD_SETLK;
		*fl = (struct flock){
			.l_type = type,
			.l_whence = SEEK_SET,
			.l_start = byte,
			.l_len = 1,
		};
		if (!fcntl(fd, cmd, fl))
			return 0;
		if (ofd && errno == EINVAL)
			atomic_store(&no_ofd, true);
		else if (errno != EINTR)
			return -errno;
	}
}

/* The file (or its filesystem) has no locks: nobody can hold one. */
static bool is_unlockable(int ret)
{
	return ret == -ENOLCK || ret == -EOPNOTSUPP || ret == -ENOSYS || ret == -EINVAL;
}

static int busy(struct plt_error *err, const char *name, bool shared, int i)
{
	return plt_error_set(err, EBUSY,
			     "Failed to get %s\"%s\" lock\n"
			     "Is another process using the image [%s]?",
			     shared ? "shared " : "", perm_names[i], name);
}

static void unlock_bits(int fd, int base, unsigned bits)
{
	struct flock fl;

	/* Letting go fails only where nothing is held. */
	for (int i = 0; i < PERMS; i++)
		if (bits & 1u << i)
			(void)lock_byte(fd, false, F_UNLCK, base + i, &fl);
}

/* Lock the bytes of @bits; *ret_taken grows with each. */
static int take_bits(int fd, const char *name, int base, unsigned bits, unsigned *ret_taken,
		     struct plt_error *err)
{
	struct flock fl;

	for (int i = 0; i < PERMS; i++) {
		int ret;

		if (!(bits & 1u << i))
			continue;
		ret = lock_byte(fd, false, F_RDLCK, base + i, &fl);
		if (ret == -EAGAIN || ret == -EACCES)
			return busy(err, name, base == UNSHARED_BASE, i);
		if (ret && !is_unlockable(ret))
			return plt_error_errno(err, -ret, "Failed to lock byte %d of '%s'",
					       base + i, name);
		if (!ret)
			*ret_taken |= 1u << i;
	}
	return 0;
}

/* Somebody else holds one of the bytes that contradict ours? */
static int check_bits(int fd, const char *name, int base, unsigned bits, struct plt_error *err)
{
	struct flock fl;

	for (int i = 0; i < PERMS; i++) {
		int ret;

		if (!(bits & 1u << i))
			continue;
		ret = lock_byte(fd, true, F_WRLCK, base + i, &fl);
		if (ret && !is_unlockable(ret))
			return plt_error_errno(err, -ret, "Failed to look for locks of '%s'", name);
		if (!ret && fl.l_type != F_UNLCK)
			return busy(err, name, base == PERM_BASE, i);
	}
	return 0;
}

int plt_lock_fd(int fd, const char *name, unsigned old_perm, unsigned old_shared, unsigned perm,
		unsigned shared, struct plt_error *err)
{
	unsigned old_unshared = ~old_shared & PLT_PERM_ALL, unshared = ~shared & PLT_PERM_ALL;
	unsigned taken_perm = 0, taken_unshared = 0;
	int ret;

	perm &= PLT_PERM_ALL;
	ret = take_bits(fd, name, PERM_BASE, perm & ~old_perm, &taken_perm, err);
	if (!ret)
		ret = take_bits(fd, name, UNSHARED_BASE, unshared & ~old_unshared, &taken_unshared,
				err);
	/* What is held needs others to share it; what is not shared must not be held by them. */
	if (!ret)
		ret = check_bits(fd, name, UNSHARED_BASE, perm, err);
	if (!ret)
		ret = check_bits(fd, name, PERM_BASE, unshared, err);
	if (ret) {
		unlock_bits(fd, PERM_BASE, taken_perm);
		unlock_bits(fd, UNSHARED_BASE, taken_unshared);
		return ret;
	}
	unlock_bits(fd, PERM_BASE, old_perm & ~perm);
	unlock_bits(fd, UNSHARED_BASE, old_unshared & ~unshared);
	return 0;
}
