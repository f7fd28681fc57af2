/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Creating an image: options from all their sources, the backing file looked at, the file made, the
 * driver's create run on it.  Everything that can be refused is refused before a file is touched: where
 * there is one already, the driver is tried on memory first, so that what it refuses leaves that as it
 * was.  What fails later removes the files that it made, and names those that were there and are empty
 * now.
 */
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/engine.h"
#include "formats/name.h"

/* What the file itself can be told, whatever the format. */
static const struct plt_opt_desc file_opts[] = {
	{ .name = "nocow", .type = PLT_OPT_BOOL, .help = "Turn off copy-on-write (valid only on btrfs)" },
	{ .name = "preallocation", .type = PLT_OPT_STRING,
	  .help = "Preallocation mode (allowed values: off, falloc, full)" },
	{ .name = "extent_size_hint", .type = PLT_OPT_SIZE,
	  .help = "Extent size hint for the image file, 0 to disable" },
	{ .name = NULL },
};

struct making {
	struct plt_ctx *ctx;
	const struct plt_driver *drv;
	const char *name;
	struct plt_opts *opts;
	struct plt_opt_desc *table;  /* the driver's options, then the file's that it has not */
	uint64_t size;
	struct plt_image *backing;   /* the backing file, while there is work with it */
};

static const struct plt_opt_desc *find(const struct plt_opt_desc *t, const char *name)
{
	for (; t && t->name; t++)
		if (!strcmp(t->name, name))
			return t;
	return NULL;
}

static struct plt_opt_desc *join_tables(const struct plt_opt_desc *own)
{
	struct plt_opt_desc *t;
	unsigned n = 0;

	for (const struct plt_opt_desc *d = own; d && d->name; d++)
		n++;
	t = calloc(n + PLT_ARRAY_SIZE(file_opts) + 1, sizeof(*t));
	if (!t)
		return NULL;
	n = 0;
	for (const struct plt_opt_desc *d = own; d && d->name; d++)
		t[n++] = *d;
	for (const struct plt_opt_desc *d = file_opts; d->name; d++)
		if (!find(own, d->name))
			t[n++] = *d;
	return t;
}

static struct plt_opt_desc *copy_table(const struct plt_opt_desc *own)
{
	struct plt_opt_desc *t = join_tables(own), *d;

	/* cut where the file's options begin */
	for (d = t; d && d->name && find(own, d->name); d++)
		;
	if (d)
		d->name = NULL;
	return t;
}

static void release(struct making *m)
{
	plt_image_close(m->backing, NULL); /* opened for reading */
	plt_opts_free(m->opts);
	free(m->table);
}

/* ---- options --------------------------------------------------------------------------------- */

static int gather(struct making *m, const struct plt_create_options *o, struct plt_error *err)
{
	const struct plt_opt_desc *tables[2] = { NULL, NULL };
	char num[32];
	int r = 0;

	m->drv = plt_driver_find(o->format ? o->format : "raw");
	if (!m->drv)
		return plt_format_unknown(o->format, err);
	if (!m->drv->create)
		return plt_error_set(err, ENOTSUP, "Format driver '%s' does not support image creation", m->drv->name);
	m->table = join_tables(m->drv->create_opts);
	m->opts = plt_opts_new();
	if (!m->table || !m->opts)
		return plt_error_set(err, ENOMEM, "out of memory");
	for (unsigned i = 0; r == 0 && o->options && o->options[i]; i++)
		r = plt_opts_parse(m->opts, o->options[i], m->table, err);
	if (r < 0)
		return r;
	if (o->backing) {
		if (!find(m->table, "backing_file"))
			return plt_error_set(err, ENOTSUP, "Backing file not supported for file format '%s'",
					     m->drv->name);
		r = plt_opts_set(m->opts, "backing_file", o->backing);
	}
	if (r == 0 && o->backing_format) {
		if (!find(m->table, "backing_fmt"))
			return plt_error_set(err, ENOTSUP, "Backing file format not supported for file format '%s'",
					     m->drv->name);
		r = plt_opts_set(m->opts, "backing_fmt", o->backing_format);
	}
	if (r == 0 && o->virtual_size != PLT_SIZE_UNSET && !(o->flags & PLT_CREATE_OWN_SIZE) &&
	    plt_opts_get(m->opts, "size"))
		return plt_error_set(err, EINVAL, "The image size must be specified only once");
	if (r == 0 && o->virtual_size != PLT_SIZE_UNSET) {
		snprintf(num, sizeof(num), "%" PRIu64, o->virtual_size);
		r = plt_opts_set(m->opts, "size", num);
	}
	tables[0] = m->table;
	if (r == 0)
		r = plt_opts_validate(m->opts, tables, err);
	return plt_error_default(err, -r, "options");
}

