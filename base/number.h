/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_BASE_NUMBER_H
#define PLT_BASE_NUMBER_H

/*
 * Sizes and switches as a person writes them.  Header-only, so that the command line and the
 * library read them alike.
 */
#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/*
 * Decimal or 0x hex, an optional fraction (decimal only, and only with a unit above bytes), an
 * optional suffix b k K M G T P E (powers of 1024).  The whole string counts.  -EINVAL, -ERANGE
 * (2^64 and above); *ret is set on success only.
 */
static inline int plt_number_size(const char *text, uint64_t *ret)
{
	static const char suffixes[] = "bkmgtpe";
	const char *p = text, *suffix;
	uint64_t v = 0, add;
	double fraction = 0;
	bool hex, over = false;
	unsigned shift = 0;

	while (isspace((unsigned char)*p))
		p++;
	if (*p == '+')
		p++;
	hex = p[0] == '0' && (p[1] == 'x' || p[1] == 'X');
	if (hex)
		p += 2;
	if (hex ? !isxdigit((unsigned char)*p) : !isdigit((unsigned char)*p))
		return -EINVAL;
	for (; hex ? isxdigit((unsigned char)*p) : isdigit((unsigned char)*p); p++) {
		unsigned digit = *p <= '9' ? (unsigned)(*p - '0') :
					     (unsigned)((*p | 32) - 'a' + 10);

		over = over || __builtin_mul_overflow(v, hex ? 16u : 10u, &v);
		over = over || __builtin_add_overflow(v, digit, &v);
	}
	if (*p == '.' && !hex) {
		double weight = 0.1;

		for (p++; isdigit((unsigned char)*p); p++, weight /= 10)
			fraction += (*p - '0') * weight;
	}
	if (*p) {
		suffix = strchr(suffixes, tolower((unsigned char)*p));
		if (!suffix || p[1])
			return -EINVAL;
		shift = 10 * (unsigned)(suffix - suffixes);
	}
	if (fraction > 0 && shift == 0)
		return -EINVAL;
	if (over || (v << shift) >> shift != v)
		return -ERANGE;
	v <<= shift;
	add = (uint64_t)(fraction * (double)(UINT64_C(1) << shift) + 0.5);
	if (__builtin_add_overflow(v, add, &v))
		return -ERANGE;
	*ret = v;
	return 0;
}

/* on yes true y, off no false n.  -EINVAL otherwise. */
static inline int plt_number_bool(const char *text, bool *ret)
{
	static const char *const words[2][4] = {
		{ "off", "no", "false", "n" },
		{ "on", "yes", "true", "y" },
	};

	for (unsigned v = 0; v < 2; v++)
		for (unsigned i = 0; i < 4; i++)
			if (!strcmp(text, words[v][i])) {
				*ret = v;
				return 0;
			}
	return -EINVAL;
}

#endif
