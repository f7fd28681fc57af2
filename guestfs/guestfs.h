/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_GUESTFS_GUESTFS_H
#define PLT_GUESTFS_GUESTFS_H

/*
 * What a guest's filesystems know of their own layout: where metadata lies and how each piece of
 * it verifies, which blocks hold file data, and where each file ends.  Made for disks of which parts
 * are missing: a reader goes around what it cannot read, and says less.
 *
 * Two directions.  *Marks* are what a piece of content says of itself when nobody knows where it
 * belongs ("I am the superblock copy of group 3", "my inode is 12").  *Facts* are what a filesystem
 * says of places ("at 0x12000 there is an inode table", "here a file ends after 1234 bytes").  A
 * filesystem *locates* a mark if it can.
 *
 * Everything read is hostile: each walk is bounded by the disk's size and by a count.  Not
 * thread-safe: one thread a filesystem.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct plt_error;

/* The disk.  read: 0; -ENODATA where nothing is known (any part of the range); or another errno. */
struct plt_guest {
	int (*read)(void *arg, uint64_t off, void *buf, size_t len);
	void *arg;
	uint64_t size;
};

/* ---- what content says of itself ---------------------------------------------------------------- */

enum plt_mark_kind {
	PLT_MARK_GPT,         /* value: its own LBA (512-byte sectors) */
	PLT_MARK_MBR,         /* a partition table, or a protective one */
	PLT_MARK_EXT_SB,      /* value: block group */
	PLT_MARK_EXT_DIR,     /* first block of a directory; value: inode of '.' */
	PLT_MARK_EXT_OWNED,   /* directory or extent block; value: the checksum register of its inode */
	PLT_MARK_EXT_INODES,  /* looks like inodes, whose checksums tell which: content needed */
	PLT_MARK_EXT_GDT,     /* looks like group descriptors, whose checksums tell which: content needed */
	PLT_MARK_JBD2,        /* a block of a journal: what stands beside it are copies */
	PLT_MARK_XFS_BLOCK,   /* value: byte offset in the filesystem */
	PLT_MARK_XFS_AG,      /* a header of an allocation group; value: group << 16 | sector in it */
	PLT_MARK_XFS_INODE,   /* value: inode number */
	PLT_MARK_NTFS_BOOT,   /* value: 0 the first sector, 1 its copy in the last */
	PLT_MARK_NTFS_MFT,    /* value: record number */
	PLT_MARK_NTFS_INDX,   /* value: directory's record number << 24 | first cluster in its index */
	PLT_MARK_FAT_BOOT,    /* value: 1 for the copy that FAT32 keeps */
	PLT_MARK_FAT_DIR,     /* value: first cluster, of '.' */
	PLT_MARK_FAT_ENTRIES, /* a sector of a directory; value: that of the facts (KEY) where it may belong */
	PLT_MARK_FAT_TABLE,   /* value: copy << 40 | bits of an entry << 32 | the first entry in this sector */
};

struct plt_mark {
	uint64_t value;
	uint64_t fsid;    /* of the filesystem's identifier; 0: the structure carries none */
	uint64_t pos;     /* where in the piece that was looked at */
	uint32_t len;     /* of the structure, at least */
	uint8_t kind;
	bool sure;        /* a checksum of its own verified */
};

/*
 * The marks in @len bytes (a multiple of 512) at @buf, in order, @base added to their positions.
 * fn returns false to stop.
 */
typedef bool (*plt_mark_fn)(void *arg, const struct plt_mark *mark);
void plt_guest_marks(const uint8_t *buf, size_t len, uint64_t base, plt_mark_fn fn, void *arg);

/* ---- what a filesystem says of places ------------------------------------------------------------ */

enum plt_fact_kind {
	PLT_FACT_DATA,   /* whole blocks of a file, written: zeros are unlikely */
	PLT_FACT_TAIL,   /* the last block of a file: value bytes, then zeros */
	PLT_FACT_META,   /* verify() can judge it */
	PLT_FACT_KEY,    /* metadata that carries an EXT_OWNED or FAT_ENTRIES mark of this value; verify() can judge it too */
	PLT_FACT_LOG,    /* a journal: copies of anything */
};

struct plt_fact {
	uint64_t off, len;  /* of the disk */
	uint64_t value;
	uint8_t kind;
	uint8_t what;       /* the filesystem's */
};

/* Returns false to stop the survey. */
typedef bool (*plt_fact_fn)(void *arg, const struct plt_fact *fact);

struct plt_guestfs {
	const struct plt_guestfs_ops *ops;
	const struct plt_guest *disk;
	uint64_t start, size;  /* of the disk; size as the filesystem says, inside the disk or cut there */
	uint64_t fsid;
	uint32_t block;        /* files are laid out and end in blocks of this many bytes, */
	uint32_t grid;         /* which begin at multiples of it on the disk, plus this */
	bool zero_tails;       /* the writer zeroes what is behind the end of a file in its last block */
	bool cut;              /* it says that it goes on behind the end of the disk */
	bool sums;             /* verify() goes by checksums or own addresses, mostly */
	/* for the caller to set */
	bool twins;            /* verify() also holds copies of a structure against each other */
	uint32_t thin;         /* survey() looks at every nth of what is alike: a sample; 0 and 1: at all */
};

