/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_FORMATS_POLICY_H
#define PLT_FORMATS_POLICY_H

#include "platter.h"

/*
 * May an image cause @name (resolved) to be opened as its @role ("backing file", "data file")?
 * 0, or -EACCES with a text that names the reference and the rule.
 */
int plt_policy_check(enum plt_policy policy, char *const *allow_dirs, const char *role, const char *name,
		     struct plt_error *err);

#endif
