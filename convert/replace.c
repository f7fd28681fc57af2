/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Putting a new file in the place of an old one, by name, in one step.  The invariant: under the final
 * name there is at every moment the whole old file (or none, if there was none) or the whole new one,
 * also after a power cut; and nobody who may not write the old file replaces it.  So the old file is
 * opened for writing and locked first; the new one is made without a name (O_TMPFILE), which leaves
 * nothing behind however the program ends, or where that does not exist under a hidden name beside the
 * old one; and it gets the old one's owner, mode and extended attributes (security labels are such)
 * before it gets any content.  Where that cannot be done, why says so and the caller writes in place.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "convert/convert.h"

#define LINKS_MAX 40 /* the kernel's limit too */

/* The folder part of @path, "." if it has none.  NULL: out of memory. */
static char *folder_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	if (!slash)
		return strdup(".");
	return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

static const char *base_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static int no_memory(struct plt_error *err)
{
	return plt_error_set(err, ENOMEM, "Out of memory");
}

/* The text of the symbolic link @path as a path of its own.  NULL with errno. */
static char *follow(const char *path, size_t size)
{
	PLT_AUTOFREE char *folder = folder_of(path), *text = malloc(size + 4096);
	ssize_t n;
	char *ret;

	if (!folder || !text)
		return NULL;
	n = readlink(path, text, size + 4095);
	if (n < 0)
		return NULL;
	text[n] = 0;
	if (text[0] == '/')
		return strdup(text);
	return asprintf(&ret, "%s/%s", folder, text) < 0 ? NULL : ret;
}

/*
 * Find the file that @path leads to.  What is reached through /proc (/dev/fd/3, /dev/stdout) is an
 * open file, whose name, if it has one, is nobody's to replace: it stays as given.
 */