struct plt_guestfs_ops {
	const char *name;
	/*
	 * The filesystem that begins at @start.  @copy (NULL: read it there) is a superblock, or what
	 * stands for one, of @len bytes found elsewhere.  -ENOENT: none; -ENODATA: cannot be read.
	 */
	int (*open)(const struct plt_guest *disk, uint64_t start, const uint8_t *copy, size_t len,
		    struct plt_guestfs **ret);
	/*
	 * Facts, in no order.  Reads metadata as far as it is there; may be called again when more is.
	 * locate() and verify() know what the last survey saw.
	 */
	int (*survey)(struct plt_guestfs *fs, plt_fact_fn fn, void *arg);
	/*
	 * The place on the disk of what carries @mark; @block (its bytes, fs->block long or as much as
	 * there is) for marks that need content.  *ret_sure: a checksum names this place.  False: not
	 * of this filesystem, or not known.
	 */
	bool (*locate)(struct plt_guestfs *fs, const struct plt_mark *mark, const uint8_t *block, size_t len,
		       uint64_t *ret, bool *ret_sure);
	/* Where the filesystem keeps a second copy of what carries @mark.  NULL: of nothing. */
	bool (*locate_copy)(struct plt_guestfs *fs, const struct plt_mark *mark, uint64_t *ret);
	/*
	 * Whether @block, fs->block bytes, is what a META or KEY fact expects at @off of the disk (a block
	 * of its range): 1 yes, 2 it names its place besides, -1 no, 0 cannot tell.
	 */
	int (*verify)(struct plt_guestfs *fs, const struct plt_fact *fact, uint64_t off, const uint8_t *block);
	/*
	 * Of versions of the same block that all verify, the newest gives the greatest number (a log sequence
	 * number, a time, a count that mostly grows); 0: cannot tell.
	 */
	uint64_t (*newness)(struct plt_guestfs *fs, const struct plt_fact *fact, const uint8_t *block);
	/* A journal is still to be replayed, or much of it is not understood: verify() may refuse what is sound.  NULL: never. */
	bool (*unclean)(struct plt_guestfs *fs);
	void (*free)(struct plt_guestfs *fs);
};

extern const struct plt_guestfs_ops plt_guestfs_ext;
extern const struct plt_guestfs_ops plt_guestfs_xfs;
extern const struct plt_guestfs_ops plt_guestfs_ntfs;
extern const struct plt_guestfs_ops plt_guestfs_fat;
extern const struct plt_guestfs_ops *const plt_guestfs_all[]; /* ends with NULL */

/* Which of plt_guestfs_all understands a mark of this kind; NULL: none (partition tables). */
const struct plt_guestfs_ops *plt_guestfs_of_mark(enum plt_mark_kind kind);
/* Whether locate() needs the content of a mark of this kind. */
bool plt_mark_needs_content(enum plt_mark_kind kind);
/* Whether a mark of this kind is a superblock copy that open() takes. */
bool plt_mark_opens(enum plt_mark_kind kind);

/*
 * For open(): *ret is what its @copy is, or the @n bytes, read into @buf, that lie @skip bytes behind @start.  -ENOENT:
 * @copy has not the @least bytes that are needed, or the disk ends before.
 */
int plt_guestfs_super(const struct plt_guest *disk, uint64_t start, const uint8_t *copy, size_t len, size_t least,
		      size_t skip, uint8_t *buf, size_t n, const uint8_t **ret);
/* The first of plt_guestfs_all that opens at @start; -ENOENT none, -ENODATA its superblock cannot be read, -ENOMEM. */
int plt_guestfs_open_any(const struct plt_guest *disk, uint64_t start, struct plt_guestfs **ret);
void plt_guestfs_free(struct plt_guestfs *fs);

/* A digest of an identifier, never 0. */
uint64_t plt_fsid(const void *id, size_t len);

/* The marks of each family at one 512-byte sector; for marks.c. */
struct plt_mark_sink {
	const uint8_t *buf;
	size_t len;        /* what there is */
	size_t pos;        /* the sector looked at */
	uint64_t base;
	plt_mark_fn fn;
	void *arg;
	bool stop;
};
void plt_mark_add(struct plt_mark_sink *sink, enum plt_mark_kind kind, uint64_t value, uint64_t fsid, uint32_t len,
		  bool sure);
void plt_ext_marks(struct plt_mark_sink *sink);
void plt_xfs_marks(struct plt_mark_sink *sink);
void plt_ntfs_marks(struct plt_mark_sink *sink);
void plt_fat_marks(struct plt_mark_sink *sink);
void plt_parts_marks(struct plt_mark_sink *sink);

/* ---- partitions ---------------------------------------------------------------------------------- */

struct plt_part {
	uint64_t start, len;
	uint8_t type;      /* MBR; 0xee: from a GPT */
};

/*
 * The partitions of the disk, by its GPT (either copy), or by its MBR with extended ones.  Ascending,
 * inside the disk, none overlapping.  *ret_sure: checksummed.  0 with *ret_n 0: no table, or not readable.
 */
#define PLT_PARTS_MAX 256
int plt_parts_read(const struct plt_guest *disk, struct plt_part *ret, unsigned *ret_n, bool *ret_sure);
/*
 * The copies of a GPT that there should be, as the sound one says; with none, those that there are remains of.  Their
 * number: 0 to 2.
 */
struct plt_gpt_copy { uint64_t off; bool sound; };
unsigned plt_parts_gpt(const struct plt_guest *disk, struct plt_gpt_copy ret[2]);

#endif
