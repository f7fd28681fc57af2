/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Names of a parent: Windows paths in UTF-16, file URLs, and back.  What is read here is text of somebody
 * else's making.  It becomes a list of plain paths to try, never a protocol or a tree of options, and
 * whether one of them may be opened is decided above.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/zero.h"
#include "formats/name.h"
#include "vhd/vhd.h"

/* ---- UTF-16 ---------------------------------------------------------------------------------- */

static size_t put_utf8(char *p, uint32_t c)
{
	if (c < 0x80) {
		p[0] = (char)c;
		return 1;
	}
	if (c < 0x800) {
		p[0] = (char)(0xc0 | c >> 6);
		p[1] = (char)(0x80 | (c & 0x3f));
		return 2;
	}
	if (c < 0x10000) {
		p[0] = (char)(0xe0 | c >> 12);
		p[1] = (char)(0x80 | (c >> 6 & 0x3f));
		p[2] = (char)(0x80 | (c & 0x3f));
		return 3;
	}
	p[0] = (char)(0xf0 | c >> 18);
	p[1] = (char)(0x80 | (c >> 12 & 0x3f));
	p[2] = (char)(0x80 | (c >> 6 & 0x3f));
	p[3] = (char)(0x80 | (c & 0x3f));
	return 4;
}

static uint32_t unit(const uint8_t *p, bool big)
{
	return big ? plt_get_be16(p) : plt_get_le16(p);
}

/* Half a pair becomes U+FFFD. */
char *vhd_from_utf16(const uint8_t *p, size_t len, bool big)
{
	char *ret = malloc(len / 2 * 3 + 1), *q = ret;

	if (!ret)
		return NULL;
	for (size_t i = 0; i + 2 <= len; i += 2) {
		uint32_t c = unit(p + i, big);

		if (!c)
			break;
		if (c >= 0xd800 && c < 0xe000) {
			uint32_t low = c < 0xdc00 && i + 4 <= len ? unit(p + i + 2, big) : 0;

			if (low >= 0xdc00 && low < 0xe000) {
				c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
				i += 2;
			} else {
				c = 0xfffd;
			}
		}
		q += put_utf8(q, c);
	}
	*q = 0;
	return ret;
}

/* The next character of UTF-8; UINT32_MAX: not UTF-8. */
static uint32_t get_utf8(const uint8_t **p)
{
	static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	uint32_t c = *(*p)++;
	unsigned n = c < 0x80 ? 1 : c >> 5 == 6 ? 2 : c >> 4 == 14 ? 3 : c >> 3 == 30 ? 4 : 0;

	if (n == 1)
		return c;
	if (!n)
		return UINT32_MAX;
	c &= 0x7fu >> n;
	for (unsigned i = 1; i < n; i++) {
		if ((**p & 0xc0) != 0x80)
			return UINT32_MAX;
		c = c << 6 | (*(*p)++ & 0x3f);
	}
	return c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) ? UINT32_MAX : c;
}

int vhd_to_utf16(const char *text, bool big, uint8_t **ret, size_t *ret_len)
{
	const uint8_t *p = (const uint8_t *)text;
	uint8_t *buf = malloc(strlen(text) * 2 + 4);
	size_t n = 0;

	if (!buf)
		return -ENOMEM;
	while (*p) {
		uint32_t c = get_utf8(&p), v[2] = { c, 0 };
		unsigned units = 1;

		if (c == UINT32_MAX) {
			free(buf);
			return -EINVAL;
		}
		if (c >= 0x10000) {
			v[0] = 0xd800 + ((c - 0x10000) >> 10);
			v[1] = 0xdc00 + ((c - 0x10000) & 0x3ff);
			units = 2;
		}
		for (unsigned i = 0; i < units; i++, n += 2)
			if (big)
				plt_put_be16(buf + n, (uint16_t)v[i]);
			else
				plt_put_le16(buf + n, (uint16_t)v[i]);
	}
	*ret = buf;
	*ret_len = n;
	return 0;
}

