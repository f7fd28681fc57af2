/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Zero detection, on the path of every converted byte: data must cost nothing, zeros no more than
 * reading them.  Both ends and the middle are looked at first; then 128 bytes a step, in vectors
 * of the compiler's, which become whatever the processor has.  Reads exactly [buf, buf + len), at
 * any alignment.
 */
#include "base/zero.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

#define STEP 128

/* Two 64-bit lanes: the width that every 64-bit processor has.  Any alignment, any content. */
typedef uint64_t vec __attribute__((vector_size(16), aligned(1), may_alias));

static bool step_is_zero(const uint8_t *p)
{
	const vec *v = (const vec *)p;
	vec a = v[0] | v[1], b = v[2] | v[3], c = v[4] | v[5], d = v[6] | v[7];
	vec all = (a | b) | (c | d);

	return (all[0] | all[1]) == 0;
}

bool plt_is_zero(const void *buf, size_t len)
{
	const uint8_t *p = buf, *end = p + len;

	if (!len)
		return true;
	if (p[0] | p[len / 2] | p[len - 1])
		return false;
	if (len < STEP) {
		uint64_t word;

		for (; end - p >= 8; p += 8) {
			memcpy(&word, p, 8);
			if (word)
				return false;
		}
		while (p < end)
			if (*p++)
				return false;
		return true;
	}
	for (; end - p >= STEP; p += STEP)
		if (!step_is_zero(p))
			return false;
	/* The rest, together with some of what has been seen. */
	return step_is_zero(end - STEP);
}

size_t plt_zero_run(const void *buf, size_t len, size_t unit, bool *ret_zero)
{
	const uint8_t *p = buf;
	size_t run;
	bool zero;

	assert(len > 0 && unit > 0);
	run = len < unit ? len : unit;
	zero = plt_is_zero(p, run);
	while (run < len) {
		size_t n = len - run < unit ? len - run : unit;

		if (plt_is_zero(p + run, n) != zero)
			break;
		run += n;
	}
	*ret_zero = zero;
	return run;
}
