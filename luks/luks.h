/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_LUKS_LUKS_H
#define PLT_LUKS_LUKS_H

/*
 * What the files of the luks driver share.
 */
#include "crypt/luks.h"
#include "formats/driver.h"

/* check.c */
int luks_examine(struct plt_examine *ex, struct plt_error *err);

#endif