/* The specification does not say which end comes first; of Latin text every other byte is zero. */
static bool is_big(const uint8_t *p, size_t len, bool deflt)
{
	size_t even = 0, odd = 0;

	for (size_t i = 0; i + 2 <= len && (p[i] || p[i + 1]); i += 2) {
		even += !p[i];
		odd += !p[i + 1];
	}
	return even == odd ? deflt : even > odd;
}

/* ---- reading --------------------------------------------------------------------------------- */

uint64_t vhd_locator_space(const struct vhd_locator *l)
{
	uint64_t space = plt_be32_get(l->space);

	return space < VHD_SECTOR ? space * VHD_SECTOR : space;
}

void vhd_names_free(char **names, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		free(names[i]);
	free(names);
}

struct names {
	char *v[3 * VHD_LOCATORS + 2];
	unsigned n;
	bool failed;
};

/* A path, whatever it looks like. */
static void add_name(struct names *l, const char *path)
{
	char *copy;

	while (!strncmp(path, "./", 2))
		path += 2;
	if (!*path || !strcmp(path, ".") || !strcmp(path, ".."))
		return;
	for (unsigned i = 0; i < l->n; i++)
		if (!strcmp(l->v[i] + (!strncmp(l->v[i], "./", 2) ? 2 : 0), path))
			return;
	if (l->n == PLT_ARRAY_SIZE(l->v))
		return;
	copy = malloc(strlen(path) + 3);
	if (!copy) {
		l->failed = true;
		return;
	}
	strcpy(copy, plt_name_has_protocol(path) || !strncmp(path, "json:", 5) ? "./" : "");
	strcat(copy, path);
	l->v[l->n++] = copy;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	if (slash)
		return slash + 1;
	return path[0] && path[1] == ':' ? path + 2 : path; /* C:name */
}

static void to_slashes(char *path)
{
	for (; *path; path++)
		if (*path == '\\')
			*path = '/';
}

static int hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* file://[localhost]/path, or blktap's file://./path: the path. */
static char *from_url(const uint8_t *p, size_t len)
{
	char *ret, *q;
	size_t i = 0;

	if (len >= 7 && !memcmp(p, "file://", 7))
		i = 7;
	if (len - i >= 10 && !memcmp(p + i, "localhost/", 10))
		i += 9;
	ret = q = malloc(len - i + 1);
	if (!ret)
		return NULL;
	for (; i < len && p[i]; i++) {
		if (p[i] == '%' && i + 2 < len && hex((char)p[i + 1]) >= 0 && hex((char)p[i + 2]) >= 0 &&
		    (p[i + 1] != '0' || p[i + 2] != '0')) {
			*q++ = (char)(hex((char)p[i + 1]) << 4 | hex((char)p[i + 2]));
			i += 2;
		} else {
			*q++ = (char)p[i];
		}
	}
	*q = 0;
	return ret;
}

static bool is_code(const struct vhd_locator *l, const char *code)
{
	return !memcmp(l->code, code, 4);
}

static bool is_ascii(const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i] & 0x80)
			return false;
	return true;
}

/*
 * Text of some Windows code page, of which only ASCII is certain.  (Some wrote UTF-16 there all the
 * same.)  NULL without an error: not certain.
 */
static char *from_ansi(const uint8_t *p, size_t len, bool *ret_no_memory)
{
	size_t n = strnlen((const char *)p, len);
	char *ret;

	if (len >= 2 && (!p[0] || !p[1]))
		ret = vhd_from_utf16(p, len, is_big(p, len, false));
	else if (!is_ascii(p, n))
		return NULL;
	else
		ret = strndup((const char *)p, n);
	*ret_no_memory = !ret;
	return ret;
}

