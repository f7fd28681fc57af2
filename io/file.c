/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Regular files as stores, and the opening of files and block devices by name.  It protects three
 * things: opening never blocks and never touches what is no disk image (FIFOs, sockets, terminals);
 * a file that somebody has locked is not emptied; and growing a file never shrinks one that another
 * thread has made longer meanwhile (so nothing here grows by ftruncate()).  Alignment under
 * O_DIRECT is left to direct.c, what is special about devices to device.c, lock bytes to lock.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/iov.h"
#include "io/lock.h"
#include "io/private.h"

struct plt_file *plt_file_of(struct plt_store *st)
{
	return st->ops == &plt_file_ops || st->ops == &plt_device_ops ? st->priv : NULL;
}

void plt_file_close(struct plt_store *st)
{
	struct plt_file *f = st->priv;

	if (f->fd >= 0)
		close(f->fd);
	plt_unitlock_release(&f->units);
	pthread_mutex_destroy(&f->mutex);
}

int plt_file_size(struct plt_store *st, uint64_t *ret, struct plt_error *err)
{
	struct plt_file *f = st->priv;
	struct stat sb;

	if (fstat(f->fd, &sb) < 0)
		return plt_error_errno(err, errno, "Could not get the size of '%s'", st->name);
	*ret = sb.st_size;
	return 0;
}

int plt_file_read(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
		  enum plt_io_tag tag, struct plt_error *err)
{
	struct plt_file *f = st->priv;
	int ret;

	(void)tag;
	if (f->direct)
		ret = plt_direct_read(f, off, iov, niov);
	else
		ret = plt_fd_read(f->fd, off, iov, niov, 1);
	if (ret)
		return plt_io_error(err, -ret, "read", st, off, plt_iov_len(iov, niov));
	return 0;
}

int plt_file_write(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov,
		   enum plt_io_tag tag, struct plt_error *err)
{
	struct plt_file *f = st->priv;
	int ret;

	(void)tag;
	if (f->direct)
		ret = plt_direct_write(f, off, iov, niov);
	else
		ret = plt_fd_write(f->fd, off, iov, niov);
	if (ret)
		return plt_io_error(err, -ret, "write", st, off, plt_iov_len(iov, niov));
	return 0;
}

int plt_file_fallocate(struct plt_file *f, int mode, uint64_t off, uint64_t len)
{
	while (fallocate(f->fd, mode, off, len) < 0)
		if (errno != EINTR)
			return errno == ENOSYS ? -EOPNOTSUPP : -errno;
	return 0;
}

static void forget_data(struct plt_file *f)
{
	PLT_LOCK_SCOPE(&f->mutex);
	f->data_off = f->data_end = 0;
}

/* fallocate(), remembering in @no that the filesystem lacks the form. */
static int try_fallocate(struct plt_file *f, _Atomic bool *no, int mode, uint64_t off, uint64_t len)
{
	int ret;

	if (atomic_load(no))
		return -EOPNOTSUPP;
	ret = plt_file_fallocate(f, mode, off, len);
	if (ret == -EOPNOTSUPP)
		atomic_store(no, true);
	return ret;
}

static int punch(struct plt_file *f, uint64_t off, uint64_t len)
{
	return try_fallocate(f, &f->no_punch, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len);
}

/*
 * Make the file reach @end.  A zero byte is written at its last place: unlike ftruncate() that
 * cannot cut off what another thread appends at the same time.
 */
static int grow(struct plt_file *f, uint64_t end)
{
	struct iovec iov = { (void *)"", 1 };
	struct stat sb;

	if (fstat(f->fd, &sb) < 0)
		return -errno;
	if ((uint64_t)sb.st_size >= end)
		return 0;
	if (f->direct)
		return plt_direct_write(f, end - 1, &iov, 1);
	return plt_fd_write(f->fd, end - 1, &iov, 1);
}

static int zero_range(struct plt_file *f, uint64_t off, uint64_t len, unsigned flags)
{
	int ret = -EOPNOTSUPP;

	if (flags & PLT_ZERO_MAY_UNMAP)
		ret = punch(f, off, len);
	if (ret == -EOPNOTSUPP)
		ret = try_fallocate(f, &f->no_zero_range, FALLOC_FL_ZERO_RANGE, off, len);
	/* Where only punching exists (tmpfs), reserve the space again. */
	if (ret == -EOPNOTSUPP && !atomic_load(&f->no_fallocate)) {
		ret = punch(f, off, len);
		if (!ret)
			ret = try_fallocate(f, &f->no_fallocate, 0, off, len);
	}
	return ret;
}

