/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Many files that are one: the pieces of a file that was split, one behind the other, and the objects of a striped
 * disk, each of which says by its name where it belongs, and reads as zeros where there is none.  Only for reading.
 *
 * The invariant: a byte comes from the piece that its place is in, or nothing is opened: a piece that is missing
 * among those of a split file, an object that is larger than its room, or two disks in one folder are refused.
 * At most OPEN_MAX files are open at a time; of more pieces each is opened when it is asked for.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/iov.h"
#include "io/pieces.h"
#include "io/private.h"

#define OPEN_MAX_PIECES 128
#define PIECES_MAX (1u << 22)    /* 16 TiB in objects of 4 MiB */
#define USUAL_OBJECT (4u << 20)  /* of Ceph's block devices */
#define OBJECT_DIGITS 16

struct piece {
	char *path;
	uint64_t off, len;       /* of the whole */
	int64_t allocated;
	struct plt_store *st;    /* NULL: not open */
};

struct pieces {
	struct plt_store st;
	struct piece *v;         /* ascending, disjoint */
	size_t n, cap;
	uint64_t size;
	pthread_mutex_t lock;    /* which are open */
	size_t open, hand;       /* how many, and whose turn it is to be closed */
};

/* ---- the list -------------------------------------------------------------------------------- */

static int add(struct pieces *p, const char *path, uint64_t off, const struct stat *sb, struct plt_error *err)
{
	struct piece *grown;

	if (!S_ISREG(sb->st_mode))
		return plt_error_set(err, EINVAL, "'%s' is no regular file: a piece of a disk is expected", path);
	if (p->n == p->cap) {
		p->cap = p->cap ? 2 * p->cap : 64;
		grown = p->cap > PIECES_MAX ? NULL : realloc(p->v, p->cap * sizeof(*grown));
		if (!grown)
			return plt_error_set(err, p->cap > PIECES_MAX ? EFBIG : ENOMEM, "'%s': too many pieces", path);
		p->v = grown;
	}
	p->v[p->n] = (struct piece){ .path = strdup(path), .off = off, .len = (uint64_t)sb->st_size,
				     .allocated = (int64_t)sb->st_blocks * 512 };
	if (!p->v[p->n++].path)
		return plt_error_set(err, ENOMEM, "out of memory");
	return 0;
}

/* The name of the next piece: its counter goes one up, "009" to "010", "az" to "ba".  False: there is none. */
static bool count_up(char *counter, size_t digits)
{
	for (size_t i = digits; i--; ) {
		char first = isdigit((unsigned char)counter[i]) ? '0' : 'a';

		if (counter[i] != (first == '0' ? '9' : 'z')) {
			counter[i]++;
			return true;
		}
		counter[i] = first;
	}
	return false;
}

/*
 * Where the counter of @name is: digits at its end ("disk.000"), or in front of its last suffix ("disk-f001.vmdk"), or
 * the letters that split(1) appends ("xaa").
 */
static char *find_counter(char *name, size_t *ret_digits)
{
	char *base = strrchr(name, '/') ? strrchr(name, '/') + 1 : name, *dot = strrchr(base, '.'), *end, *p;
	char *const ends[] = { base + strlen(base), dot };

	for (unsigned i = 0; i < 2; i++) {
		end = ends[i];
		for (p = end; p && p > base && isdigit((unsigned char)p[-1]); )
			p--;
		if (p && p < end && end - p < 10) {
			*ret_digits = (size_t)(end - p);
			return p;
		}
	}
	for (p = end = ends[0]; p > base && p[-1] == 'a'; )
		p--;
	*ret_digits = (size_t)(end - p);
	return end - p >= 2 ? p : NULL;
}

static bool is_sparse_extent(const char *path)
{
	struct plt_store *st;
	char magic[4] = "";

	if (plt_file_open(path, PLT_FILE_NO_LOCK, &st, NULL) < 0)
		return false;
	(void)plt_store_read(st, 0, magic, sizeof(magic), PLT_IO_HEADER, NULL);
	plt_store_unref(st);
	return !memcmp(magic, "KDMV", 4) || !memcmp(magic, "COWD", 4);
}

