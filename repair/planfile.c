/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Plans as files, for a person to look at and change before they are followed (docs/formats/plan.md): JSON, a line
 * an item.  What is read is hostile: lines and memory are bounded, edits are disjoint and inside the image (or right
 * behind its end), and each names a checksum of what is there before, so that a plan for another image, or for
 * this one changed since, is refused.  Nothing is edited before all of the file has been found good.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/stat.h>

#include "base/crc.h"
#include "base/extents.h"
#include "formats/driver.h"
#include "repair/repair.h"

#define PIECE 65536u              /* of an edit, in one line */
#define LINE_MAX_BYTES (1u << 20)
#define MAX_GROWTH (UINT64_C(4) << 30)
#define SLACK (UINT64_C(2) << 20) /* a new end lies no further behind the last edit than a cluster is long */

static const char *const certainties[] = { "guess", "likely", "strong", "proven" };

/* Of what an edit replaces; zeros behind the end count as far as SLACK. */
static int before_crc(const struct plt_repair *rep, uint64_t off, uint64_t len, uint32_t *ret, struct plt_error *err)
{
	struct plt_store *st = rep->file;
	uint8_t buf[4096];
	uint32_t crc = UINT32_MAX;

	len = PLT_MIN(len, off < rep->size ? rep->size - off + SLACK : SLACK);
	while (len) {
		size_t n = (size_t)PLT_MIN(len, (uint64_t)sizeof(buf));
		int r = plt_store_read(st, off, buf, n, PLT_IO_OTHER, err);

		if (r < 0)
			return r;
		crc = plt_crc32c(crc, buf, n);
		off += n;
		len -= n;
	}
	*ret = ~crc;
	return 0;
}

/* ---- writing --------------------------------------------------------------------------------- */

struct save {
	struct plt_repair *rep;
	FILE *f;
	struct plt_error *err;
};

/* Takes @o. */
static int put_line(struct save *s, json_t *o)
{
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	int r = 0;

	json_decref(o);
	if (!text)
		r = plt_error_set(s->err, ENOMEM, "out of memory");
	else if (fprintf(s->f, "%s\n", text) < 0)
		r = plt_error_errno(s->err, errno, "could not write the plan");
	free(text);
	return r;
}

static void explain(const struct save *s, json_t *o, uint64_t off, uint64_t len)
{
	json_t *why = json_array();

	for (size_t i = 0; i < s->rep->nmended; i++) {
		const struct plt_mended *m = &s->rep->mended[i];

		if (!plt_ranges_overlap(off, len, m->host_off, m->host_len))
			continue;
		if (!json_array_size(why))
			json_object_set_new(o, "class", json_string(m->id));
		json_array_append_new(why, json_string_nocheck(m->text));
	}
	if (json_array_size(why))
		json_object_set(o, "why", why);
	json_decref(why);
}

/* What the plan is for: lines that nobody follows. */
static int put_findings(struct save *s)
{
	int r = 0;

	for (size_t i = 0; i < s->rep->nmended && r == 0; i++) {
		const struct plt_mended *m = &s->rep->mended[i];

		r = put_line(s, json_pack("{s:{s:s, s:o, s:I, s:I}}", "finding", "class", m->id, "text",
					  json_string_nocheck(m->text), "off", (json_int_t)m->host_off, "len",
					  (json_int_t)m->host_len));
	}
	return r;
}

static int put_edit(struct save *s, uint64_t off, const uint8_t *bytes, uint64_t len)
{
	static const char digits[] = "0123456789abcdef";
	json_t *o = json_pack("{s:s, s:I, s:I}", "store", "image", "off", (json_int_t)off, "len", (json_int_t)len);
	uint32_t crc;
	int r = o ? before_crc(s->rep, off, len, &crc, s->err) : plt_error_set(s->err, ENOMEM, "out of memory");

	if (r < 0) {
		json_decref(o);
		return r;
	}
	json_object_set_new(o, "before_crc", json_integer(crc));
	if (bytes) {
		char *hex = malloc((size_t)len * 2 + 1);

		for (size_t i = 0; hex && i < len; i++) {
			hex[2 * i] = digits[bytes[i] >> 4];
			hex[2 * i + 1] = digits[bytes[i] & 15];
		}
		if (hex)
			hex[2 * len] = '\0';
		json_object_set_new(o, "hex", hex ? json_string(hex) : NULL);
		free(hex);
	} else {
		json_object_set_new(o, "zero", json_true());
	}
	explain(s, o, off, len);
	return put_line(s, o);
}

