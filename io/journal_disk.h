/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_IO_JOURNAL_DISK_H
#define PLT_IO_JOURNAL_DISK_H

/*
 * The undo journal's structures, on disk (docs/formats/undo.md) and in memory: for the three files that write one,
 * read one, and do what it says.
 */
#include <stddef.h>

#include <jansson.h>

#include "base/crc.h"
#include "base/endian.h"
#include "base/error.h"
#include "io/journal.h"

#define SECTOR 512u
#define PIECE (1u << 20)         /* longest record */
#define MAX_TEXT (1u << 20)      /* of the description */
#define JOURNAL_VERSION 1u
#define JOURNAL_MAGIC "PLTUNDO\n"

/* One sector, so that the state changes at once. */
struct plt_journal_head {
	uint8_t magic[8];
	plt_le32 version, state;
	uint8_t id[16];
	plt_le64 text_off, text_len;
	plt_le64 records_off, records_len;
	plt_le32 records, text_crc;
	uint8_t reserved[SECTOR - 8 - 8 - 16 - 32 - 8 - 4];
	plt_le32 crc;
};
_Static_assert(sizeof(struct plt_journal_head) == SECTOR, "one sector");

enum kind { KIND_BYTES = 1, KIND_SIZE, KIND_MARK };
enum { ZERO_BEFORE = 1, ZERO_AFTER = 2 };

struct plt_journal_record {
	uint8_t magic[4];
	plt_le32 store, kind, flags;
	plt_le64 off, len;        /* SIZE: before, after */
	plt_le32 before_crc, after_crc;
	uint8_t mark[3];          /* MARK: before, while under way, after */
	uint8_t reserved[64 - 16 - 16 - 8 - 3 - 4];
	plt_le32 crc;
};
_Static_assert(sizeof(struct plt_journal_record) == 64, "as documented");

/* Where a record is, and what it says. */
struct plt_journal_entry {
	uint64_t at;              /* of the bytes behind its header */
	uint64_t off, len;
	uint32_t store, kind, flags;
	uint8_t mark[3];
};

struct plt_journal {
	struct plt_store *file;
	struct plt_store *st[PLT_JOURNAL_STORES];
	struct plt_journal_info info;
	json_t *text;             /* owns the texts of info */
	struct plt_journal_head head;
	struct plt_journal_entry *v;
	uint32_t n, cap;
	uint64_t end;             /* where the next record goes */
	uint64_t mark_off;        /* UINT64_MAX: none */
	uint8_t *buf;             /* two pieces */
};

/* As iSCSI, XFS and VHDX have it. */
static inline uint32_t plt_journal_sum(const void *buf, size_t len)
{
	return ~plt_crc32c(UINT32_MAX, buf, len);
}

static inline uint32_t plt_journal_head_crc(const struct plt_journal_head *h)
{
	return plt_journal_sum(h, offsetof(struct plt_journal_head, crc));
}

static inline uint32_t plt_journal_record_crc(const struct plt_journal_record *r)
{
	return plt_journal_sum(r, offsetof(struct plt_journal_record, crc));
}

/* journal.c */
struct plt_journal *plt_journal_new(struct plt_store *file, struct plt_error *err);
int plt_journal_note(struct plt_journal *j, const struct plt_journal_entry *e, struct plt_error *err);
/* Point info's texts into the description. */
int plt_journal_take_texts(struct plt_journal *j, struct plt_error *err);
/* Durably. */
int plt_journal_put_state(struct plt_journal *j, enum plt_journal_state state, struct plt_error *err);
/* The bytes that a record keeps of one side, at @buf; the side is zeros where they are not kept. */
int plt_journal_read_side(struct plt_journal *j, const struct plt_journal_entry *e, bool after, uint8_t *buf,
			  struct plt_error *err);

#endif
