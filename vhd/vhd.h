/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_VHD_VHD_H
#define PLT_VHD_VHD_H

/*
 * The VHD driver: its state and what its files share.
 *
 * Two ways to read a bitmap.  Where it is *honoured* (differencing disks, and whatever blktap wrote) a
 * bit says whether the sector is here, and a write into an absent sector is data, then the bit.
 * Elsewhere (dynamic disks of everybody else) a block that exists is here whole, whatever its bitmap
 * says: every writer sets all bits when it allocates, and readers do not agree on a bit that is not set.
 *
 * New blocks come from a pool that work(EXTEND) prepares ahead: the footer is moved behind room for
 * several blocks, durably, before the first byte of that room is written, and the blocks' bitmaps are
 * written; place then only takes one.  What is left of the pool is cut off when the image is closed.
 * Blocks whose entries were removed go through the limbo to a list of free ones.  What was freed and not
 * used again when the image is closed is found as a gap between blocks by the first write of the next time.
 *
 * The order of writes, rule by rule (docs/formats/vhd.md says what each is for); -> means durable before
 * the next is issued:
 *
 *	allocate           {data, head, tail, initial bitmap} -> bits -> BAT entry
 *	write, bit clear   {data, head, tail} -> bits
 *	free               BAT entry unused -> (limbo) -> punch, bitmap -> reuse
 *	extend             footer at the new end -> whatever overwrites the old one
 *	close              footer behind the last block -> the file is cut behind it
 *	first write        footer at the end, whole and behind all blocks -> copy at the start -> the rest
 *	resize             resize.c
 *	another parent     reparent.c
 *
 * Bits go before their entry in rank, and there is nothing else in the cache, so there is no cycle.
 * Footers and headers are written in synchronous steps and are never edges.
 */
#include <time.h>

#include "base/extents.h"
#include "formats/driver.h"
#include "vhd/ondisk.h"

/* Rules that tests may switch off: bits of img->rules_off. */
enum vhd_rule {
	VHD_RULE_DATA_BITS,     /* data before the bits that make it seen */
	VHD_RULE_DATA_ENTRY,    /* data and initial bitmap before the BAT entry */
	VHD_RULE_BITS_ENTRY,    /* bits before the BAT entry */
	VHD_RULE_FOOTER_MOVE,   /* the new footer before the old one is overwritten */
	VHD_RULE_FOOTER_TRIM,   /* the footer behind the last block before the file is cut */
	VHD_RULE_FOOTER_MEND,   /* a missing footer is put back before the first change */
	VHD_RULE_GROW_FIXED,    /* fixed, larger: the new footer before the old one becomes zeros */
	VHD_RULE_GROW_TABLE,    /* a new table before the header names it */
	VHD_RULE_GROW_ZERO,     /* what comes to light by growing is zero before the size says so */
	VHD_RULE_SHRINK,        /* the smaller size before anything behind it goes */
	VHD_RULE_PARENT_HEADER, /* another header before a footer names it */
	VHD_RULE_PARENT_HOME,   /* both footers name it before the old header is overwritten */
	VHD_RULE_PARENT_ZERO,   /* zeros before the bits that make them seen */
	VHD_RULES
};

static inline bool vhd_rule(const struct plt_image *img, enum vhd_rule rule)
{
	return !(img->rules_off >> rule & 1);
}

/* What was found where a footer should be. */
enum vhd_copy_state {
	VHD_COPY_NONE,          /* no cookie */
	VHD_COPY_BAD,           /* cookie, but not to be trusted: why says so */
	VHD_COPY_GOOD,
};

struct vhd_copy {
	enum vhd_copy_state state;
	struct vhd_footer f;
	uint64_t off;
	uint32_t len;           /* 512, or 511 */
	char why[160];
};

/* Both ends of a file, and which of them speaks for the image. */
struct vhd_ends {
	uint64_t file_size;
	struct vhd_copy head, tail;
	bool displaced;         /* the tail is not at the end of the file: a resize was cut short */
	const struct vhd_copy *use;
};

/* Which of the recorded sizes is the disk's. */
enum vhd_size_rule { VHD_SIZE_AUTO, VHD_SIZE_CURRENT, VHD_SIZE_CHS };

