/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_CRYPT_LUKS_ONDISK_H
#define PLT_CRYPT_LUKS_ONDISK_H

/*
 * LUKS version 1 on disk (LUKS On-Disk Format Specification 1.2.3).
 *
 * A header of 592 bytes, eight areas of key material, then the payload: the encrypted sectors.  The
 * payload is encrypted with the master key, which is stored nowhere.  Each active key slot holds it
 * once: split into 4000 stripes of which every single bit is needed to put it together again (so that
 * a slot can be wiped), encrypted with a key that PBKDF2 derives from a passphrase.  A digest of the
 * master key in the header tells a right passphrase from a wrong one.  All integers are big-endian;
 * offsets are in sectors of 512 bytes from the header's beginning.
 */
#include <stddef.h>

#include "base/endian.h"

#define LUKS_MAGIC "LUKS\xba\xbe"
#define LUKS_MAGIC_LEN 6
#define LUKS_SLOTS 8
#define LUKS_DIGEST 20
#define LUKS_SALT 32
#define LUKS_ACTIVE 0x00ac71f3U
#define LUKS_INACTIVE 0x0000deadU
#define LUKS_STRIPES 4000 /* the only number that anybody writes or accepts */
#define LUKS_ALIGN 4096   /* of the areas of key material, as all tools lay them out */

struct luks_slot_ondisk {
	plt_be32 active;           /* LUKS_ACTIVE or LUKS_INACTIVE */
	plt_be32 iterations;       /* of PBKDF2; 0 in an inactive slot */
	uint8_t salt[LUKS_SALT];
	plt_be32 key_offset;       /* sectors */
	plt_be32 stripes;
};
_Static_assert(sizeof(struct luks_slot_ondisk) == 48, "LUKS key slot");

struct luks_header_ondisk {
	char magic[LUKS_MAGIC_LEN];
	plt_be16 version;          /* 1 */
	char cipher[32];           /* "aes" */
	char mode[32];             /* "xts-plain64", "cbc-essiv:sha256" */
	char hash[32];             /* of PBKDF2 and the anti-forensic split */
	plt_be32 payload_offset;   /* sectors; 0: the payload is elsewhere (detached header) */
	plt_be32 key_bytes;
	uint8_t mk_digest[LUKS_DIGEST];
	uint8_t mk_salt[LUKS_SALT];
	plt_be32 mk_iterations;
	char uuid[40];
	struct luks_slot_ondisk slot[LUKS_SLOTS];
};
_Static_assert(sizeof(struct luks_header_ondisk) == 592, "LUKS header");
_Static_assert(offsetof(struct luks_header_ondisk, payload_offset) == 104, "");
_Static_assert(offsetof(struct luks_header_ondisk, mk_digest) == 112, "");
_Static_assert(offsetof(struct luks_header_ondisk, uuid) == 168, "");
_Static_assert(offsetof(struct luks_header_ondisk, slot) == 208, "");

#endif