static int file_zero(struct plt_store *st, uint64_t off, uint64_t len, unsigned flags,
		     enum plt_io_tag tag, struct plt_error *err)
{
	struct plt_file *f = st->priv;
	struct plt_unit_hold hold;
	int ret = 0;

	(void)tag;
	if (flags & PLT_ZERO_MAY_UNMAP && !atomic_load(&f->no_punch))
		ret = grow(f, off + len);
	if (!ret) {
		plt_direct_acquire(f, &hold, off, off + len);
		ret = zero_range(f, off, len, flags);
		plt_direct_drop(f, &hold);
		forget_data(f);
	}
	if (ret == -EOPNOTSUPP)
		return -ENOTSUP;
	return ret ? plt_io_error(err, -ret, "zero", st, off, len) : 0;
}

static int file_discard(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	struct plt_file *f = st->priv;
	struct plt_unit_hold hold;
	int ret;

	plt_direct_acquire(f, &hold, off, off + len);
	ret = punch(f, off, len);
	plt_direct_drop(f, &hold);
	forget_data(f);
	return ret ? plt_io_error(err, -ret, "discard", st, off, len) : 0;
}

int plt_file_sync(struct plt_store *st, struct plt_error *err)
{
	struct plt_file *f = st->priv;

	if (fdatasync(f->fd) < 0)
		return plt_error_errno(err, errno, "Could not flush '%s'", st->name);
	return 0;
}

static int file_truncate(struct plt_store *st, uint64_t size, struct plt_error *err)
{
	struct plt_file *f = st->priv;
	struct plt_unit_hold hold;
	int ret;

	/* Everything: which units change depends on the old length. */
	if (f->direct)
		plt_unit_acquire(&f->units, &hold, 0, UINT64_MAX, true);
	do {
		ret = ftruncate(f->fd, size) < 0 ? -errno : 0;
	} while (ret == -EINTR);
	plt_direct_drop(f, &hold);
	forget_data(f);
	return ret ? plt_error_errno(err, -ret, "Could not resize '%s'", st->name) : 0;
}

static int file_allocate(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	struct plt_file *f = st->priv;
	int ret = try_fallocate(f, &f->no_fallocate, 0, off, len);

	return ret ? plt_io_error(err, -ret, "allocate", st, off, len) : 0;
}

/*
 * Only runs of data are remembered: other writers (a ring that uses the descriptor, another
 * process) make holes into data without telling, and calling data a hole would lose it.
 */
static int file_extents(struct plt_store *st, uint64_t off, uint64_t len,
			enum plt_store_kind *ret_kind, uint64_t *ret_len, struct plt_error *err)
{
	struct plt_file *f = st->priv;
	off_t data, hole;

	(void)err;
	*ret_kind = PLT_STORE_DATA;
	*ret_len = len;
	if (atomic_load(&f->no_seek))
		return 0;
	{
		PLT_LOCK_SCOPE(&f->mutex);
		if (off >= f->data_off && off < f->data_end) {
			*ret_len = PLT_MIN(len, f->data_end - off);
			return 0;
		}
	}
	data = lseek(f->fd, off, SEEK_DATA);
	if (data < 0) {
		if (errno == ENXIO)
			*ret_kind = PLT_STORE_HOLE; /* up to the end */
		else
			atomic_store(&f->no_seek, true);
		return 0;
	}
	if ((uint64_t)data > off) {
		*ret_kind = PLT_STORE_HOLE;
		*ret_len = PLT_MIN(len, data - off);
		return 0;
	}
	hole = lseek(f->fd, off, SEEK_HOLE);
	if (hole > 0 && (uint64_t)hole > off) {
		PLT_LOCK_SCOPE(&f->mutex);
		f->data_off = off;
		f->data_end = hole;
		*ret_len = PLT_MIN(len, hole - off);
	}
	return 0;
}