static int put_edits(void *arg, uint64_t off, const void *bytes, uint64_t len)
{
	struct save *s = arg;
	int r = bytes ? 0 : put_edit(s, off, NULL, len);

	for (uint64_t done = 0, n; bytes && done < len && r == 0; done += n) {
		n = PLT_MIN(len - done, (uint64_t)PIECE);
		r = put_edit(s, off + done, (const uint8_t *)bytes + done, n);
	}
	return r;
}

static int put_doubts(struct save *s)
{
	int r = 0;

	for (size_t i = 0; i < s->rep->doubts.n && r == 0; i++) {
		const struct plt_doubt *d = &s->rep->doubts.v[i];
		json_t *o = json_pack("{s:I, s:I, s:s}", "start", (json_int_t)d->off, "length", (json_int_t)d->len, "reason",
				      d->why);

		if (o && d->disk != PLT_DISK_ACTIVE)
			json_object_set_new(o, "snapshot", json_integer(d->disk));
		if (o && d->kind == PLT_INFERRED)
			json_object_set_new(o, "certainty", json_string(certainties[d->certainty & 3]));
		r = put_line(s, json_pack("{s:o}", d->kind == PLT_LOST ? "lost" : "inferred", o));
	}
	return r;
}

static int put_all(struct save *s)
{
	uint64_t size = 0;
	json_t *o;
	int r = plt_store_size(s->rep->overlay, &size, s->err);

	if (r < 0)
		return r;
	o = json_pack("{s:i, s:s, s:[{s:s, s:I}]}", "platter_plan", 1, "format", s->rep->format, "stores", "role", "image",
		      "size", (json_int_t)s->rep->size);
	r = put_line(s, o);
	if (r == 0)
		r = put_findings(s);
	if (r == 0 && size > s->rep->size)
		r = put_line(s, json_pack("{s:s, s:I}", "store", "image", "length", (json_int_t)size));
	if (r == 0)
		r = plt_repair_each(s->rep, put_edits, s);
	return r < 0 ? r : put_doubts(s);
}