struct vhd_free {
	uint64_t start;         /* of the bitmap */
	bool fresh;             /* its data reads as zeros */
};

struct vhd_state {
	enum vhd_type type;
	struct vhd_footer footer;       /* as the copies at both ends should be */
	struct vhd_header header;       /* dynamic, differencing */
	uint64_t header_off;
	uint64_t table_off;
	uint32_t entries;
	uint32_t block_size, block_bits, bitmap_bytes;
	bool honoured;                  /* bitmaps are */
	bool bits_reversed;             /* blktap 0.1: the lowest bit of a byte is its first sector */
	bool by_chs;                    /* the size is cylinders * heads * sectors */
	struct vhd_ends ends;           /* as found when it was opened */
	struct plt_extents meta;        /* header, BAT, locators, batmap: where no block may be */
	uint64_t meta_end;
	/*
	 * Bytes of a block from here on are no data: the footer, or nothing.  Until the first write, which
	 * moves the footer behind everything.
	 */
	_Atomic uint64_t data_limit;
	_Atomic uint64_t file_end;      /* no block starts behind it */

	/* XenServer's batmap, if it is there and its checksum is right; words as on disk */
	uint8_t *batmap;
	struct vhd_batmap batmap_header;
	uint64_t batmap_off, batmap_header_off;
	uint32_t batmap_bytes;
	bool encrypted;                 /* keyhash: its data is ciphertext */

	/* allocation: image lock */
	bool ready;                     /* the first write has looked at the whole BAT */
	uint64_t blocks;                /* entries that the size needs */
	uint64_t used;                  /* blocks that have a place */
	uint64_t used_end;              /* behind the last block in use, and all metadata */
	uint64_t footer_off;            /* of the one at the end */
	uint64_t floor;                 /* where the footer stood before: the file is not cut below */
	uint64_t pool, pool_end;        /* prepared blocks: starts of the next one and behind the last */
	uint64_t fresh_from;            /* from here on the file reads zeros until we write there */
	struct vhd_free *free;
	size_t nfree, free_cap;
	struct plt_extents gaps;        /* between blocks: room that was freed when the file was open before */
	bool gaps_durable;              /* nothing on disk names it any more */
	bool moved;                     /* the footer is to be put behind the last block when closing */

	/* parent: names to try, in this order */
	char **names;
	unsigned nnames;
	bool parent_unchecked;          /* open option: another parent will do */
};

static inline struct vhd_state *vhd_of(const struct plt_image *img)
{
	return img->priv;
}

/* Start of one block to start of the next, data on 4096 where blocks are that large. */
static inline uint64_t vhd_stride(const struct vhd_state *v)
{
	uint64_t unit = v->block_size >= 4096 ? 4096 : VHD_SECTOR, n = (uint64_t)v->bitmap_bytes + v->block_size;

	return (n + unit - 1) / unit * unit;
}

/* The first start at or behind @off at which a new block's data is aligned. */
uint64_t vhd_next_start(const struct vhd_state *v, uint64_t off);
static inline uint64_t vhd_block_len(const struct vhd_state *v)
{
	return (uint64_t)v->bitmap_bytes + v->block_size;
}

/* ---- footer.c -------------------------------------------------------------------------------- */

uint32_t vhd_checksum(const void *p, size_t len, size_t checksum_at);
void vhd_footer_seal(struct vhd_footer *f);
void vhd_header_seal(struct vhd_header *h);
/* The geometry nearest below @sectors. */
void vhd_geometry(uint64_t sectors, uint32_t *ret_c, uint32_t *ret_h, uint32_t *ret_s);
uint64_t vhd_chs_sectors(const struct vhd_footer *f);
void vhd_set_chs(struct vhd_footer *f, uint32_t c, uint32_t h, uint32_t s);
/* The disk's size in bytes, and whether it comes from the geometry. */
uint64_t vhd_size(const struct vhd_footer *f, enum vhd_size_rule rule, bool *ret_chs);
uint32_t vhd_time(time_t t);
/* "8-4-4-4-12" and a NUL. */
#define VHD_ID_TEXT 37
const char *vhd_id_text(const uint8_t id[16], char buf[VHD_ID_TEXT]);
bool vhd_is_creator(const struct vhd_footer *f, const char *four);
/* Both ends; -EINVAL with text if neither says what this is (ret is filled in all the same). */
int vhd_read_ends(struct plt_store *file, struct vhd_ends *ret, struct plt_error *err);
/* Reads and checks everything but parent and batmap against the file; for open and examine. */
/* Dynamic or differencing, and the first footer is gone?  1, 0 or an errno; it costs two sectors. */
int vhd_recognise(struct plt_ctx *ctx, struct plt_store *file, bool quick, struct plt_error *err);
int vhd_read_header(struct plt_store *file, uint64_t file_size, const struct vhd_footer *f, struct vhd_header *ret,
		    struct plt_error *err);
