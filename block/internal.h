/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_BLOCK_INTERNAL_H
#define PLT_BLOCK_INTERNAL_H

/*
 * What the rest of the library (convert/, later snapshot/ and repair/) sees of the block layer
 * beyond include/platter.h.
 */
#include "formats/driver.h"
#include "platter.h"

#define PLT_OPEN_FINE_SCRATCH (1u << 30) /* with PLT_OPEN_SCRATCH: zeros in it need no more than 2 KiB at once */
/*
 * The image itself as it is, what it stands on for rescue (of so many layers at most): for those who make its plan.  And one
 * that is opened so: its own plan is made without that, and nothing is said.
 */
#define PLT_OPEN_RESCUE_BELOW (1u << 29)
#define PLT_OPEN_NESTED_RESCUE (1u << 28)
#define PLT_RESCUED_BELOW_MAX 8

/* A file without a name, for what goes away with it; it is never synced. */
int plt_temporary_store(struct plt_store **ret, struct plt_error *err);

/* Open a disk whose image file is already open as a store (a reference is taken). */
int plt_disk_open_store(struct plt_ctx *ctx, struct plt_store *file, const char *name, const char *format,
			const struct plt_open_options *opts, struct plt_disk **ret, struct plt_error *err);
/*
 * Format an open, empty, writable store as plt_create() would a file.  @name is what is recorded and
 * reported (relative backing names are taken beside it).
 */
int plt_create_store(struct plt_ctx *ctx, struct plt_store *file, const char *name,
		     const struct plt_create_options *opts, char **ret_line, struct plt_error *err);
/*
 * Would creating this be refused?  Tried on memory, before an old target is given up for it; touches no
 * file.
 */
int plt_create_rehearse(struct plt_ctx *ctx, const char *name, const struct plt_create_options *opts,
			struct plt_error *err);

/*
 * The create options of @format that "-o" texts set, with defaults, and @size (PLT_SIZE_UNSET: none)
 * for an option "size".  *ret_drv is set also where they are wrong, NULL if there is no such format.
 */
int plt_read_create_options(const char *format, const char *const *texts, uint64_t size,
			    const struct plt_driver **ret_drv, struct plt_opts **ret, struct plt_error *err);

/* One line an option of @table, sorted; free() it.  NULL: no memory. */
char *plt_options_text(const struct plt_opt_desc *table);

/* plt_check() of a store. */
int plt_check_store(struct plt_ctx *ctx, struct plt_store *file, const char *name, const char *format,
		    void (*found)(void *arg, const struct plt_check_finding *f), void *arg,
		    struct plt_check_result *ret, struct plt_error *err);
/* The same, and what it finds is mended as far as @mend says: @file is an overlay, and takes the edits. */
int plt_mend_store(struct plt_ctx *ctx, struct plt_store *file, const char *name, const char *format,
		   struct plt_mend *mend, void (*found)(void *arg, const struct plt_check_finding *f), void *arg,
		   struct plt_check_result *ret, struct plt_error *err);
/*
 * More errors than the file has room for entries: tables are named again and again, and a walk over the map has no end.
 */
bool plt_check_is_hopeless(const struct plt_check_result *res, struct plt_store *file);
/*
 * The bytes of an image, whatever they mean: opened as raw, and locked.  *ret_format: what they are taken for
 * (free() it).
 */
enum plt_bytes_use {
	PLT_BYTES_READ,
	PLT_BYTES_REPAIR, /* to write, even where a repair was interrupted: the caller looks after it */
};
int plt_bytes_open(struct plt_ctx *ctx, const char *name, const struct plt_open_options *opts,
		   enum plt_bytes_use use, struct plt_image **ret, char **ret_format, struct plt_error *err);
int plt_image_close(struct plt_image *img, struct plt_error *err); /* NULL allowed */

/* node_pieces.c: {"driver": "pieces", "filename", "object-size", "size"}. */
int plt_node_open_pieces(const json_t *tree, bool write, struct plt_store **ret, struct plt_error *err);

/*
 * Rescue.  repair/ implements this one, as block/ implements what drivers call: what a repair would make of the
 * image in @file, which is locked and is only read.  @format NULL: look; raw only if nothing else can be
 * made of it.  @key: the option that names the secret of what it encrypts, or NULL.
 */