static int list_split(struct pieces *p, const char *first, struct plt_error *err)
{
	PLT_AUTOFREE char *name = strdup(first);
	char *counter;
	size_t digits;
	struct stat sb;
	int r = 0;

	if (!name)
		return plt_error_set(err, ENOMEM, "out of memory");
	counter = find_counter(name, &digits);
	if (!counter)
		return plt_error_set(err, EINVAL, "'%s': the first of several pieces is expected, with a name that counts: "
				     "DISK.000, DISK.001, DISK-f001, xaa", first);
	while (r == 0 && stat(name, &sb) == 0) {
		r = add(p, name, p->size, &sb, err);
		if (r == 0 && (plt_add(p->size, (uint64_t)sb.st_size, &p->size) || p->size > INT64_MAX))
			r = plt_error_set(err, EFBIG, "'%s': all pieces together are too large", first);
		if (r == 0 && !count_up(counter, digits))
			return 0;
	}
	if (r < 0)
		return r;
	if (!p->n || errno != ENOENT)
		return plt_error_errno(err, errno, "Could not open '%s'", name);
	if (is_sparse_extent(p->v[0].path))
		return plt_error_set(err, EINVAL, "'%s' is a sparse extent of a VMDK: its bytes are not the disk's", first);
	/* is it only one that is missing? */
	for (unsigned i = 0; i < 16; i++) {
		PLT_AUTOFREE char *missing = strdup(name);

		if (!missing || !count_up(counter, digits))
			break;
		if (stat(name, &sb) == 0)
			return plt_error_set(err, ENOENT, "'%s' is missing, and later pieces ('%s') are there", missing, name);
	}
	return 0;
}

/* PREFIX.%016x: its number; false: no such name. */
static bool object_name(const char *name, size_t *ret_prefix, uint64_t *ret)
{
	size_t n = strlen(name);
	char *end;

	if (n < OBJECT_DIGITS + 2 || name[n - OBJECT_DIGITS - 1] != '.')
		return false;
	for (size_t i = n - OBJECT_DIGITS; i < n; i++)
		if (!isdigit((unsigned char)name[i]) && (name[i] < 'a' || name[i] > 'f'))
			return false;
	*ret_prefix = n - OBJECT_DIGITS - 1;
	*ret = strtoull(name + n - OBJECT_DIGITS, &end, 16);
	return true;
}

static int by_off(const void *a, const void *b)
{
	const struct piece *x = a, *y = b;

	return x->off < y->off ? -1 : x->off > y->off;
}

/* All objects in the folder @dir; @want: whose name begins so ("": there is only one disk). */
static int read_folder(struct pieces *p, const char *dir, const char *want, struct plt_error *err)
{
	PLT_AUTOFREE char *prefix = NULL;
	DIR *d = opendir(dir);
	struct dirent *e;
	int r = 0;

	if (!d)
		return plt_error_errno(err, errno, "Could not open '%s'", dir);
	while (r == 0 && (e = readdir(d))) {
		PLT_AUTOFREE char *path = NULL;
		uint64_t number;
		struct stat sb;
		size_t n;

		if (!object_name(e->d_name, &n, &number) ||
		    (*want && (strlen(want) != n || strncmp(e->d_name, want, n))))
			continue;
		if (prefix && (strlen(prefix) != n || strncmp(prefix, e->d_name, n)))
			r = plt_error_set(err, EINVAL, "'%s' has objects of several disks, '%s' and '%.*s': name one of them "
					  "(%s/%s)", dir, prefix, (int)n, e->d_name, dir, prefix);
		if (!prefix)
			prefix = strndup(e->d_name, n);
		if (!prefix || asprintf(&path, "%s/%s", dir, e->d_name) < 0)
			r = plt_error_set(err, ENOMEM, "out of memory");
		else if (r == 0 && stat(path, &sb) < 0)
			r = plt_error_errno(err, errno, "Could not open '%s'", path);
		if (r == 0)
			r = add(p, path, number, &sb, err); /* (times the object's size, when that is known) */
	}
	closedir(d);
	if (r == 0 && !p->n)
		r = plt_error_set(err, ENOENT, "'%s': no objects of a striped disk (NAME.0000000000000000 and so on) are there",
				  dir);
	return r;
}

