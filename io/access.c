/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Who may read a file that holds what another one holds: an undo journal, a repaired copy.  The invariant: nobody who
 * could not read the other.  What cannot be made alike (a group that we are not in, access lists) gives less access.
 */
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "io/private.h"

#define ACCESS_LIST "system.posix_acl_access"

void plt_file_share_as(struct plt_store *st, struct plt_store *as, enum plt_file_share how)
{
	struct plt_file *f = plt_file_of(st), *of = plt_file_of(as);
	struct stat sb, now;
	mode_t mode;

	if (!f || !of || fstat(of->fd, &sb) < 0)
		return; /* it stays private */
	if (how == PLT_SHARE_OWNER && fchown(f->fd, sb.st_uid, sb.st_gid) < 0)
		(void)!fchown(f->fd, (uid_t)-1, sb.st_gid); /* (what came of it is looked at next) */
	if (fstat(f->fd, &now) < 0)
		return;
	mode = sb.st_mode & 0666;
	/* with a list the group's bits are a mask for those in the list, and say nothing of the group */
	if (now.st_gid != sb.st_gid || fgetxattr(of->fd, ACCESS_LIST, NULL, 0) > 0)
		mode &= ~(mode_t)0070;
	(void)fremovexattr(f->fd, ACCESS_LIST); /* what the folder hands down */
	(void)fchmod(f->fd, mode | 0600);
}
