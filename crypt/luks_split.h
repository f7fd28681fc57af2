/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_CRYPT_LUKS_SPLIT_H
#define PLT_CRYPT_LUKS_SPLIT_H

/* The anti-forensic split: @len bytes of key against @stripes times as many, all of which are needed. */
#include "crypt/hash.h"

int plt_luks_split(enum plt_hash h, const uint8_t *key, size_t len, unsigned stripes, uint8_t *ret);
int plt_luks_merge(enum plt_hash h, const uint8_t *split, size_t len, unsigned stripes, uint8_t *ret_key);

#endif
