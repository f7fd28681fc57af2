/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Requests of any alignment on a descriptor opened with O_DIRECT.  What is not aligned goes through
 * an aligned buffer; a write of a part of a unit reads the unit, changes it and writes it back.
 *
 * Invariants: two writers of different parts of one unit lose nothing (parts are changed under an
 * exclusive lock of the unit, and writers of whole units hold it shared); and the file never
 * becomes longer than the write's own end, not even for a moment, because others may append and
 * because formats find structures by their distance from the end.  So a part that lies behind the
 * last whole unit of the file is written through the page cache, exactly as long as it is: O_DIRECT
 * is taken off the descriptor while the whole file is locked.  (Under a smaller lock a direct write
 * in flight beside it in the same page could be overwritten later with what the page cache had read
 * before.)
 *
 * Which requests come here is left to file.c and the rings.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/iov.h"
#include "io/private.h"

#define BOUNCE (UINT64_C(1) << 20)
#define DEFAULT_UNIT 4096

bool plt_direct_aligned(const struct plt_file *f, uint64_t off, const struct iovec *iov, int niov)
{
	uintptr_t bits = 0;
	size_t lens = 0;

	for (int i = 0; i < niov; i++) {
		bits |= (uintptr_t)iov[i].iov_base;
		lens |= iov[i].iov_len;
	}
	/* Units are powers of two. */
	return !((off | lens) & (f->st.limits.align - 1)) && !(bits & (f->mem_align - 1));
}

static int read_buf(struct plt_file *f, uint64_t off, void *buf, size_t len)
{
	struct iovec iov = { buf, len };

	return plt_fd_read(f->fd, off, &iov, 1, f->st.limits.align);
}

static int write_buf(struct plt_file *f, uint64_t off, void *buf, size_t len)
{
	struct iovec iov = { buf, len };

	return plt_fd_write(f->fd, off, &iov, 1);
}

int plt_direct_read(struct plt_file *f, uint64_t off, const struct iovec *iov, int niov)
{
	uint64_t unit = f->st.limits.align, len = plt_iov_len(iov, niov), done = 0;
	PLT_AUTOFREE uint8_t *buf = NULL;

	if (plt_direct_aligned(f, off, iov, niov))
		return plt_fd_read(f->fd, off, iov, niov, unit);
	buf = plt_alloc_io(PLT_MIN(BOUNCE, plt_align_up(len, unit) + unit));
	if (!buf)
		return -ENOMEM;
	while (done < len) {
		uint64_t start = plt_align_down(off + done, unit), skip = off + done - start;
		uint64_t n = PLT_MIN(len - done, BOUNCE - skip);
		int ret = read_buf(f, start, buf, plt_align_up(skip + n, unit));

		if (ret)
			return ret;
		plt_iov_from_buf(iov, niov, done, buf + skip, n);
		done += n;
	}
	return 0;
}

/* [off, off+len) through the page cache, with nobody else writing. */
static int write_cached(struct plt_file *f, uint64_t off, void *buf, size_t len)
{
	struct plt_unit_hold hold;
	int flags, ret;

	plt_unit_acquire(&f->units, &hold, 0, UINT64_MAX, true);
	flags = fcntl(f->fd, F_GETFL);
	if (flags < 0 || fcntl(f->fd, F_SETFL, flags & ~O_DIRECT) < 0) {
		ret = -errno;
	} else {
		ret = write_buf(f, off, buf, len);
		if (fcntl(f->fd, F_SETFL, flags | O_DIRECT) < 0 && !ret)
			ret = -errno;
	}
	plt_unit_drop(&f->units, &hold);
	return ret;
}

/* Bytes @done..@done+@n of the iovec, which are a part of the unit at @start (@skip into it). */
static int write_part(struct plt_file *f, uint8_t *buf, uint64_t start, uint64_t skip,
		      const struct iovec *iov, int niov, uint64_t done, uint64_t n)
{
	uint64_t unit = f->st.limits.align;
	struct plt_unit_hold hold;
	struct stat sb;
	bool beyond;
	int ret = 0;

	plt_unit_acquire(&f->units, &hold, start, start + unit, true);
	if (fstat(f->fd, &sb) < 0)
		ret = -errno;
	beyond = !ret && S_ISREG(sb.st_mode) && start + unit > (uint64_t)sb.st_size;
	if (!ret && !beyond) {
		ret = read_buf(f, start, buf, unit);
		if (!ret) {
			plt_iov_to_buf(iov, niov, done, buf + skip, n);
			ret = write_buf(f, start, buf, unit);
		}
	}
	plt_unit_drop(&f->units, &hold);
	/*
	 * If somebody makes the file longer meanwhile, the page cache is still right, only slower.
	 */
	if (beyond) {
		plt_iov_to_buf(iov, niov, done, buf, n);
		ret = write_cached(f, start + skip, buf, n);
	}
	return ret;
}