static int resolve(struct plt_replace *r, const char *path, struct plt_error *err)
{
	char *cur = strdup(path);
	struct stat sb;

	for (int i = 0; cur && i < LINKS_MAX; i++) {
		PLT_AUTOFREE char *folder = folder_of(cur);
		struct statfs fs;
		char *next;

		if (folder && statfs(folder, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC) {
			r->why = "the name stands for an open file descriptor";
			break;
		}
		if (lstat(cur, &sb) < 0 || !S_ISLNK(sb.st_mode))
			break;
		next = follow(cur, (size_t)PLT_MAX(sb.st_size, 0));
		free(cur);
		cur = next;
	}
	if (!cur)
		return plt_error_errno(err, errno, "Could not create '%s'", path);
	r->final = cur;
	if (stat(cur, &sb) == 0) {
		r->exists = true;
		r->regular = S_ISREG(sb.st_mode);
		r->old_bytes = (uint64_t)sb.st_blocks * 512;
		if (!r->regular)
			r->why = "it is no regular file";
		else if (sb.st_nlink > 1)
			r->why = "it has several names (hard links)";
	} else if (errno != ENOENT) {
		return plt_error_errno(err, errno, "Could not create '%s'", path);
	}
	return 0;
}

/* Another file system, or a single file, mounted over the name. */
static bool is_mount_point(const char *path)
{
#ifdef STATX_ATTR_MOUNT_ROOT
	struct statx sx;

	if (statx(AT_FDCWD, path, 0, STATX_BASIC_STATS, &sx) == 0 &&
	    sx.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT)
		return sx.stx_attributes & STATX_ATTR_MOUNT_ROOT;
#endif
	(void)path; /* an older kernel: rename() will refuse, with the old file untouched */
	return false;
}

static void look_at_folder(struct plt_replace *r)
{
	PLT_AUTOFREE char *folder = folder_of(r->final);
	struct stat dir, sb;
	struct statvfs vfs;

	r->free = UINT64_MAX;
	if (!folder)
		return;
	if (statvfs(folder, &vfs) == 0)
		r->free = (uint64_t)(geteuid() ? vfs.f_bavail : vfs.f_bfree) * vfs.f_frsize;
	if (!r->exists || r->why)
		return;
	if (faccessat(AT_FDCWD, folder, W_OK | X_OK, AT_EACCESS) < 0)
		r->why = "its folder may not be written";
	else if (is_mount_point(r->final))
		r->why = "it is a mount point";
	else if (geteuid() && stat(folder, &dir) == 0 && stat(r->final, &sb) == 0 &&
		 dir.st_mode & S_ISVTX && dir.st_uid != geteuid() && sb.st_uid != geteuid())
		r->why = "it belongs to another user, in a folder where only owners may rename";
}

/* A target is created, whether it exists or not: that is what qemu-img calls it. */
static void say_create(struct plt_error *err)
{
	static const char open[] = "Could not open '";
	PLT_AUTOFREE char *rest = NULL;

	if (err && !strncmp(err->text, open, strlen(open)) && (rest = strdup(err->text + strlen(open))))
		plt_error_set(err, err->code, "Could not create '%s", rest);
}

int plt_replace_look(struct plt_replace *r, const char *path, unsigned flags, struct plt_error *err)
{
	int ret;

	memset(r, 0, sizeof(*r));
	ret = resolve(r, path, err);
	if (!ret && r->exists) {
		ret = plt_file_open(r->final, flags | PLT_FILE_WRITE, &r->old, err);
		if (ret)
			say_create(err);
	}
	if (!ret && r->old)
		ret = plt_store_lock(r->old, PLT_PERM_READ | PLT_PERM_WRITE | PLT_PERM_RESIZE,
				     PLT_PERM_READ | PLT_PERM_WRITE_UNCHANGED, err);
	if (ret) {
		plt_replace_release(r);
		return ret;
	}
	look_at_folder(r);
	return 0;
}

static bool same_attr(int fd, const char *name, const void *value, ssize_t len)
{
	PLT_AUTOFREE void *now = malloc((size_t)len + 1);

	return now && fgetxattr(fd, name, now, (size_t)len + 1) == len && !memcmp(now, value, (size_t)len);
}

/* What the kernel derives from the content or drops when that changes: never right for a new file. */
static bool belongs_to_content(const char *name)
{
	return !strcmp(name, "security.ima") || !strcmp(name, "security.evm") ||
	       !strcmp(name, "security.capability");
}

/* One attribute of @from onto @to.  Attributes that were gone in between are no loss. */
static int copy_attr(int from, int to, const char *name)
{
	ssize_t len = fgetxattr(from, name, NULL, 0);
	PLT_AUTOFREE void *value = len >= 0 ? malloc((size_t)len + 1) : NULL;

	if (len < 0)
		return errno == ENODATA ? 0 : -errno;
	if (!value)
		return -ENOMEM;
	len = fgetxattr(from, name, value, (size_t)len);
	if (len < 0)
		return errno == ENODATA ? 0 : -errno;
	if (same_attr(to, name, value, len))
		return 0;
	return fsetxattr(to, name, value, (size_t)len, 0) < 0 ? -errno : 0;
}

/* All names of a file's attributes, one NUL-terminated after the other. */
static int list_attrs(int fd, char **ret, size_t *ret_len)
{
	ssize_t n = flistxattr(fd, NULL, 0);
	char *v;

	*ret = NULL;
	*ret_len = 0;
	if (n <= 0)
		return n == 0 || errno == ENOTSUP ? 0 : -errno;
	v = malloc((size_t)n);
	if (!v)
		return -ENOMEM;
	n = flistxattr(fd, v, (size_t)n);
	if (n < 0) {
		n = -errno;
		free(v);
		return (int)n;
	}
	*ret = v;
	*ret_len = (size_t)n;
	return 0;
}

static bool in_list(const char *list, size_t len, const char *name)
{
	for (const char *p = list; p < list + len; p += strlen(p) + 1)
		if (!strcmp(p, name))
			return true;
	return false;
}

static int keep_attrs(int from, int to)
{
	PLT_AUTOFREE char *old = NULL, *now = NULL;
	size_t old_len, now_len;
	int ret = list_attrs(from, &old, &old_len);

	if (!ret)
		ret = list_attrs(to, &now, &now_len);
	/* What the folder hands down (a default ACL) and the old file did not have. */
	for (const char *p = now; !ret && p && p < now + now_len; p += strlen(p) + 1)
		if (!in_list(old, old_len, p) && fremovexattr(to, p) < 0 && errno != ENODATA)
			ret = -errno;
	for (const char *p = old; !ret && p && p < old + old_len; p += strlen(p) + 1)
		if (!belongs_to_content(p))
			ret = copy_attr(from, to, p);
	return ret;
}

/* No copy-on-write (chattr +C) can only be chosen while a file is empty; it is about speed alone. */
static void keep_nocow(int from, int to)
{
	int old = 0, now = 0;

	if (ioctl(from, FS_IOC_GETFLAGS, &old) == 0 && old & FS_NOCOW_FL &&
	    ioctl(to, FS_IOC_GETFLAGS, &now) == 0) {
		now |= FS_NOCOW_FL;
		(void)ioctl(to, FS_IOC_SETFLAGS, &now); /* see above */
	}
}

/* The new file is to the world what the old one was.  NULL, or what cannot be kept. */
static const char *keep_identity(int from, int to)
{
	struct stat old, now;

	if (fstat(from, &old) < 0 || fstat(to, &now) < 0)
		return "its owner cannot be found out";
	if ((old.st_uid != now.st_uid || old.st_gid != now.st_gid) &&
	    fchown(to, old.st_uid, old.st_gid) < 0)
		return "its owner cannot be kept";
	if (fchmod(to, old.st_mode & 07777) < 0)
		return "its mode cannot be kept";
	if (keep_attrs(from, to))
		return "its extended attributes cannot be kept";
	keep_nocow(from, to);
	return NULL;
}

/* ".NAME.platter-XXXXXX" in the folder of the final name. */
static char *temp_name(const struct plt_replace *r)
{
	static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789";
	PLT_AUTOFREE char *folder = folder_of(r->final);
	unsigned char rnd[6];
	char tail[7] = "", *ret;

	if (!folder || getrandom(rnd, sizeof(rnd), 0) != sizeof(rnd))
		return NULL;
	for (unsigned i = 0; i < sizeof(rnd); i++)
		tail[i] = letters[rnd[i] % (sizeof(letters) - 1)];
	return asprintf(&ret, "%s/.%.200s.platter-%s", folder, base_of(r->final), tail) < 0 ? NULL : ret;
}

/* A file without a name, if the filesystem has them and /proc is there to give it one later.  -1. */
static int open_unnamed(const char *folder)
{
	char self[64];
	int fd = open(folder, O_RDWR | O_TMPFILE | O_CLOEXEC, 0644);

	if (fd < 0)
		return -1;
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	if (access(self, F_OK) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* A descriptor of the new file; sets r->temp if it has a name.  -1 with errno. */
static int open_new(struct plt_replace *r)
{
	PLT_AUTOFREE char *folder = folder_of(r->final);
	int fd = folder ? open_unnamed(folder) : -1;

	if (fd >= 0 || !folder)
		return fd;
	for (int tries = 0; tries < 100; tries++) {
		PLT_AUTOFREE char *name = temp_name(r);

		if (!name) {
			errno = ENOMEM;
			return -1;
		}
		fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
		if (fd >= 0)
			r->temp = plt_steal(&name);
		if (fd >= 0 || errno != EEXIST)
			return fd;
	}
	return -1;
}

static void drop_temp(struct plt_replace *r)
{
	if (r->temp)
		(void)unlink(r->temp); /* nobody else knows the name; nothing better can be done */
	free(r->temp);
	r->temp = NULL;
}

int plt_replace_make(struct plt_replace *r, unsigned flags, struct plt_error *err)
{
	int fd = open_new(r), ret;

	if (fd < 0 && r->exists && (errno == EACCES || errno == EPERM || errno == EROFS)) {
		r->why = "its folder may not be written";
		return 0;
	}
	if (fd < 0)
		return plt_error_errno(err, errno, "Could not create '%s'", r->final);
	if (r->old) {
		r->why = keep_identity(plt_store_fd(r->old), fd);
		if (r->why) {
			close(fd);
			drop_temp(r);
			return 0;
		}
	}
	/* Nobody else can open it, so it needs no lock. */
	ret = plt_file_from_fd(fd, r->final, flags | PLT_FILE_WRITE | PLT_FILE_NO_LOCK, &r->made, err);
	if (ret) {
		close(fd);
		drop_temp(r);
	}
	return ret;
}

/* Give the unnamed file a name: the final one if that is free, else a hidden one in r->temp. */
static int link_new(struct plt_replace *r, bool *ret_final, struct plt_error *err)
{
	char self[64];

	snprintf(self, sizeof(self), "/proc/self/fd/%d", plt_store_fd(r->made));
	*ret_final = !r->exists && linkat(AT_FDCWD, self, AT_FDCWD, r->final, AT_SYMLINK_FOLLOW) == 0;
	if (*ret_final)
		return 0;
	if (!r->exists && errno == EEXIST)
		return plt_error_set(err, EEXIST, "'%s' has been made by somebody else meanwhile", r->final);
	for (int tries = 0; tries < 100; tries++) {
		r->temp = temp_name(r);
		if (!r->temp)
			return no_memory(err);
		if (linkat(AT_FDCWD, self, AT_FDCWD, r->temp, AT_SYMLINK_FOLLOW) == 0)
			return 0;
		free(r->temp);
		r->temp = NULL;
		if (errno != EEXIST)
			break;
	}
	return plt_error_errno(err, errno, "Could not create '%s'", r->final);
}

/* Is the old file, which we have locked, still the one under the final name? */
static int still_ours(const struct plt_replace *r, struct plt_error *err)
{
	struct stat held, named;
	int fd = r->exists && r->old ? plt_store_fd(r->old) : -1;

	if (fd < 0 || fstat(fd, &held) < 0)
		return 0;
	if (stat(r->final, &named) < 0 || held.st_dev != named.st_dev || held.st_ino != named.st_ino)
		return plt_error_set(err, EBUSY, "'%s' has been replaced by somebody else meanwhile", r->final);
	return 0;
}

int plt_replace_commit(struct plt_replace *r, struct plt_error *err)
{
	bool unsafe = r->made->unsafe, linked = false;
	int ret = 0;

	if (!r->temp) {
		ret = link_new(r, &linked, err);
		/* Some filesystems make a file that gained its first name durable only with it. */
		if (!ret && !unsafe && fsync(plt_store_fd(r->made)) < 0)
			ret = plt_error_errno(err, errno, "Could not flush '%s'", r->final);
	}
	if (!ret && !linked)
		ret = still_ours(r, err);
	if (!ret && !linked && renameat2(AT_FDCWD, r->temp, AT_FDCWD, r->final, r->exists ? 0 : RENAME_NOREPLACE) < 0 &&
	    !(errno == EINVAL && !r->exists && rename(r->temp, r->final) == 0))
		ret = plt_error_errno(err, errno, "Could not rename the finished image to '%s'", r->final);
	if (ret) {
		if (linked)
			(void)unlink(r->final); /* it is ours, and was not there before */
		return ret;
	}
	free(r->temp);
	r->temp = NULL;
	return unsafe ? 0 : plt_sync_folder(r->final, err);
}

void plt_replace_release(struct plt_replace *r)
{
	drop_temp(r);
	plt_store_unref(r->made);
	plt_store_unref(r->old);
	free(r->final);
	r->made = r->old = NULL;
	r->final = NULL;
}