/* Never from a device: the size of what copy_file_range() reads there is not known to it. */
static int file_copy_from(struct plt_store *st, uint64_t off, struct plt_store *src,
			  uint64_t src_off, uint64_t len, uint64_t *ret_len, struct plt_error *err)
{
	struct plt_file *f = st->priv, *s = plt_file_of(src);
	off_t in = src_off, out = off;
	struct plt_unit_hold hold;
	ssize_t r;

	if (!s || s->st.ops != &plt_file_ops)
		return plt_io_error(err, ENOTSUP, "copy", st, off, len);
	plt_direct_acquire(f, &hold, off, off + len);
	do {
		r = copy_file_range(s->fd, &in, f->fd, &out, len, 0);
	} while (r < 0 && errno == EINTR);
	if (r < 0)
		r = -errno;
	plt_direct_drop(f, &hold);
	switch (r) {
	case 0: /* the source ends here, or the filesystem cannot say */
	case -EXDEV:
	case -EINVAL:
	case -ENOSYS:
	case -EOPNOTSUPP:
		return plt_io_error(err, ENOTSUP, "copy", st, off, len);
	}
	if (r < 0)
		return plt_io_error(err, -r, "copy", st, off, len);
	*ret_len = r;
	return 0;
}

int plt_file_lock(struct plt_store *st, unsigned perm, unsigned shared, struct plt_error *err)
{
	struct plt_file *f = st->priv;
	int ret;

	if (f->no_lock)
		return 0;
	PLT_LOCK_SCOPE(&f->mutex);
	ret = plt_lock_fd(f->fd, st->name, f->held_perm, f->held_shared, perm, shared, err);
	if (!ret) {
		f->held_perm = perm;
		f->held_shared = shared;
	}
	return ret;
}

int plt_file_fd(struct plt_store *st)
{
	struct plt_file *f = st->priv;

	return f->fd;
}

int64_t plt_file_allocated(struct plt_store *st)
{
	struct plt_file *f = st->priv;
	struct stat sb;

	return fstat(f->fd, &sb) < 0 ? -1 : (int64_t)sb.st_blocks * 512;
}

const struct plt_store_ops plt_file_ops = {
	.kind = "file",
	.close = plt_file_close,
	.size = plt_file_size,
	.read = plt_file_read,
	.write = plt_file_write,
	.zero = file_zero,
	.discard = file_discard,
	.sync = plt_file_sync,
	.truncate = file_truncate,
	.allocate = file_allocate,
	.extents = file_extents,
	.copy_from = file_copy_from,
	.lock = plt_file_lock,
	.fd = plt_file_fd,
	.allocated = plt_file_allocated,
};

static int check_type(const struct stat *sb, const char *name, struct plt_error *err)
{
	const char *what;

	switch (sb->st_mode & S_IFMT) {
	case S_IFREG:
	case S_IFBLK:
		return 0;
	case S_IFDIR:
		return plt_error_set(err, EINVAL,
				     "'file' driver requires '%s' to be a regular file", name);
	case S_IFIFO:
		what = "a FIFO";
		break;
	case S_IFSOCK:
		what = "a socket";
		break;
	case S_IFCHR:
		what = "a character device";
		break;
	default:
		what = "something else";
		break;
	}
	return plt_error_set(err, EINVAL,
			     "'file' driver requires '%s' to be a regular file; it is %s", name,
			     what);
}

/* The words for both ways to a store; @fd stays the caller's on failure. */
static int new_store(int fd, const char *name, unsigned flags, struct plt_store **ret,
		     struct plt_error *err)
{
	struct plt_file *f;
	struct stat sb;
	int status;

	if (fstat(fd, &sb) < 0 || (status = fcntl(fd, F_GETFL)) < 0)
		return plt_error_errno(err, errno, "Could not open '%s'", name);
	status &= ~O_NONBLOCK;
	if (flags & PLT_FILE_DIRECT)
		status |= O_DIRECT;
	if (check_type(&sb, name, err))
		return -EINVAL;
	if (fcntl(fd, F_SETFL, status) < 0) {
		if (errno == EINVAL && flags & PLT_FILE_DIRECT)
			return plt_error_set(err, EINVAL,
					     "Could not open '%s': filesystem does not "
					     "support O_DIRECT",
					     name);
		return plt_error_errno(err, errno, "Could not open '%s'", name);
	}
	f = calloc(1, sizeof(*f));
	if (!f ||
	    plt_store_init(&f->st, S_ISBLK(sb.st_mode) ? &plt_device_ops : &plt_file_ops, name)) {
		free(f);
		return plt_error_set(err, ENOMEM, "Could not open '%s': out of memory", name);
	}
	f->st.priv = f;
	f->fd = fd;
	f->mem_align = 1;
	f->held_shared = PLT_PERM_ALL;
	f->no_lock = flags & PLT_FILE_NO_LOCK;
	f->st.readonly = !(flags & PLT_FILE_WRITE);
	f->st.unsafe = flags & PLT_FILE_UNSAFE;
	f->st.writethrough = flags & PLT_FILE_WRITETHROUGH;
	pthread_mutex_init(&f->mutex, NULL);
	plt_unitlock_init(&f->units);
	f->direct = status & O_DIRECT;
	if (f->direct)
		plt_direct_probe(f);
	if (S_ISBLK(sb.st_mode)) {
		int r = plt_device_init(f, err);

		if (r) {
			f->fd = -1;
			plt_store_unref(&f->st);
			return r;
		}
	}
	*ret = &f->st;
	return 0;
}

