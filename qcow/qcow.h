/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_QCOW_QCOW_H
#define PLT_QCOW_QCOW_H

/*
 * The driver's state and prototypes.  Write order, the whole of it:
 *
 *	data, copied head and tail, and the file's new length   ->   L2 entry
 *	a new L2 table, every sector of it                      ->   L1 entry
 *
 * A cut leaves space at the end that nothing refers to, and nothing else.
 */
#include "crypt/cipher.h"
#include "crypt/secret.h"
#include "formats/driver.h"
#include "qcow/ondisk.h"

enum qcow_rule {
	QCOW_RULE_DATA_L2,
	QCOW_RULE_TABLE_L1,
};

static inline bool qcow_rule(const struct plt_image *img, enum qcow_rule r)
{
	return !(img->rules_off >> r & 1);
}

enum qcow_work {
	QCOW_WORK_NEW_L2, /* arg: L1 index without a table; exclusive */
};

extern const struct plt_meta_type qcow_l2_type, qcow_l1_type;

struct qcow_state {
	unsigned cluster_bits, l2_bits;
	uint32_t cluster_size;
	uint64_t l1_offset, l1_size; /* entries */
	uint64_t tables_end;         /* header, name and L1 lie below it; a multiple of img->slice */
	enum qcow_crypt crypt;
	struct plt_cipher *cipher;   /* NULL: none, or locked */
	bool locked;                 /* opened to be inspected, without its key */

	/* image lock */
	uint64_t end;                /* the next free byte: all that will ever be allocated lies behind it */
	uint64_t fresh_from;         /* from here on the file has never held anything */
};

static inline struct qcow_state *qcow_of(const struct plt_image *img)
{
	return img->priv;
}

/* open.c */
int qcow_open(struct plt_image *img, const struct plt_open_how *how, struct plt_error *err);
int qcow_close(struct plt_image *img, struct plt_error *err);
/* The header into qcow_of(img) and the fields of @img that the engine reads; every field is held against its limits. */
int qcow_parse(struct plt_image *img, const struct qcow_header *h, uint64_t file_size, struct plt_error *err);
int qcow_before_sync(struct plt_image *img, struct plt_error *err);

/* map.c */
int qcow_map(struct plt_image *img, struct plt_pins *pins, uint64_t off, uint64_t len, struct plt_runs *runs,
	     struct plt_need *need, struct plt_error *err);
/* -EUCLEAN with text: an L1 entry that cannot be followed. */
int qcow_l1_check(const struct plt_image *img, uint64_t index, uint64_t entry, struct plt_error *err);
/* An L2 entry that cannot be right. */
bool qcow_l2_bad(const struct plt_image *img, uint64_t entry);
/* The bytes of the file that a compressed cluster has. */
void qcow_packed_range(const struct qcow_state *s, uint64_t entry, uint64_t *ret_off, uint32_t *ret_len);

/* place.c */
int qcow_place(struct plt_image *img, struct plt_pins *pins, const struct plt_place_req *req, struct plt_place *ret,
	       struct plt_need *need, struct plt_error *err);
void qcow_publish(struct plt_image *img, struct plt_place *place);
void qcow_withdraw(struct plt_image *img, struct plt_place *place);
int qcow_work(struct plt_image *img, int code, uint64_t arg, struct plt_error *err);

/* check.c */
int qcow_examine(struct plt_examine *ex, struct plt_error *err);

/* create.c */
extern const struct plt_opt_desc qcow_create_opts[];
int qcow_create(const struct plt_create *how, struct plt_error *err);

#endif