int plt_read_create_options(const char *format, const char *const *texts, uint64_t size,
			    const struct plt_driver **ret_drv, struct plt_opts **ret, struct plt_error *err)
{
	struct plt_create_options o = PLT_CREATE_OPTIONS_INIT;
	struct making m = { 0 };
	int r;

	o.format = format;
	o.options = texts;
	o.virtual_size = size;
	o.flags = PLT_CREATE_OWN_SIZE;
	r = gather(&m, &o, err);
	*ret_drv = m.drv;
	*ret = r == 0 ? m.opts : NULL;
	if (r == 0)
		m.opts = NULL;
	release(&m);
	return r;
}

/* The backing file must open and have a recorded format; without a size of our own its size counts. */
static int look_at_backing(struct making *m, const struct plt_create_options *o, struct plt_error *err)
{
	const char *backing = plt_opts_get(m->opts, "backing_file"), *fmt = plt_opts_get(m->opts, "backing_fmt");
	struct plt_open_options bo = PLT_OPEN_OPTIONS_INIT;
	PLT_AUTOFREE char *full = NULL;
	struct plt_image *img;
	json_t *tree;
	char num[32];
	int r;

	if (!backing)
		return 0;
	if (!*backing)
		return plt_error_set(err, EINVAL, "Expected backing file name, got empty string");
	if (!strcmp(backing, m->name))
		return plt_error_set(err, EINVAL, "Error: Trying to create an image with the same filename as the "
				     "backing file");
	if (o->flags & PLT_CREATE_UNCHECKED_BACKING)
		return fmt ? 0 : plt_error_set(err, EINVAL, "Backing file specified without backing format");
	r = plt_name_resolve(m->name, backing, &full, err);
	if (r == 0)
		r = plt_name_parse(full, false, &tree, err);
	if (r < 0)
		return r;
	bo.format = fmt;
	bo.flags = PLT_OPEN_SHARE_RAW | PLT_OPEN_NO_KEY; /* no more than its size is read */
	r = plt_image_open(m->ctx, tree, &bo, 0, &img, err);
	json_decref(tree);
	if (r < 0) {
		size_t n = err ? strlen(err->text) : 0;

		if (err && strncmp(err->text, "Could not open '", 16) && strncmp(err->text, "Unknown driver '", 16))
			plt_error_prefix(err, "Could not open '%s'", full), n = strlen(err->text);
		if (err)
			snprintf(err->text + n, sizeof(err->text) - n, "\nCould not open backing image.");
		return r;
	}
	if (!fmt)
		r = plt_error_set(err, EINVAL, "Backing file specified without backing format\nDetected format of %s.",
				  img->drv->name);
	else if (!plt_opts_get(m->opts, "size")) {
		snprintf(num, sizeof(num), "%" PRIu64, (uint64_t)atomic_load(&img->size));
		r = plt_opts_set(m->opts, "size", num);
	}
	m->backing = img;
	return r;
}

/* Where the format leaves preallocation to the file; judged after the "Formatting" line, as QEMU does. */
static int check_preallocation(const struct making *m, struct plt_error *err)
{
	const char *v = plt_opts_get(m->opts, "preallocation");

	if (!v || find(m->drv->create_opts, "preallocation") || !strcmp(v, "off") || !strcmp(v, "falloc") ||
	    !strcmp(v, "full"))
		return 0;
	if (!strcmp(v, "metadata"))
		return plt_error_set(err, ENOTSUP, "Unsupported preallocation mode: %s", v);
	return plt_error_set(err, EINVAL, "invalid parameter value: %s", v);
}

static char *formatting_line(const struct making *m)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);

	if (!f)
		return NULL;
	fprintf(f, "Formatting '%s', fmt=%s", m->name, m->drv->name);
	for (const struct plt_opt_desc *d = m->table; d->name; d++) {
		const char *v = plt_opts_get(m->opts, d->name);

		if (!v)
			continue;
		fprintf(f, " %s=", d->name);
		if (d->type == PLT_OPT_SIZE || d->type == PLT_OPT_NUMBER) {
			fprintf(f, "%" PRIu64, plt_opts_u64(m->opts, d->name));
			continue;
		}
		for (; *v; v++) { /* as it would have to be written to be parsed again */
			if (*v == ',')
				fputc(',', f);
			fputc(*v, f);
		}
	}
	fclose(f);
	return text;
}

static int prepare(struct making *m, const struct plt_create_options *o, char **ret_line, struct plt_error *err)
{
	int r = gather(m, o, err);

	if (r == 0)
		r = look_at_backing(m, o, err);
	if (r < 0)
		return r;
	if (!plt_opts_get(m->opts, "size"))
		return plt_error_set(err, EINVAL, "Image creation needs a size parameter");
	m->size = plt_opts_u64(m->opts, "size");
	if (m->size > INT64_MAX - 511)
		return plt_error_set(err, EFBIG, "Image size is too large (%" PRIu64 " bytes)", m->size);
	m->size = plt_align_up(m->size, 512);
	if (ret_line)
		*ret_line = formatting_line(m);
	return check_preallocation(m, err);
}

