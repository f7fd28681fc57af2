/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What is special about block devices: size and sector size come from the driver, the size is
 * fixed, and zeroing and discarding go by whole sectors.  The invariant: zero() leaves zeros (the
 * ends that are no whole sector are written), while discard() promises nothing about what is read
 * afterwards, for the hardware does not.  Reading, writing and locks are file.c's.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/checked.h"
#include "base/error.h"
#include "io/private.h"

static int device_size(struct plt_store *st, uint64_t *ret, struct plt_error *err)
{
	struct plt_file *f = st->priv;

	if (ioctl(f->fd, BLKGETSIZE64, ret) < 0)
		return plt_error_errno(err, errno, "Could not get the size of '%s'", st->name);
	return 0;
}

static uint32_t sector_size(struct plt_file *f)
{
	int n = 0;

	return ioctl(f->fd, BLKSSZGET, &n) < 0 || n < 512 || !plt_is_pow2(n) ? 4096 : n;
}

static uint64_t queue_limit(dev_t dev, const char *name)
{
	/* A partition has no queue of its own. */
	static const char *const where[] = { "", "../" };
	uint64_t v = 0;

	for (unsigned i = 0; i < PLT_ARRAY_SIZE(where); i++) {
		char path[PATH_MAX];
		FILE *file;

		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%squeue/%s", major(dev),
			 minor(dev), where[i], name);
		file = fopen(path, "re");
		if (!file)
			continue;
		if (fscanf(file, "%" SCNu64, &v) != 1)
			v = 0;
		fclose(file);
		break;
	}
	return v;
}

int plt_device_init(struct plt_file *f, struct plt_error *err)
{
	uint64_t size;
	struct stat sb;
	int ret = device_size(&f->st, &size, err);

	if (ret)
		return ret;
	f->st.limits.can_grow = false;
	f->st.limits.discard_zeroes = false;
	f->st.limits.new_is_zero = false;
	f->st.limits.zero_is_fast = !fstat(f->fd, &sb) &&
				    queue_limit(sb.st_rdev, "write_zeroes_max_bytes") > 0;
	if (f->direct) {
		f->st.limits.align = sector_size(f);
		f->mem_align = PLT_MIN(f->mem_align, f->st.limits.align);
	}
	return 0;
}

static int zero_sectors(struct plt_file *f, uint64_t off, uint64_t len, unsigned flags)
{
	uint64_t range[2] = { off, len };
	int ret = -EOPNOTSUPP;

	if (!len)
		return 0;
	if (flags & PLT_ZERO_NO_FALLBACK && !f->st.limits.zero_is_fast)
		return -ENOTSUP; /* the kernel would write zeros */
	if (flags & PLT_ZERO_MAY_UNMAP && !atomic_load(&f->no_punch)) {
		ret = plt_file_fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len);
		if (ret == -EOPNOTSUPP || ret == -ENODEV)
			atomic_store(&f->no_punch, true);
	}
	if (ret && !atomic_load(&f->no_zero_range)) {
		ret = plt_file_fallocate(f, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, off, len);
		if (ret == -EOPNOTSUPP || ret == -ENODEV)
			atomic_store(&f->no_zero_range, true);
	}
	if (ret == -EOPNOTSUPP || ret == -ENODEV)
		ret = ioctl(f->fd, BLKZEROOUT, range) < 0 ? -errno : 0;
	return ret == -EOPNOTSUPP || ret == -ENOTTY || ret == -EINVAL ? -ENOTSUP : ret;
}

/* Zeros for a part of a sector. */
static int zero_part(struct plt_store *st, uint64_t off, uint64_t len, enum plt_io_tag tag,
		     struct plt_error *err)
{
	static uint8_t zeros[65536] __attribute__((aligned(4096)));

	while (len) {
		struct iovec iov = { zeros, PLT_MIN(len, sizeof(zeros)) };
		int ret = plt_file_write(st, off, &iov, 1, tag, err);

		if (ret)
			return ret;
		off += iov.iov_len;
		len -= iov.iov_len;
	}
	return 0;
}

static int device_zero(struct plt_store *st, uint64_t off, uint64_t len, unsigned flags,
		       enum plt_io_tag tag, struct plt_error *err)
{
	struct plt_file *f = st->priv;
	uint64_t sector = sector_size(f), end = off + len;
	uint64_t first = plt_align_up(off, sector), last = plt_align_down(end, sector);
	struct plt_unit_hold hold;
	int ret;

	if (first >= last)
		return -ENOTSUP;
	plt_direct_acquire(f, &hold, first, last);
	ret = zero_sectors(f, first, last - first, flags);
	plt_direct_drop(f, &hold);
	if (ret == -ENOTSUP)
		return ret;
	if (ret)
		return plt_io_error(err, -ret, "zero", st, off, len);
	ret = zero_part(st, off, first - off, tag, err);
	return ret ? ret : zero_part(st, last, end - last, tag, err);
}

static int device_discard(struct plt_store *st, uint64_t off, uint64_t len, struct plt_error *err)
{
	struct plt_file *f = st->priv;
	uint64_t sector = sector_size(f), end = off + len;
	struct plt_unit_hold hold;
	uint64_t range[2];
	int ret = 0;

	range[0] = plt_align_up(off, sector);
	range[1] = plt_align_down(end, sector);
	if (range[0] >= range[1])
		return 0;
	range[1] -= range[0];
	plt_direct_acquire(f, &hold, range[0], range[0] + range[1]);
	if (ioctl(f->fd, BLKDISCARD, range) < 0)
		ret = errno == ENOTTY ? -ENOTSUP : -errno;
	plt_direct_drop(f, &hold);
	return ret ? plt_io_error(err, -ret, "discard", st, off, len) : 0;
}

const struct plt_store_ops plt_device_ops = {
	.kind = "host_device",
	.close = plt_file_close,
	.size = device_size,
	.read = plt_file_read,
	.write = plt_file_write,
	.zero = device_zero,
	.discard = device_discard,
	.sync = plt_file_sync,
	.lock = plt_file_lock,
	.fd = plt_file_fd,
	.allocated = plt_file_allocated,
};
