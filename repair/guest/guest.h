/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_REPAIR_GUEST_H
#define PLT_REPAIR_GUEST_H

/*
 * Repair of what a guest keeps on its disk: partition tables, superblocks, labels of volumes.  It works on a disk,
 * whatever format holds it; so far it is what repair of a raw image does.
 *
 *	guest.c        what there is: tables, volumes, foreign beginnings; the order of the steps
 *	table.c  a partition table from its other copy, or from the volumes that are found
 *	shift.c  a disk that begins further on in the file
 *	ext.c    the superblock of an ext that has no copy of it
 *	fat.c    the boot sector of a FAT that has no copy of it
 *	super.c  the first superblock of a volume, from its copies
 *	lvm.c    the label and the metadata of a physical volume of LVM
 */
#include "base/error.h"
#include "formats/finding.h"
#include "guestfs/supers.h"
#include "repair/repair.h"

#define GUEST_SECTOR 512
#define GUEST_VOLUMES_MAX 4096 /* structures that are kept of one pass */

/* Where the partitions of a disk are said to be. */
enum guest_table { GUEST_NO_TABLE, GUEST_MBR, GUEST_GPT, GUEST_PLAIN /* a filesystem on the whole disk */ };

struct guest_exam {
	struct plt_store *st;      /* an overlay when mending */
	struct plt_guest disk;     /* the same, as guestfs/ reads */
	struct plt_mend *mend;     /* NULL: only look */
	void (*found)(void *arg, const struct plt_check_finding *f);
	void *arg;
	struct plt_check_result *res;
	enum guest_table table;
	struct plt_part parts[PLT_PARTS_MAX];
	unsigned nparts;
};

/* The examination of a disk, as plt_mend_store() of an image. */
int plt_guest_examine(struct plt_store *st, struct plt_mend *mend,
		      void (*found)(void *arg, const struct plt_check_finding *f), void *arg,
		      struct plt_check_result *ret, struct plt_error *err);

/* A finding about [off, off+len) of the disk; @mended: the edits of this round put it right. */
void guest_found(struct guest_exam *x, const char *id, bool mended, uint64_t off, uint64_t len, const char *fmt, ...)
	__attribute__((format(printf, 6, 7)));
/* What is worth knowing, and changes no exit status. */
void guest_note(struct guest_exam *x, const char *id, uint64_t off, uint64_t len, const char *text);
static inline bool guest_mends(const struct guest_exam *x)
{
	return x->mend && x->mend->what & PLT_MEND_MAP;
}
/* Write, and say how sure it is (of what is less than proven). */
int guest_put(struct guest_exam *x, uint64_t off, const void *bytes, size_t len, enum plt_certainty certainty,
	      const char *why);

/* All superblocks in [from, to), in the order in which they stand; free() it.  One sequential pass. */
int guest_volumes(struct guest_exam *x, uint64_t from, uint64_t to, struct plt_super **ret, unsigned *ret_n);

/* How many bytes into the file the disk begins; 0: at its beginning, as far as can be told. */
uint64_t plt_guest_shift(struct plt_store *st);
/* Said, if the disk does not begin where the file does. */
bool guest_is_shifted(struct guest_exam *x);

/* table.c; 0: go on, 1: something was mended, look again */
int guest_mend_table(struct guest_exam *x);
/* ext.c, as the next */
int guest_mend_ext(struct guest_exam *x, const struct plt_part *part, bool *ret_is);
/* fat.c: *ret_is: it is one, and what there is to say has been said */
int guest_mend_fat(struct guest_exam *x, const struct plt_part *part, bool *ret_is);
/*
 * lvm.c: what stands at the beginning of a physical volume.  Without @by_text it has to have its label or the header of its
 * metadata; with it, a text is enough that describes such a volume.  *ret_is: it is one, and all is said.
 */
int guest_mend_lvm(struct guest_exam *x, const struct plt_part *part, bool by_text, bool *ret_is);
/* super.c */
int guest_say_remains(struct guest_exam *x, const struct plt_part *part, bool *ret_said);
int guest_mend_volume(struct guest_exam *x, const struct plt_part *part);

#endif