#define ALIAS_FIXED 150u /* bytes of a Macintosh alias record before what is tagged */
#define ALIAS_NAME 50u
enum { ALIAS_END = 0xffff, ALIAS_PATH = 18, ALIAS_MOUNT = 19 };

/*
 * An alias record of version 2: the file's path within its volume, and where that is mounted; of older
 * ones only the name.
 */
static char *from_alias(const uint8_t *p, size_t len, bool *ret_no_memory)
{
	const uint8_t *path = NULL, *mount = NULL;
	size_t path_len = 0, mount_len = 0, at = ALIAS_FIXED;
	char *ret;

	if (len < ALIAS_FIXED || plt_get_be16(p + 6) != 2)
		return NULL;
	while (at + 4 <= len && plt_get_be16(p + at) != ALIAS_END) {
		uint16_t tag = plt_get_be16(p + at), n = plt_get_be16(p + at + 2);

		at += 4;
		if (n > len - at)
			break;
		if (tag == ALIAS_PATH) {
			path = p + at;
			path_len = strnlen((const char *)path, n);
		} else if (tag == ALIAS_MOUNT) {
			mount = p + at;
			mount_len = strnlen((const char *)mount, n);
		}
		at += n + (n & 1);
	}
	if (!path_len) { /* the name is in the Mac's own code page */
		path = p + ALIAS_NAME + 1;
		path_len = PLT_MIN(p[ALIAS_NAME], 63);
		mount_len = 0;
		if (!is_ascii(path, path_len) || memchr(path, '/', path_len) || memchr(path, 0, path_len))
			return NULL;
	} else if (path[0] != '/' || (mount_len == 1 && mount[0] == '/')) {
		mount_len = 0;
	}
	ret = malloc(mount_len + path_len + 1);
	*ret_no_memory = !ret;
	if (!ret)
		return NULL;
	if (mount_len)
		memcpy(ret, mount, mount_len);
	memcpy(ret + mount_len, path, path_len);
	ret[mount_len + path_len] = 0;
	return ret;
}

/* A locator's text as a path with slashes; NULL: none (*ret_r: or an error). */
static char *locator_path(struct plt_store *file, uint64_t file_size, const struct vhd_locator *l, int *ret_r,
			  struct plt_error *err)
{
	uint64_t off = plt_be64_get(l->offset), len = plt_be32_get(l->length);
	PLT_AUTOFREE uint8_t *buf = NULL;
	bool no_memory = false;
	char *ret;

	if (!len || len > VHD_MAX_LOCATOR || !plt_in_range(off, len, file_size))
		return NULL;
	buf = malloc(len);
	*ret_r = buf ? plt_store_read(file, off, buf, len, PLT_IO_HEADER, err) : -ENOMEM;
	if (*ret_r < 0)
		return NULL;
	if (is_code(l, "MacX")) {
		ret = from_url(buf, len);
		no_memory = !ret;
	} else if (is_code(l, "Mac ")) {
		ret = from_alias(buf, len, &no_memory);
	} else {
		if (!memcmp(l->code, "Wi2", 3)) {
			ret = from_ansi(buf, len, &no_memory);
		} else {
			ret = vhd_from_utf16(buf, len, is_big(buf, len, false));
			no_memory = !ret;
		}
		if (ret)
			to_slashes(ret);
	}
	*ret_r = no_memory ? -ENOMEM : 0;
	return ret;
}

struct found {
	char *path[VHD_LOCATORS];
	bool relative[VHD_LOCATORS], url[VHD_LOCATORS];
	char *name; /* of the header */
};