struct plt_rescue_plan {
	struct plt_store *overlay;       /* the image as planned; a reference of the caller's, as all here */
	char *format;
	struct plt_doubts doubts;
	struct plt_check_result before, left; /* of the image as it is (with what was fixed), and as planned */
	uint64_t edits, bytes;
	struct plt_store *medium;        /* io/medium.c, below the overlay; NULL: no map was given */
	char *map;
};
int plt_rescue_plan_make(struct plt_ctx *ctx, struct plt_store *file, const char *name, const char *format,
			 const char *key, const struct plt_rescue_options *opts, unsigned flags, struct plt_rescue_plan *ret,
			 struct plt_error *err); /* @flags: PLT_OPEN_NO_BACKING, PLT_OPEN_NESTED_RESCUE */
void plt_rescue_plan_release(struct plt_rescue_plan *plan);
/*
 * repair/ implements this one as well: what the layers of a disk that was opened for rescue are not, any more, to each other
 * (a parent that was written to) is put into its lists, and said to opts->found.
 */
int plt_rescue_links(struct plt_disk *disk, const char *name, const struct plt_rescue_options *opts, struct plt_error *err);
/*
 * And this one: where the backing file of @img lies that is not where it records it, or is another one there.  1: *ret_name
 * and *ret_format (malloc) and how sure that is; 0: nobody knows.  What is less sure than opts say is not told.
 */
int plt_rescue_parent(struct plt_image *img, const struct plt_rescue_options *opts, char **ret_name, char **ret_format,
		      enum plt_certainty *ret_certainty, struct plt_error *err);
/*
 * And this one: is what @img stands on the one that it was made on, though it has another id than @img records?  Their
 * content says so: @ret_why.
 */
bool plt_rescue_fits(struct plt_image *img, char *ret_why, size_t len);
/* Is @donor another disk than that of the image @name, and of its size? */
int plt_donor_fits(struct plt_disk *donor, uint64_t size, const char *name, struct plt_error *err);
/* How sure it is that what @donor has there is what @disk had: by what both have beside it. */
enum plt_certainty plt_donor_certainty(struct plt_disk *disk, struct plt_disk *donor, uint64_t off, uint64_t len);
/* Of [off, off+len) of an image that is rescued what is not lost already is lost, or inferred. */
void plt_image_doubt(struct plt_image *img, enum plt_doubt_kind kind, uint64_t off, uint64_t len,
		     enum plt_certainty certainty, const char *why);
/* The disk (or an internal snapshot) that @plan makes of a file of @file_size bytes, without a chain; @plan is taken over. */
int plt_disk_open_planned(struct plt_ctx *ctx, struct plt_rescue_plan *plan, uint64_t file_size, const char *name,
			  const struct plt_snapshot_info *snapshot, struct plt_disk **ret, struct plt_error *err);

/* A disk that begins at this layer; plt_disk_release_layer(). */
struct plt_disk *plt_disk_view(struct plt_image *img);
/*
 * Put @base (given away) below a disk that was opened on a store without its chain; before the first
 * request.
 */
void plt_disk_attach_backing(struct plt_disk *disk, struct plt_disk *base);

/*
 * Who opens the files of images instead of plt_file_open(): one that may where this process may not, or a test that
 * puts stores of its own above them.  No disk is open; @fn NULL: plt_file_open() again.
 */
typedef int (*plt_opener_fn)(void *arg, const char *path, unsigned flags, struct plt_store **ret,
			     struct plt_error *err);
void plt_ctx_set_opener(struct plt_ctx *ctx, plt_opener_fn fn, void *arg);
/* Open a file that was named, by the user or in an image, or one that belongs to it; @flags as for plt_file_open(). */
int plt_ctx_open_file(struct plt_ctx *ctx, const char *path, unsigned flags, struct plt_store **ret,
		      struct plt_error *err);

/* Features are to be ignored: has this format any, or has an image that was opened before?  0 or -ENOTSUP. */
int plt_ctx_may_ignore(struct plt_ctx *ctx, const struct plt_driver *drv, const char *name, struct plt_error *err);