/* ---- making ---------------------------------------------------------------------------------- */

/* Hints to the host's filesystem: where it has no such thing there is nothing to do. */
static void give_hints(struct making *m, struct plt_store *st)
{
	int fd = plt_store_fd(st), attr;
	struct fsxattr x;

	if (fd < 0)
		return;
	if (plt_opts_get(m->opts, "nocow") && plt_opts_bool(m->opts, "nocow") &&
	    ioctl(fd, FS_IOC_GETFLAGS, &attr) == 0) {
		attr |= FS_NOCOW_FL;
		(void)ioctl(fd, FS_IOC_SETFLAGS, &attr);
	}
	if (plt_opts_get(m->opts, "extent_size_hint") && ioctl(fd, FS_IOC_FSGETXATTR, &x) == 0) {
		x.fsx_extsize = (uint32_t)PLT_MIN(plt_opts_u64(m->opts, "extent_size_hint"), (uint64_t)UINT32_MAX);
		x.fsx_xflags |= FS_XFLAG_EXTSIZE;
		(void)ioctl(fd, FS_IOC_FSSETXATTR, &x);
	}
}

static int format_store(struct making *m, struct plt_store *file, struct plt_store *data, bool trial,
			struct plt_error *err)
{
	struct plt_create how = { .ctx = m->ctx, .file = file, .data_file = data, .opts = m->opts, .size = m->size,
				  .backing = m->backing, .name = m->name, .trial = trial };

	return plt_error_default(err, -m->drv->create(&how, err), "'%s' cannot be formatted", m->name);
}

/* What the driver would refuse, found out on a file in memory. */
static int rehearse(struct making *m, struct plt_error *err)
{
	struct plt_store *file = NULL, *data = NULL;
	int r, fd;

	if (m->drv->flags & PLT_DRIVER_NO_HEADER)
		return 0;
	fd = memfd_create("platter", MFD_CLOEXEC);
	if (fd < 0)
		r = plt_memory_new(NULL, 0, 0, &file);
	else
		r = plt_file_from_fd(fd, m->name, PLT_FILE_WRITE | PLT_FILE_UNSAFE | PLT_FILE_NO_LOCK, &file, err);
	if (r < 0 && fd >= 0)
		close(fd);
	if (r == 0 && plt_opts_get(m->opts, "data_file"))
		r = plt_null_new(m->size, &data);
	if (r == 0)
		r = format_store(m, file, data, true, err);
	plt_store_unref(file);
	plt_store_unref(data);
	return plt_error_default(err, -r, "out of memory");
}

int plt_create_rehearse(struct plt_ctx *ctx, const char *name, const struct plt_create_options *opts,
			struct plt_error *err)
{
	struct making m = { .ctx = ctx, .name = name };
	int r = prepare(&m, opts, NULL, err);

	if (r == 0)
		r = rehearse(&m, err);
	release(&m);
	return r;
}

/* ---- the files ------------------------------------------------------------------------------- */

struct target {
	const char *path;      /* NULL: none */
	struct plt_store *st;
	bool made;             /* by us: there was no such file */
	bool emptied;          /* what it held before is gone */
};

/* Open and lock; nothing of what it holds is touched. */
static int open_target(struct target *t, const char *path, struct plt_error *err)
{
	struct stat sb;
	int r;

	if (!path)
		return 0;
	t->made = stat(path, &sb) < 0 && errno == ENOENT;
	r = plt_file_open(path, PLT_FILE_WRITE | PLT_FILE_CREATE | PLT_FILE_UNSAFE, &t->st, err);
	if (r < 0)
		return r;
	t->path = path;
	r = plt_store_lock(t->st, PLT_PERM_READ | PLT_PERM_WRITE | PLT_PERM_RESIZE,
			   PLT_PERM_READ | PLT_PERM_WRITE_UNCHANGED, err);
	return r == -ENOTSUP ? 0 : r;
}

static int empty_target(struct target *t, struct plt_error *err)
{
	uint64_t size;

	if (!t->st || !t->st->limits.can_grow)
		return 0;
	t->emptied = !t->made && (plt_store_size(t->st, &size, NULL) < 0 || size);
	return plt_store_truncate(t->st, 0, err);
}

/* After a failure (@r < 0, with @err): as it was, or said by name. */
static void close_target(struct target *t, int r, struct plt_error *err)
{
	if (r < 0 && t->made && t->path)
		(void)unlink(t->path);
	else if (r < 0 && t->emptied && err) {
		char old[sizeof(err->text)];

		snprintf(old, sizeof(old), "%s", err->text);
		plt_error_set(err, -r, "%s; '%s' has lost its old content", old, t->path);
	}
	plt_store_unref(t->st);
}