static void collect(struct names *l, const struct found *f)
{
	/* where the child says that it is, seen from itself */
	for (unsigned i = 0; i < VHD_LOCATORS; i++)
		if (f->path[i] && f->relative[i] && f->path[i][0] != '/')
			add_name(l, f->path[i]);
	/* beside the child: both were moved together */
	add_name(l, base_name(f->name));
	for (unsigned i = 0; i < VHD_LOCATORS; i++)
		if (f->path[i])
			add_name(l, base_name(f->path[i]));
	/* elsewhere: of a path with a drive letter only the name was of use */
	for (unsigned i = 0; i < VHD_LOCATORS; i++)
		if (f->path[i] && f->url[i])
			add_name(l, f->path[i]);
	for (unsigned i = 0; i < VHD_LOCATORS; i++)
		if (f->path[i] && f->path[i][0] == '/' && f->path[i][1] != '/')
			add_name(l, f->path[i]);
}

int vhd_parent_names(struct plt_store *file, const struct vhd_header *h, char ***ret, unsigned *ret_n,
		     struct plt_error *err)
{
	const uint8_t *name = h->parent_name;
	struct found f = { 0 };
	struct names l = { 0 };
	uint64_t size;
	int r = plt_store_size(file, &size, err);

	if (r < 0)
		return r;
	f.name = vhd_from_utf16(name, sizeof(h->parent_name), is_big(name, sizeof(h->parent_name), true));
	r = f.name ? 0 : -ENOMEM;
	for (unsigned i = 0; i < VHD_LOCATORS && r == 0; i++) {
		const struct vhd_locator *loc = &h->locator[i];

		f.relative[i] = is_code(loc, "W2ru") || is_code(loc, "Wi2r");
		f.url[i] = is_code(loc, "MacX");
		if (f.relative[i] || f.url[i] || is_code(loc, "W2ku") || is_code(loc, "Wi2k") || is_code(loc, "Mac "))
			f.path[i] = locator_path(file, size, loc, &r, err);
	}
	if (r == 0) {
		to_slashes(f.name);
		collect(&l, &f);
	}
	for (unsigned i = 0; i < VHD_LOCATORS; i++)
		free(f.path[i]);
	free(f.name);
	*ret = l.n && r == 0 ? malloc(l.n * sizeof(**ret)) : NULL;
	*ret_n = 0;
	if (r == 0 && (l.failed || (l.n && !*ret)))
		r = -ENOMEM;
	if (r < 0) {
		for (unsigned i = 0; i < l.n; i++)
			free(l.v[i]);
		free(*ret);
		return plt_error_default(err, -r, "out of memory");
	}
	if (l.n)
		memcpy(*ret, l.v, l.n * sizeof(**ret));
	*ret_n = l.n;
	return 0;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* @to as seen from the folder @from; both absolute and free of links.  malloc. */
static char *relative(const char *from, const char *to)
{
	size_t common = 0, n;
	unsigned up = 0;
	char *ret;

	for (size_t i = 0; from[i] && from[i] == to[i]; i++)
		if (from[i] == '/')
			common = i + 1;
	n = strlen(from);
	if (!strncmp(from, to, n) && to[n] == '/')
		common = n + 1;
	for (size_t i = common; i < n; i++)
		up += from[i] == '/' || i == common;
	ret = malloc(3 * (size_t)up + strlen(to) + 1);
	if (!ret)
		return NULL;
	*ret = 0;
	while (up--)
		strcat(ret, "../");
	strcat(ret, to + common);
	return ret;
}

static char *folder_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	if (!slash)
		return strdup(".");
	return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

static char *windows_path(const char *prefix, const char *path)
{
	char *ret = malloc(strlen(prefix) + strlen(path) + 1);

	if (!ret)
		return NULL;
	strcpy(ret, prefix);
	strcat(ret, path);
	for (char *p = ret; *p; p++)
		if (*p == '/')
			*p = '\\';
	return ret;
}

static char *to_url(const char *path)
{
	char *ret = malloc(7 + 3 * strlen(path) + 1), *q;

	if (!ret)
		return NULL;
	q = stpcpy(ret, "file://");
	for (; *path; path++) {
		if ((unsigned char)*path <= ' ' || *path == '%' || *path == '#' || *path == '?' ||
		    (unsigned char)*path >= 0x7f)
			q += sprintf(q, "%%%02X", (unsigned)(unsigned char)*path);
		else
			*q++ = *path;
	}
	*q = 0;
	return ret;
}

static int put_locator(struct plt_store *file, struct vhd_locator *l, const char *code, const void *text, size_t len,
		       uint64_t *off, struct plt_error *err)
{
	uint64_t space = plt_align_up(PLT_MAX(len, (size_t)1), VHD_SECTOR);
	int r;

	if (len > VHD_MAX_LOCATOR)
		return plt_error_set(err, ENAMETOOLONG, "the parent's path is too long for a parent locator");
	memset(l, 0, sizeof(*l));
	memcpy(l->code, code, 4);
	l->space = plt_be32_make((uint32_t)space);
	l->length = plt_be32_make((uint32_t)len);
	l->offset = plt_be64_make(*off);
	r = plt_store_zero(file, *off, space, 0, PLT_IO_OTHER, err);
	if (r == 0)
		r = plt_store_write(file, *off, text, len, PLT_IO_OTHER, err);
	*off += space;
	return r;
}

static int put_windows(struct plt_store *file, struct vhd_locator *l, const char *code, const char *prefix,
		       const char *path, uint64_t *off, struct plt_error *err)
{
	PLT_AUTOFREE char *text = windows_path(prefix, path);
	PLT_AUTOFREE uint8_t *utf16 = NULL;
	size_t len = 0;
	int r = text ? vhd_to_utf16(text, false, &utf16, &len) : -ENOMEM;

	if (r < 0)
		return plt_error_set(err, -r, r == -EINVAL ? "the parent's path is not UTF-8 and cannot be recorded" :
				     "out of memory");
	return put_locator(file, l, code, utf16, len, off, err);
}

int vhd_write_locators(struct plt_store *file, struct vhd_header *h, const char *child, const char *parent,
		       uint64_t off, uint64_t *ret_end, struct plt_error *err)
{
	PLT_AUTOFREE char *full = NULL, *abs = NULL, *folder = folder_of(child), *from = NULL, *rel = NULL, *url = NULL;
	PLT_AUTOFREE uint8_t *name = NULL;
	size_t len = 0;
	int r = plt_name_resolve(child, parent, &full, err);

	if (r < 0)
		return r;
	if (!strncmp(full, "file:", 5))
		memmove(full, full + 5, strlen(full + 5) + 1);
	if (plt_name_has_protocol(full) || !strncmp(full, "json:", 5))
		return plt_error_set(err, ENOTSUP, "a VHD can record a plain file as its parent, not '%s'", parent);
	abs = realpath(full, NULL);
	from = folder ? realpath(folder, NULL) : NULL;
	rel = abs && from ? relative(from, abs) : strdup(parent);
	if (!rel)
		return plt_error_set(err, ENOMEM, "out of memory");
	r = vhd_to_utf16(base_name(rel), true, &name, &len);
	if (r < 0)
		return plt_error_set(err, -r, r == -EINVAL ? "the parent's name is not UTF-8 and cannot be recorded" :
				     "out of memory");
	memset(h->parent_name, 0, sizeof(h->parent_name));
	memcpy(h->parent_name, name, PLT_MIN(len, sizeof(h->parent_name) - 2));
	memset(h->locator, 0, sizeof(h->locator));
	r = *rel == '/' ? 0 : put_windows(file, &h->locator[0], "W2ru", ".\\", rel, &off, err);
	if (r == 0 && abs)
		r = put_windows(file, &h->locator[1], "W2ku", "", abs, &off, err);
	if (r == 0 && abs) {
		url = to_url(abs);
		r = url ? put_locator(file, &h->locator[2], "MacX", url, strlen(url), &off, err) :
			  plt_error_set(err, ENOMEM, "out of memory");
	}
	*ret_end = off;
	return r;
}