/* The active layer of a disk. */
struct plt_image *plt_disk_image(struct plt_disk *disk);
struct plt_ctx *plt_disk_ctx(const struct plt_disk *disk);
struct plt_pool *plt_ctx_pool(struct plt_ctx *ctx);
void plt_ctx_warn(struct plt_ctx *ctx, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/*
 * plt_write(), which calls placed(arg) as soon as all of it has its place in the image (at the latest
 * before it returns): writers that take turns keep the layout in order and still copy side by side.
 */
int plt_write_placed(struct plt_disk *disk, uint64_t off, const void *buf, size_t len, void (*placed)(void *arg),
		     void *arg, struct plt_error *err);

/*
 * The disk gives up what it has in [off, off+len), whole allocation units, for what the layer below has there, which is the
 * same: a power cut leaves either.  -ENOTSUP: the format cannot.
 */
int plt_disk_uncover(struct plt_disk *disk, uint64_t off, uint64_t len, struct plt_error *err);

/* Flags for plt_file_open() of a cache mode ("none", ...); -EINVAL with qemu-img's words. */
int plt_cache_mode_flags(const char *mode, unsigned *ret, struct plt_error *err);

/*
 * Map, meeting needs, on this thread: the blocking form of driver->map, for walks.  Enters and
 * leaves the image's epoch (waiting while a resize has the image for itself), so what it returns may
 * be out of date at once.
 */
int plt_image_map_wait(struct plt_image *img, uint64_t off, uint64_t len, struct plt_runs *runs,
		       struct plt_error *err);
struct plt_extents;
/*
 * Decode every compressed cluster that this layer maps; flaw() for each that cannot be, with how many bytes come out
 * before; another answer than 0 ends it.  @seen: places in the file that are done, added to; NULL: all are new.  @ends: a
 * stream that fills its cluster and does not end there is a flaw, too.
 * *ret_end (NULL: all is decoded): up to where the disk was looked at before entries had named several times as much as the
 * file holds, as tables do that are named again and again.
 */
int plt_image_decode(struct plt_image *img, struct plt_extents *seen, bool ends, uint64_t *ret_end,
		     int (*flaw)(void *arg, const struct plt_run *run, size_t good), void *arg, struct plt_error *err);
/* What relative names in the image are relative to: its name, or its file's if it has no plain one. */
const char *plt_image_base(const struct plt_image *img);
struct plt_image *plt_image_backing(const struct plt_image *img);
/* The option, "key=id", that named the secret of what it encrypts; NULL: none was given. */
const char *plt_image_key(const struct plt_image *img);

/* cursor.c: block status of a disk from offset to offset; one thread at a time.  Not for going back. */
struct plt_cursor {
	struct plt_disk *disk;
	uint64_t size;
	unsigned flags;              /* PLT_STATUS_* */
	struct plt_extent ext[64];
	unsigned i, n;
};
void plt_cursor_init(struct plt_cursor *c, struct plt_disk *disk, unsigned flags);
/* The extent that holds @off, which lies inside the disk; valid until the next call. */
int plt_cursor_at(struct plt_cursor *c, uint64_t off, const struct plt_extent **ret, struct plt_error *err);

#define PLT_MAX_DEPTH 256 /* layers of a chain and stores nested in images, together */

/* Layer @depth of the disk's chain, NULL below the last; 0 is the active one. */
struct plt_image *plt_disk_layer(struct plt_disk *disk, unsigned depth);
/* A disk that begins at that layer, as a view: plt_disk_release_layer().  NULL: there is none, or no memory. */
struct plt_disk *plt_disk_view_layer(struct plt_disk *disk, unsigned depth);
/* What decides on names that images name. */
enum plt_policy plt_ctx_policy(const struct plt_ctx *ctx);
/* Both are images of the same file, read alike: what one holds at a guest offset the other does. */
bool plt_image_is_same(const struct plt_image *a, const struct plt_image *b);
/*
 * As plt_disk_open(), but the layer @depth (not 0) of the chain is opened for writing.  *ret_layer: a disk of that
 * layer and what is below it, which is part of *ret: plt_disk_release_layer() before that is closed.
 */
int plt_disk_open_layer(struct plt_ctx *ctx, const char *name, const struct plt_open_options *opts, unsigned depth,
			struct plt_disk **ret, struct plt_disk **ret_layer, struct plt_error *err);
void plt_disk_release_layer(struct plt_disk *layer);

/*
 * sync.c: run @fn with the image to itself: behind the gate, limbo emptied as far as possible, everybody else drained.
 * @reads_pass: those that read may come in meanwhile.
 */
int plt_image_exclusive(struct plt_image *img, bool reads_pass,
			int (*fn)(struct plt_image *img, void *arg, struct plt_error *err), void *arg,
			struct plt_error *err);

#endif