static bool is_the_image(const struct plt_repair *rep, const char *path)
{
	struct stat a, b;
	int fd = plt_store_fd(rep->file);

	return fd >= 0 && fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

int plt_repair_save(struct plt_repair *rep, const char *path, struct plt_error *err)
{
	struct save s = { .rep = rep, .err = err };
	PLT_AUTOFREE char *tmp = NULL;
	int r;

	if (rep->moved)
		return plt_error_set(err, ENOTSUP, "'%s': a plan's file cannot say that the disk begins further on in the image",
				     rep->name);

	if (is_the_image(rep, path))
		return plt_error_set(err, EINVAL, "'%s' is the image: the plan is not written over it", path);
	if (asprintf(&tmp, "%s.new", path) < 0) {
		tmp = NULL;
		return plt_error_set(err, ENOMEM, "out of memory");
	}
	s.f = fopen(tmp, "wxe");
	if (!s.f)
		return plt_error_errno(err, errno, "could not create '%s'", tmp);
	r = put_all(&s);
	if ((fflush(s.f) != 0 || fsync(fileno(s.f)) < 0) && r == 0)
		r = plt_error_errno(err, errno, "could not write '%s'", tmp);
	if (fclose(s.f) != 0 && r == 0)
		r = plt_error_errno(err, errno, "could not write '%s'", tmp);
	if (r == 0 && rename(tmp, path) < 0)
		r = plt_error_errno(err, errno, "could not rename '%s' to '%s'", tmp, path);
	if (r < 0)
		(void)unlink(tmp);
	return r;
}

/* ---- reading --------------------------------------------------------------------------------- */

struct load {
	struct plt_repair *rep;
	const char *path;
	unsigned line;
	bool begun;
	uint64_t length;               /* of the file afterwards; 0: not said */
	uint64_t end;                  /* of the last edit */
	struct plt_extents edited;
	struct plt_store *edits;       /* an overlay, which takes the place of the plan's if all is good */
	struct plt_error *err;
};

static int bad(const struct load *l, int errnum, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int bad(const struct load *l, int errnum, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return plt_error_set(l->err, errnum, "'%s': line %u: %s", l->path, l->line, text);
}

static bool number(const json_t *o, const char *key, uint64_t *ret)
{
	const json_t *v = json_object_get(o, key);

	if (!json_is_integer(v) || json_integer_value(v) < 0)
		return false;
	*ret = (uint64_t)json_integer_value(v);
	return true;
}

static int header(struct load *l, const json_t *o)
{
	const json_t *stores = json_object_get(o, "stores"), *st = json_array_get(stores, 0);
	const char *format = json_string_value(json_object_get(o, "format")), *role;
	const struct plt_driver *drv = format ? plt_driver_find(format) : NULL;
	uint64_t version, size;

	if (!number(o, "platter_plan", &version) || version != 1)
		return bad(l, EINVAL, "not a plan: expected \"platter_plan\": 1");
	if (!drv)
		return bad(l, EINVAL, "a format that is not known: '%.32s'", format ? format : "");
	if (l->rep->format && strcmp(l->rep->format, drv->name))
		return bad(l, EINVAL, "a plan for an image of the format %s, and this one is %s", drv->name, l->rep->format);
	role = json_string_value(json_object_get(st, "role"));
	if (json_array_size(stores) != 1 || !role || strcmp(role, "image") || !number(st, "size", &size))
		return bad(l, EINVAL, "expected one store, the image, and its size");
	if (size != l->rep->size)
		return bad(l, ESTALE, "a plan for another image, or for this one as it was: its size was %" PRIu64 ", and is %"
			   PRIu64, size, l->rep->size);
	if (!l->rep->format && !(l->rep->format = strdup(drv->name)))
		return bad(l, ENOMEM, "out of memory");
	l->begun = true;
	return 0;
}

static int digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static uint8_t *unhex(const char *s, uint64_t len)
{
	uint8_t *v = strlen(s) / 2 == len && strlen(s) % 2 == 0 ? malloc((size_t)len) : NULL;

	for (size_t i = 0; v && i < len; i++) {
		int hi = digit(s[2 * i]), lo = digit(s[2 * i + 1]);

		if (hi < 0 || lo < 0) {
			free(v);
			return NULL;
		}
		v[i] = (uint8_t)(hi << 4 | lo);
	}
	return v;
}

/* What was at @from before the plan. */
static int copy_old(struct load *l, uint64_t off, uint64_t from, uint64_t len)
{
	uint8_t buf[4096];
	int r = 0;

	for (uint64_t done = 0, n; done < len && r == 0; done += n) {
		n = PLT_MIN(len - done, (uint64_t)sizeof(buf));
		r = plt_store_read(l->rep->file, from + done, buf, (size_t)n, PLT_IO_OTHER, l->err);
		if (r == 0)
			r = plt_store_write(l->edits, off + done, buf, (size_t)n, PLT_IO_OTHER, l->err);
	}
	return r;
}

static int do_edit(struct load *l, const json_t *o, uint64_t off, uint64_t len)
{
	const char *hex = json_string_value(json_object_get(o, "hex"));
	bool zero = json_is_true(json_object_get(o, "zero"));
	PLT_AUTOFREE uint8_t *bytes = NULL;
	uint64_t from, end;

	if (number(o, "copy_from", &from)) {
		if (hex || zero)
			return bad(l, EINVAL, "one of \"hex\", \"zero\" and \"copy_from\" is expected");
		if (plt_add(from, len, &end) || end > l->rep->size || len > LINE_MAX_BYTES)
			return bad(l, EINVAL, "\"copy_from\" leads out of the image (%" PRIu64 " bytes), or is longer than %u",
				   l->rep->size, LINE_MAX_BYTES);
		return copy_old(l, off, from, len);
	}
	if (!hex == !zero)
		return bad(l, EINVAL, "one of \"hex\", \"zero\" and \"copy_from\" is expected");
	if (zero)
		return plt_store_zero(l->edits, off, len, 0, PLT_IO_OTHER, l->err);
	bytes = unhex(hex, len);
	if (!bytes)
		return bad(l, EINVAL, "\"hex\" is not %" PRIu64 " bytes", len);
	return plt_store_write(l->edits, off, bytes, (size_t)len, PLT_IO_OTHER, l->err);
}

static int edit(struct load *l, const json_t *o)
{
	const char *store = json_string_value(json_object_get(o, "store"));
	uint64_t off, len, end, before;
	uint32_t crc = 0;
	int r;

	if (!store || strcmp(store, "image"))
		return bad(l, EINVAL, "a store that the plan does not name");
	if (json_object_get(o, "length")) {
		if (l->length || !number(o, "length", &l->length) || l->length < l->rep->size ||
		    l->length - l->rep->size > MAX_GROWTH)
			return bad(l, EINVAL, "\"length\": expected once, between what the image has (%" PRIu64 ") and %" PRIu64
				   " more", l->rep->size, MAX_GROWTH);
		return 0;
	}
	if (!number(o, "off", &off) || !number(o, "len", &len) || !len || plt_add(off, len, &end) || end > INT64_MAX)
		return bad(l, EINVAL, "\"off\" and \"len\" are expected, and to end below 2^63");
	if (plt_extents_overlaps(&l->edited, off, len))
		return bad(l, EINVAL, "the edit overlaps another (at %#" PRIx64 ", %" PRIu64 " bytes)", off, len);
	if (end > l->rep->size && end > l->length)
		return bad(l, EINVAL, "the edit leads behind the end of the image (%" PRIu64 "; a \"length\" comes first)",
			   PLT_MAX(l->rep->size, l->length));
	if (!number(o, "before_crc", &before))
		return bad(l, EINVAL, "\"before_crc\" is expected");
	r = before_crc(l->rep, off, len, &crc, l->err);
	if (r == 0 && before != crc)
		return bad(l, ESTALE, "a plan for another image, or for this one as it was: \"before_crc\" is %" PRIu64
			   ", and of what is there %" PRIu32, before, crc);
	if (r == 0)
		r = do_edit(l, o, off, len);
	if (r == 0 && plt_extents_add(&l->edited, off, len) < 0)
		r = bad(l, ENOMEM, "out of memory");
	l->end = PLT_MAX(l->end, end);
	return r;
}

static int doubt(struct load *l, const json_t *o, enum plt_doubt_kind kind)
{
	struct plt_doubt d = { .kind = kind, .disk = PLT_DISK_ACTIVE };
	const char *why = json_string_value(json_object_get(o, "reason"));
	const char *certainty = json_string_value(json_object_get(o, "certainty"));
	unsigned c = 0;
	uint64_t disk;
	int r;

	while (kind == PLT_INFERRED && c < 4 && (!certainty || strcmp(certainty, certainties[c])))
		c++;
	if (!number(o, "start", &d.off) || !number(o, "length", &d.len) || !why || c == 4)
		return bad(l, EINVAL, "\"start\", \"length\" and \"reason\" are expected, of what is inferred \"certainty\", too");
	if (json_object_get(o, "snapshot")) {
		if (!number(o, "snapshot", &disk) || disk >= PLT_DISK_ACTIVE)
			return bad(l, EINVAL, "\"snapshot\" is no position in the table of snapshots");
		d.disk = (uint32_t)disk;
	}
	d.certainty = (enum plt_certainty)c;
	snprintf(d.why, sizeof(d.why), "%s", why);
	r = plt_doubts_set(&l->rep->doubts, &d);
	return r < 0 ? bad(l, -r, "%s", strerror(-r)) : 0;
}

static int item(struct load *l, const char *text)
{
	json_error_t why;
	json_t *o = json_loads(text, JSON_REJECT_DUPLICATES, &why), *v;
	int r;

	if (!json_is_object(o))
		r = bad(l, EINVAL, "%s", o ? "expected an object" : why.text);
	else if (!l->begun)
		r = header(l, o);
	else if ((v = json_object_get(o, "lost")))
		r = doubt(l, v, PLT_LOST);
	else if ((v = json_object_get(o, "inferred")))
		r = doubt(l, v, PLT_INFERRED);
	else if (json_object_get(o, "finding"))
		r = 0; /* said for people */
	else
		r = edit(l, o);
	json_decref(o);
	return r;
}

static int read_lines(struct load *l, FILE *f)
{
	PLT_AUTOFREE char *buf = malloc(LINE_MAX_BYTES + 2);
	int r = 0;

	if (!buf)
		return bad(l, ENOMEM, "out of memory");
	while (r == 0 && fgets(buf, (int)LINE_MAX_BYTES + 2, f)) {
		size_t n = strlen(buf);

		l->line++;
		if (n && buf[n - 1] != '\n' && !feof(f))
			r = bad(l, EINVAL, "longer than %u bytes", LINE_MAX_BYTES);
		else if (buf[strspn(buf, " \t\r\n")])
			r = item(l, buf);
	}
	if (r == 0 && ferror(f))
		return plt_error_errno(l->err, errno, "could not read '%s'", l->path);
	if (r == 0 && !l->begun)
		r = bad(l, EINVAL, "not a plan: it is empty");
	return r;
}

int plt_repair_load(struct plt_repair *rep, const char *path, struct plt_error *err)
{
	struct load l = { .rep = rep, .path = path, .err = err };
	FILE *f = fopen(path, "re");
	int r;

	if (!f)
		return plt_error_errno(err, errno, "could not open the plan '%s'", path);
	r = plt_overlay_new(rep->file, true, &l.edits) < 0 ? bad(&l, ENOMEM, "out of memory") : read_lines(&l, f);
	fclose(f);
	if (r == 0 && l.length > PLT_MAX(rep->size, l.end) + SLACK)
		r = plt_error_set(err, EINVAL, "'%s': the image grows to %" PRIu64 " bytes, and the last edit ends at %" PRIu64,
				  path, l.length, l.end);
	if (r == 0 && l.length > rep->size)
		r = plt_store_truncate(l.edits, l.length, err);
	plt_extents_release(&l.edited);
	if (r < 0) {
		plt_store_unref(l.edits);
		return r;
	}
	plt_store_unref(rep->overlay);
	rep->overlay = l.edits;
	return 0;
}