static const char *plain_path(const char *name)
{
	return strncmp(name, "file:", 5) ? name : name + 5;
}

/* A name that means something else than a file of that name must not become a file of that name. */
static int check_name(const char *name, struct plt_error *err)
{
	json_t *tree;
	int r;

	if (!strncmp(name, "json:", 5))
		return plt_error_set(err, ENOTSUP, "a new image needs a plain file name");
	r = plt_name_parse(name, false, &tree, err); /* "Unknown protocol 'nbd'" */
	if (r == 0)
		json_decref(tree);
	return r;
}

int plt_create(struct plt_ctx *ctx, const char *name, const struct plt_create_options *opts, char **ret_line,
	       struct plt_error *err)
{
	struct making m = { .ctx = ctx, .name = name };
	struct target file = { 0 }, data = { 0 };
	const char *path = plain_path(name), *data_path;
	struct stat sb;
	int r;

	if (ret_line)
		*ret_line = NULL;
	r = prepare(&m, opts, ret_line, err);
	if (r == 0)
		r = check_name(name, err);
	data_path = r == 0 ? plt_opts_get(m.opts, "data_file") : NULL;
	if (r == 0 && ((stat(path, &sb) == 0 && (S_ISBLK(sb.st_mode) || sb.st_size)) ||
		       (data_path && stat(data_path, &sb) == 0 && sb.st_size)))
		r = rehearse(&m, err);
	if (r == 0)
		r = open_target(&file, path, err);
	if (r == 0)
		r = open_target(&data, data_path, err);
	if (r == 0)
		r = empty_target(&file, err);
	if (r == 0)
		r = empty_target(&data, err);
	if (r == 0) {
		give_hints(&m, file.st);
		r = format_store(&m, file.st, data.st, false, err);
	}
	close_target(&data, r, err);
	close_target(&file, r, err);
	release(&m);
	return r;
}

int plt_create_store(struct plt_ctx *ctx, struct plt_store *file, const char *name,
		     const struct plt_create_options *opts, char **ret_line, struct plt_error *err)
{
	struct making m = { .ctx = ctx, .name = name };
	struct target data = { 0 };
	int r;

	if (ret_line)
		*ret_line = NULL;
	r = prepare(&m, opts, ret_line, err);
	if (r == 0)
		r = open_target(&data, plt_opts_get(m.opts, "data_file"), err);
	if (r == 0)
		r = empty_target(&data, err);
	if (r == 0) {
		give_hints(&m, file);
		r = format_store(&m, file, data.st, false, err);
	}
	close_target(&data, r, err);
	release(&m);
	return r;
}

/* ---- what there is --------------------------------------------------------------------------- */

const char *plt_format_name(unsigned i)
{
	return plt_drivers[i] ? plt_drivers[i]->name : NULL;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct plt_opt_desc *)a)->name, ((const struct plt_opt_desc *)b)->name);
}

/* Sorted by name; what the table is, says the caller. */
static void print_options(FILE *f, struct plt_opt_desc *t)
{
	static const char *const types[] = { "str", "bool (on/off)", "num", "size" };
	unsigned n = 0;

	while (t[n].name)
		n++;
	qsort(t, n, sizeof(*t), by_name);
	for (unsigned i = 0; i < n; i++) {
		char left[80];

		snprintf(left, sizeof(left), "%s=<%s>", t[i].name, types[t[i].type]);
		fprintf(f, "  %-22s - %s", left, t[i].help);
		if (t[i].help_default)
			fprintf(f, " %s", t[i].help_default);
		fputc('\n', f);
	}
}

char *plt_options_text(const struct plt_opt_desc *table)
{
	struct plt_opt_desc *t = copy_table(table);
	char *text = NULL;
	size_t len;
	FILE *f = t ? open_memstream(&text, &len) : NULL;

	if (f) {
		print_options(f, t);
		fclose(f);
	}
	free(t);
	return text;
}

int plt_format_help(const char *format, bool with_file, char **ret, struct plt_error *err)
{
	const struct plt_driver *drv = plt_driver_find(format);
	struct plt_opt_desc *t;
	size_t len;
	FILE *f;

	if (!drv)
		return plt_format_unknown(format, err);
	t = with_file ? join_tables(drv->create_opts) : copy_table(drv->create_opts);
	f = t ? open_memstream(ret, &len) : NULL;
	if (!f) {
		free(t);
		return plt_error_set(err, ENOMEM, "out of memory");
	}
	fprintf(f, "Supported options:\n");
	print_options(f, t);
	fclose(f);
	free(t);
	return 0;
}
