/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_CRYPT_LUKS_H
#define PLT_CRYPT_LUKS_H

/*
 * LUKS headers and key slots, wherever they lie: at the beginning of a file (luks/) or in clusters of
 * an image (qcow2/).  A struct plt_luks belongs to one caller; changing slots is not thread-safe.
 */
#include <jansson.h>

#include "crypt/cipher.h"
#include "crypt/luks_ondisk.h"
#include "crypt/secret.h"
#include "io/store.h"

struct plt_luks_slot {
	bool active;
	uint32_t iterations;
	uint8_t salt[LUKS_SALT];
	uint64_t key_offset;      /* bytes from the header */
};

struct plt_luks {
	/* from the header, validated */
	struct plt_cipher_spec spec;
	bool usable;              /* false: its cipher is not supported; .unusable says so */
	struct plt_error unusable;
	char cipher_name[32], mode_name[32], hash_name[32]; /* as recorded */
	enum plt_hash hash;
	uint32_t key_bytes;
	uint64_t payload_offset;  /* bytes from the header; 0: the header is detached */
	uint8_t mk_digest[LUKS_DIGEST], mk_salt[LUKS_SALT];
	uint32_t mk_iterations;
	char uuid[41];
	struct plt_luks_slot slot[LUKS_SLOTS];

	struct plt_store *store;  /* borrowed */
	uint64_t base;            /* of the header in it */

	uint8_t master_key[PLT_KEY_MAX];
	struct plt_cipher *cipher; /* of the payload; NULL: locked */
};

/* What a new header is made of. */
struct plt_luks_params {
	struct plt_cipher_spec spec;
	enum plt_hash hash;
	uint64_t iter_ms;         /* processor time for one guess */
};
/*
 * From option texts, NULL where not given: QEMU's defaults (aes-256, xts, plain64, sha256, 2000 ms) and
 * words ("Parameter '@prefixcipher-alg' does not accept value 'x'").  What the cipher cannot do is
 * refused by name.  @iter_ms UINT64_MAX: not given.
 */
struct plt_luks_texts {
	const char *cipher_alg, *cipher_mode, *ivgen_alg, *ivgen_hash_alg, *hash_alg;
	uint64_t iter_ms;
};
int plt_luks_params(const struct plt_luks_texts *t, struct plt_luks_params *ret, struct plt_error *err);
/* Bytes from the header's beginning to the payload. */
uint64_t plt_luks_space(const struct plt_luks_params *p);

/*
 * luks_header.c: read and validate the header at @base.  @space: bytes that are there for it (header and
 * key material); UINT64_MAX: up to the store's end.  A cipher that is not supported is no error here.
 */
int plt_luks_read(struct plt_store *st, uint64_t base, uint64_t space, struct plt_luks **ret, struct plt_error *err);
void plt_luks_free(struct plt_luks *l); /* wipes; NULL allowed */
/* Write the header alone, as one request of whole 4096 bytes. */
int plt_luks_write_header(struct plt_luks *l, struct plt_error *err);
/* What `info` says of it; NULL: no memory. */
json_t *plt_luks_info(const struct plt_luks *l);

/*
 * luks_keys.c.  unlock: -EPERM "Invalid password, cannot unlock any keyslot".  Does nothing if it is
 * unlocked already.
 */
int plt_luks_unlock(struct plt_luks *l, const struct plt_secret *secret, struct plt_error *err);
/* Which active slots does @secret open?  *ret_mask: bit i for slot i.  Changes nothing. */
int plt_luks_match(struct plt_luks *l, const struct plt_secret *secret, unsigned *ret_mask, struct plt_error *err);
/*
 * A new header at @base: zeros to its end, key material, header last.  *ret is unlocked.  @rehearse: the
 * result is thrown away, do not spend the time that the key is to cost.
 */
int plt_luks_create(struct plt_store *st, uint64_t base, const struct plt_luks_params *p,
		    const struct plt_secret *secret, bool rehearse, struct plt_luks **ret, struct plt_error *err);
/*
 * Put the master key (unlocked) into slot @n under @secret: key material, sync, header, sync.  A cut
 * leaves the slot as it was, or active with all it needs, or inactive; no other slot changes.
 */
int plt_luks_slot_set(struct plt_luks *l, unsigned n, const struct plt_secret *secret, uint64_t iter_ms,
		      struct plt_error *err);
/* Inactive, durably, then its key material overwritten. */
int plt_luks_slot_erase(struct plt_luks *l, unsigned n, struct plt_error *err);

/*
 * luks_mend.c: the header at @base, which does not open, as it is to be.  @inside: an image's, which finds its data
 * otherwise.  0 with .fields 0: it is readable; -ENOENT: nothing there looks like one; -ENOTSUP: version 2.
 */
struct plt_luks_mended {
	uint8_t header[sizeof(struct luks_header_ondisk)];
	unsigned fields;         /* that were wrong */
	char text[400];          /* which */
	bool whole;              /* now it can be read */
};
int plt_luks_mend(struct plt_store *st, uint64_t base, uint64_t space, bool inside, struct plt_luks_mended *ret,
		  struct plt_error *err);
/* Does nothing open a slot: sectors of its key material are one byte over and over, as none that is encrypted is; no salt. */
struct plt_luks_wear {
	bool worn;
	uint64_t first;          /* place of the first such sector, or of the material */
	char text[160];
};
int plt_luks_worn(struct plt_store *st, const struct plt_luks *l, unsigned slot, struct plt_luks_wear *ret, struct plt_error *err);
/* luks_header.c: would it be read, with @space bytes for it? */
bool plt_luks_is_whole(const struct luks_header_ondisk *h, uint64_t space);

/* luks_amend.c: a change of key slots as `amend` asks for it, with QEMU's rules and words. */
struct plt_luks_change {
	bool activate;                         /* else: make inactive */
	const struct plt_secret *new_secret;   /* activate */
	const struct plt_secret *old_secret;   /* else: the slots that it opens */
	int keyslot;                           /* -1: not given */
	uint64_t iter_ms;                      /* UINT64_MAX: not given */
	bool force;
	bool rehearse;                         /* judge only, change nothing */
};
int plt_luks_amend(struct plt_luks *l, const struct plt_luks_change *c, struct plt_error *err);

#endif