int vhd_check_header(const struct vhd_header *h, uint64_t file_size, struct plt_error *err);

/* ---- locator.c ------------------------------------------------------------------------------- */

/* Paths to try for the parent, best first; the locators' own ranges are added to @meta if not NULL. */
int vhd_parent_names(struct plt_store *file, const struct vhd_header *h, char ***ret, unsigned *ret_n,
		     struct plt_error *err);
void vhd_names_free(char **names, unsigned n);
/* Bytes on disk that a locator has. */
uint64_t vhd_locator_space(const struct vhd_locator *l);
/* UTF-8 to UTF-16; returns bytes, or -EINVAL.  @ret is malloc. */
int vhd_to_utf16(const char *text, bool big, uint8_t **ret, size_t *ret_len);
/* The text of @len bytes of UTF-16 up to a NUL; malloc; NULL: no memory. */
char *vhd_from_utf16(const uint8_t *p, size_t len, bool big);
/*
 * Fill in name and locators of @h for @parent as seen from the image @child; the texts go to @file at
 * @off (one sector-aligned place each), *ret_end is behind them.
 */
int vhd_write_locators(struct plt_store *file, struct vhd_header *h, const char *child, const char *parent,
		       uint64_t off, uint64_t *ret_end, struct plt_error *err);

/* ---- open.c ---------------------------------------------------------------------------------- */

extern const struct plt_driver vhd_driver;
extern const struct plt_opt_desc vhd_open_opts[];
int vhd_open(struct plt_image *img, const struct plt_open_how *how, struct plt_error *err);
int vhd_close(struct plt_image *img, struct plt_error *err);
int vhd_first_write(struct plt_image *img, struct plt_error *err);
/* What follows from footer and header, which are in @v: fields and the places of metadata. */
int vhd_layout(struct vhd_state *v, uint64_t size, uint64_t file_size, struct plt_error *err);
/* Write the footer at @off; with @sync behind it. */
int vhd_put_footer(struct plt_image *img, uint64_t off, bool sync, struct plt_error *err);

/* ---- vjournal.c ------------------------------------------------------------------------------- */

#define VHD_POISON "v_poison" /* the cookie of a footer while vhd-util resizes */
bool vhd_is_poisoned(const struct vhd_footer *f);
/* As the driver's replay. */
int vhd_replay(struct plt_store *file, struct plt_store *journal, char *ret_text, size_t len, struct plt_error *err);

/* ---- parent.c -------------------------------------------------------------------------------- */

int vhd_find_backing(struct plt_image *img, struct plt_error *err);
int vhd_adopt_parent(struct plt_store *file, struct plt_image *below, struct plt_error *err);
int vhd_check_backing(struct plt_image *img, struct plt_image *below, struct plt_error *err);

/* ---- reparent.c ------------------------------------------------------------------------------ */

int vhd_set_backing(struct plt_image *img, const char *name, const char *format, unsigned flags, struct plt_error *err);

/* ---- info.c ---------------------------------------------------------------------------------- */

json_t *vhd_info(struct plt_image *img);
void vhd_identity(struct plt_image *img, struct plt_identity *ret);

/* ---- map.c ----------------------------------------------------------------------------------- */

extern const struct plt_meta_type vhd_bat_type, vhd_bitmap_type;
int vhd_map(struct plt_image *img, struct plt_pins *pins, uint64_t off, uint64_t len, struct plt_runs *runs,
	    struct plt_need *need, struct plt_error *err);
/* The entry of guest block @block, its slice pinned. */
int vhd_entry_get(struct plt_image *img, struct plt_pins *pins, uint64_t block, struct plt_block **ret_b,
		  uint32_t *ret, struct plt_need *need, struct plt_error *err);