static int write_units(struct plt_file *f, uint64_t off, uint8_t *buf, uint64_t len)
{
	struct plt_unit_hold hold;
	int ret;

	plt_unit_acquire(&f->units, &hold, off, off + len, false);
	ret = write_buf(f, off, buf, len);
	plt_unit_drop(&f->units, &hold);
	return ret;
}

int plt_direct_write(struct plt_file *f, uint64_t off, const struct iovec *iov, int niov)
{
	uint64_t unit = f->st.limits.align, len = plt_iov_len(iov, niov), done = 0;
	PLT_AUTOFREE uint8_t *buf = NULL;

	if (plt_direct_aligned(f, off, iov, niov)) {
		struct plt_unit_hold hold;
		int ret;

		plt_unit_acquire(&f->units, &hold, off, off + len, false);
		ret = plt_fd_write(f->fd, off, iov, niov);
		plt_unit_drop(&f->units, &hold);
		return ret;
	}
	buf = plt_alloc_io(PLT_MIN(BOUNCE, plt_align_up(len, unit) + unit));
	if (!buf)
		return -ENOMEM;
	while (done < len) {
		uint64_t start = plt_align_down(off + done, unit), skip = off + done - start;
		uint64_t n;
		int ret;

		if (skip || len - done < unit) {
			n = PLT_MIN(unit - skip, len - done);
			ret = write_part(f, buf, start, skip, iov, niov, done, n);
		} else {
			n = plt_align_down(PLT_MIN(len - done, BOUNCE), unit);
			plt_iov_to_buf(iov, niov, done, buf, n);
			ret = write_units(f, start, buf, n);
		}
		if (ret)
			return ret;
		done += n;
	}
	return 0;
}

void plt_direct_acquire(struct plt_file *f, struct plt_unit_hold *h, uint64_t off, uint64_t end)
{
	uint64_t unit = f->st.limits.align, start = plt_align_down(off, unit), up = UINT64_MAX;
	bool whole = start == off && (end == UINT64_MAX || plt_is_aligned(end, unit));

	if (!f->direct)
		return;
	if (end < UINT64_MAX - unit)
		up = plt_align_up(end, unit);
	plt_unit_acquire(&f->units, h, start, up, !whole);
}

void plt_direct_drop(struct plt_file *f, struct plt_unit_hold *h)
{
	if (f->direct)
		plt_unit_drop(&f->units, h);
}

/* What the filesystem says; false if it says nothing. */
static bool ask_statx(int fd, uint32_t *ret_unit, uint32_t *ret_mem)
{
#ifdef STATX_DIOALIGN
	struct statx sx;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) < 0 ||
	    !(sx.stx_mask & STATX_DIOALIGN))
		return false;
	*ret_unit = sx.stx_dio_offset_align;
	*ret_mem = sx.stx_dio_mem_align;
	return plt_is_pow2(*ret_unit) && plt_is_pow2(*ret_mem) && *ret_unit <= BOUNCE / 4 &&
	       *ret_mem <= DEFAULT_UNIT;
#else
	(void)fd;
	(void)ret_unit;
	(void)ret_mem;
	return false;
#endif
}

void plt_direct_probe(struct plt_file *f)
{
	uint32_t unit = DEFAULT_UNIT, mem = DEFAULT_UNIT;
	struct stat sb;

	if (!ask_statx(f->fd, &unit, &mem)) {
		PLT_AUTOFREE uint8_t *buf = plt_alloc_io(2 * DEFAULT_UNIT);

		/* An empty file accepts any length, so it says nothing. */
		unit = mem = DEFAULT_UNIT;
		if (buf && !fstat(f->fd, &sb) && sb.st_size >= DEFAULT_UNIT) {
			for (unit = 512; unit < DEFAULT_UNIT; unit *= 2)
				if (pread(f->fd, buf + unit, unit, 0) == (ssize_t)unit)
					break;
			mem = unit;
		}
	}
	f->st.limits.align = PLT_MAX(unit, 512);
	f->mem_align = mem;
}