int plt_file_from_fd(int fd, const char *name, unsigned flags, struct plt_store **ret,
		     struct plt_error *err)
{
	int status = fcntl(fd, F_GETFL);
	int acc = status & O_ACCMODE;

	if (status < 0)
		return plt_error_errno(err, errno, "Could not open '%s'", name);
	if (acc == O_WRONLY || (acc == O_RDONLY && flags & PLT_FILE_WRITE) || status & O_PATH)
		return plt_error_set(err, EACCES,
				     "Could not open '%s': the descriptor was not opened for %s",
				     name,
				     flags & PLT_FILE_WRITE ? "reading and writing" : "reading");
	return new_store(fd, name, flags, ret, err);
}

/* Empty the file, unless somebody uses it; what is locked here stays locked. */
static int empty(struct plt_store *st, struct plt_error *err)
{
	struct plt_file *f = st->priv;
	int ret;

	if (st->ops != &plt_file_ops)
		return 0;
	ret = plt_file_lock(st, PLT_PERM_WRITE | PLT_PERM_RESIZE, PLT_PERM_ALL & ~PLT_PERM_RESIZE,
			    err);
	if (!ret && ftruncate(f->fd, 0) < 0)
		ret = plt_error_errno(err, errno, "Could not resize '%s'", st->name);
	return ret;
}

int plt_file_open(const char *path, unsigned flags, struct plt_store **ret, struct plt_error *err)
{
	const char *verb = flags & PLT_FILE_CREATE ? "create" : "open";
	int how = O_CLOEXEC | O_NONBLOCK | O_NOCTTY, r;
	PLT_AUTOCLOSE int fd = -1;
	struct plt_store *st;
	struct stat sb;

	/* Before it is opened, since opening alone can have effects (a tape rewinds). */
	if (!stat(path, &sb)) {
		if (S_ISDIR(sb.st_mode) && flags & (PLT_FILE_WRITE | PLT_FILE_CREATE))
			return plt_error_errno(err, EISDIR, "Could not %s '%s'", verb, path);
		if (check_type(&sb, path, err))
			return -EINVAL;
	}
	how |= flags & PLT_FILE_WRITE ? O_RDWR : O_RDONLY;
	if (flags & PLT_FILE_CREATE)
		how |= O_CREAT;
	if (flags & PLT_FILE_EXCL)
		how |= O_EXCL;
	if (flags & PLT_FILE_DIRECT)
		how |= O_DIRECT;
	fd = open(path, how, flags & PLT_FILE_PRIVATE ? 0600 : 0644);
	if (fd < 0 && errno == EINVAL && flags & PLT_FILE_DIRECT)
		return plt_error_set(err, EINVAL,
				     "Could not %s '%s': filesystem does not support O_DIRECT",
				     verb, path);
	if (fd < 0)
		return plt_error_errno(err, errno, "Could not %s '%s'", verb, path);
	r = new_store(fd, path, flags, &st, err);
	if (r)
		return r;
	fd = -1;
	if (flags & PLT_FILE_TRUNC && flags & PLT_FILE_WRITE)
		r = empty(st, err);
	if (r) {
		plt_store_unref(st);
		return r;
	}
	*ret = st;
	return 0;
}

int plt_sync_folder(const char *path, struct plt_error *err)
{
	const char *slash = strrchr(path, '/');
	PLT_AUTOFREE char *folder = !slash ? strdup(".") : slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
	PLT_AUTOCLOSE int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

	if (!folder)
		return plt_error_set(err, ENOMEM, "out of memory");
	/* EINVAL: a filesystem without such a thing */
	if (fd < 0 || (fsync(fd) < 0 && errno != EINVAL && errno != ENOTSUP))
		return plt_error_errno(err, errno, "Could not flush the folder '%s'", folder);
	return 0;
}