/* Image lock held. */
void vhd_entry_set(const struct vhd_state *v, struct plt_block *b, uint64_t block, uint32_t value);
uint32_t vhd_entry_peek(const struct vhd_state *v, const struct plt_block *b, uint64_t block);
/* NULL, or what is wrong with the entry: it cannot be a block of this file. */
const char *vhd_entry_bad(const struct vhd_state *v, uint64_t file_size, uint32_t entry);
/* The bitmap slice of sector @sector of the block that starts at @start. */
int vhd_bitmap_get(struct plt_image *img, struct plt_pins *pins, uint64_t start, uint64_t sector,
		   struct plt_block **ret, struct plt_need *need, struct plt_error *err);
/* Sectors from @first on, at most @n, all with the bit that *ret_set says; within one slice. */
uint64_t vhd_bits_run(const struct vhd_state *v, const struct plt_block *b, uint64_t first, uint64_t n, bool *ret_set);
/* Does the batmap say that the block is complete? */
bool vhd_complete(const struct vhd_state *v, uint64_t block);

/* ---- place.c --------------------------------------------------------------------------------- */

enum vhd_work {
	VHD_WORK_EXTEND,        /* arg: the pool's end when it was found empty */
	VHD_WORK_BATMAP,        /* arg: block that is about to get a place and is called complete */
};
int vhd_place(struct plt_image *img, struct plt_pins *pins, const struct plt_place_req *req, struct plt_place *ret,
	      struct plt_need *need, struct plt_error *err);
void vhd_publish(struct plt_image *img, struct plt_place *place);
void vhd_withdraw(struct plt_image *img, struct plt_place *place);

/* ---- space.c --------------------------------------------------------------------------------- */

/* Image lock held: a place for a block; false: the pool is empty. */
bool vhd_take_block(struct plt_image *img, struct vhd_free *ret);
void vhd_give_block(struct plt_image *img, const struct vhd_free *f);
int vhd_work(struct plt_image *img, int code, uint64_t arg, struct plt_error *err);
int vhd_release(struct plt_image *img, uint64_t host_off, uint64_t len, unsigned kind, struct plt_error *err);
/*
 * The footer to @to, durably, before the place of the old one may be used; *not* v->footer_off.  Nobody
 * needs one of an image that is being made and that nobody reads yet.
 */
int vhd_move_footer(struct plt_image *img, uint64_t to, struct plt_error *err);
/* Blocking: go through the whole BAT; what bounds the file's used part. */
int vhd_scan(struct plt_image *img, uint64_t *ret_used_end, struct plt_error *err);

/* ---- zero.c, resize.c, create.c, check.c, batmap.c -------------------------------------------- */

int vhd_write_zeroes(struct plt_image *img, uint64_t off, uint64_t len, bool unmap, uint64_t *ret_done,
		     struct plt_need *need, struct plt_error *err);
int vhd_discard(struct plt_image *img, uint64_t off, uint64_t len, uint64_t *ret_done, struct plt_need *need,
		struct plt_error *err);
int vhd_make_empty(struct plt_image *img, bool trial, struct plt_error *err);
int vhd_resize(struct plt_image *img, uint64_t size, const char *preallocation, struct plt_error *err);
extern const struct plt_opt_desc vhd_create_opts[];
int vhd_create(const struct plt_create *how, struct plt_error *err);
int vhd_examine(struct plt_examine *ex, struct plt_error *err);

/*
 * 1: there is a batmap at *ret_off, its header in @ret (*ret_why: NULL, or what is wrong with it);
 * 0: there is none; negative: it could not be read.
 */
int vhd_batmap_find(struct plt_store *file, uint64_t file_size, const struct vhd_footer *f,
		    const struct vhd_header *h, struct vhd_batmap *ret, uint64_t *ret_off, const char **ret_why,
		    struct plt_error *err);
uint32_t vhd_batmap_checksum(const struct vhd_batmap *m, const uint8_t *bytes, size_t len);
int vhd_batmap_load(struct plt_image *img, struct plt_error *err);
/* Blocking: the map no longer calls @block complete, durably. */
int vhd_batmap_clear(struct plt_image *img, uint64_t block, struct plt_error *err);

#endif