static int list_objects(struct pieces *p, const char *dir, const char *want, uint64_t object, struct plt_error *err)
{
	uint64_t largest = 0;
	int r = read_folder(p, dir, want, err);

	if (r < 0)
		return r;
	qsort(p->v, p->n, sizeof(*p->v), by_off);
	for (size_t i = 0; i < p->n; i++)
		largest = PLT_MAX(largest, p->v[i].len);
	if (!object) {
		object = plt_is_pow2(largest) ? largest : USUAL_OBJECT;
		if (largest > object || object < 4096)
			return plt_error_set(err, EINVAL, "'%s': the largest object has %" PRIu64 " bytes, which does not tell how "
					     "large they are (option object-size)", dir, largest);
	}
	if (largest > object)
		return plt_error_set(err, EINVAL, "'%s': an object has %" PRIu64 " bytes, and they are of %" PRIu64, dir, largest,
				     object);
	for (size_t i = 0; i < p->n; i++)
		if (plt_mul(p->v[i].off, object, &p->v[i].off) || object >= INT64_MAX || p->v[i].off > INT64_MAX - object)
			return plt_error_set(err, EFBIG, "'%s': object '%s' lies behind the largest disk", dir, p->v[i].path);
	p->size = p->v[p->n - 1].off + object;
	return 0;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* The piece that @off is in, or the first behind it; p->n: none. */
static size_t piece_at(const struct pieces *p, uint64_t off)
{
	size_t lo = 0, hi = p->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (p->v[mid].off + p->v[mid].len <= off)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* An open store of piece @i, with a reference for the caller. */
static int get(struct pieces *p, size_t i, struct plt_store **ret, struct plt_error *err)
{
	struct piece *piece = &p->v[i];
	int r = 0;

	pthread_mutex_lock(&p->lock);
	if (!piece->st) {
		while (p->open >= OPEN_MAX_PIECES) {
			struct piece *old = &p->v[p->hand++ % p->n];

			if (!old->st)
				continue;
			plt_store_unref(old->st);
			old->st = NULL;
			p->open--;
		}
		r = plt_file_open(piece->path, PLT_FILE_NO_LOCK, &piece->st, err);
		p->open += r == 0;
	}
	*ret = r == 0 ? plt_store_ref(piece->st) : NULL;
	pthread_mutex_unlock(&p->lock);
	return r;
}

static int read_piece(struct pieces *p, size_t i, uint64_t in, const struct iovec *iov, int niov, size_t at, size_t len,
		      enum plt_io_tag tag, struct plt_error *err)
{
	struct iovec *part = malloc((size_t)plt_iov_slice_count(iov, niov, at, len) * sizeof(*part));
	struct plt_store *st = NULL;
	uint64_t have;
	int r = part ? get(p, i, &st, err) : plt_error_set(err, ENOMEM, "out of memory");

	/* what it has lost since would read as zeros */
	if (r == 0)
		r = plt_store_size(st, &have, err);
	if (r == 0 && have < p->v[i].len)
		r = plt_error_set(err, EIO, "'%s' has become shorter: %" PRIu64 " bytes, %" PRIu64 " when it was opened",
				  p->v[i].path, have, p->v[i].len);
	if (r == 0)
		r = plt_store_readv(st, in, part, plt_iov_slice(iov, niov, at, len, part), tag, err);
	plt_store_unref(st);
	free(part);
	return r;
}

static int pieces_read(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov, enum plt_io_tag tag,
		       struct plt_error *err)
{
	struct pieces *p = st->priv;
	size_t len = plt_iov_len(iov, niov), at = 0, n;
	int r = 0;

	for (size_t i = piece_at(p, off); at < len && r == 0; at += n) {
		const struct piece *piece = i < p->n ? &p->v[i] : NULL;

		if (!piece || piece->off > off + at) { /* in front of it, or behind all: nothing is there */
			n = piece ? (size_t)PLT_MIN((uint64_t)(len - at), piece->off - off - at) : len - at;
			plt_iov_zero(iov, niov, at, n);
			continue;
		}
		n = (size_t)PLT_MIN((uint64_t)(len - at), piece->off + piece->len - off - at);
		if (n)
			r = read_piece(p, i, off + at - piece->off, iov, niov, at, n, tag, err);
		i++;
	}
	return r;
}

static int pieces_extents(struct plt_store *st, uint64_t off, uint64_t len, enum plt_store_kind *ret_kind,
			  uint64_t *ret_len, struct plt_error *err)
{
	struct pieces *p = st->priv;
	size_t i = piece_at(p, off);
	const struct piece *piece = i < p->n ? &p->v[i] : NULL;
	struct plt_store *one;
	int r;

	if (!piece || piece->off > off) {
		*ret_kind = PLT_STORE_HOLE;
		*ret_len = piece ? PLT_MIN(len, piece->off - off) : len;
		return 0;
	}
	r = get(p, i, &one, err);
	if (r < 0)
		return r;
	r = plt_store_extents(one, off - piece->off, PLT_MIN(len, piece->off + piece->len - off), ret_kind, ret_len, err);
	plt_store_unref(one);
	return r;
}

static int pieces_size(struct plt_store *st, uint64_t *ret, struct plt_error *err)
{
	(void)err;
	*ret = ((struct pieces *)st->priv)->size;
	return 0;
}

static int64_t pieces_allocated(struct plt_store *st)
{
	struct pieces *p = st->priv;
	int64_t sum = 0;

	for (size_t i = 0; i < p->n; i++)
		sum += p->v[i].allocated;
	return sum;
}

/* Wrappers refuse it already; a store has to have one. */
static int pieces_write(struct plt_store *st, uint64_t off, const struct iovec *iov, int niov, enum plt_io_tag tag,
			struct plt_error *err)
{
	(void)off;
	(void)iov;
	(void)niov;
	(void)tag;
	return plt_error_set(err, EROFS, "'%s': a disk in pieces is only read", st->name);
}

static void pieces_close(struct plt_store *st)
{
	struct pieces *p = st->priv;

	for (size_t i = 0; i < p->n; i++) {
		plt_store_unref(p->v[i].st);
		free(p->v[i].path);
	}
	free(p->v);
	pthread_mutex_destroy(&p->lock);
}

static const struct plt_store_ops pieces_ops = {
	.kind = "pieces",
	.close = pieces_close,
	.size = pieces_size,
	.read = pieces_read,
	.write = pieces_write,
	.extents = pieces_extents,
	.allocated = pieces_allocated,
};

/* ---- opening --------------------------------------------------------------------------------- */

static int list(struct pieces *p, const char *name, uint64_t object, struct plt_error *err)
{
	PLT_AUTOFREE char *copy = strdup(name);
	char *slash = copy ? strrchr(copy, '/') : NULL;
	struct stat sb;

	if (!copy)
		return plt_error_set(err, ENOMEM, "out of memory");
	if (stat(name, &sb) == 0 && S_ISDIR(sb.st_mode))
		return list_objects(p, name, "", object, err);
	if (errno == ENOENT && slash && slash[1]) { /* FOLDER/PREFIX: one of several disks */
		int r;

		*slash = '\0';
		r = list_objects(p, *copy ? copy : "/", slash + 1, object, NULL);
		*slash = '/';
		if (r == 0)
			return 0;
	}
	return object ? plt_error_set(err, EINVAL, "'%s' is no folder of objects: object-size has no meaning", name) :
			list_split(p, name, err);
}

int plt_pieces_open(const char *name, uint64_t object, uint64_t size, struct plt_store **ret, struct plt_error *err)
{
	struct pieces *p = calloc(1, sizeof(*p));
	int r;

	if (!p || plt_store_init(&p->st, &pieces_ops, name)) {
		free(p);
		return plt_error_set(err, ENOMEM, "out of memory");
	}
	p->st.priv = p;
	p->st.readonly = true;
	p->st.limits.can_grow = false;
	pthread_mutex_init(&p->lock, NULL);
	r = list(p, name, object, err);
	if (r == 0 && size) {
		if (size < (p->n ? p->v[p->n - 1].off : 0))
			r = plt_error_set(err, EINVAL, "'%s': pieces lie behind a size of %" PRIu64 " bytes", name, size);
		p->size = size;
	}
	if (r < 0) {
		plt_store_unref(&p->st);
		return r;
	}
	*ret = &p->st;
	return 0;
}
