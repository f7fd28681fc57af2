/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_FORMATS_FINDING_H
#define PLT_FORMATS_FINDING_H

/*
 * Findings: what an examination says is wrong with an image.  The id is stable and names the class
 * of damage; the text is for a person.
 */
#include <stdbool.h>
#include <stdint.h>

#include "io/store.h"
#include "platter.h"

struct plt_ctx;

enum plt_severity {
	PLT_NOTE,       /* worth knowing; changes no count and no exit code */
	PLT_LEAK,       /* space is wasted, data is safe */
	PLT_CORRUPTION, /* data is wrong or unreachable, or writing is dangerous */
	PLT_CHECK_ERROR,/* something could not be examined */
};

/*
 * How sure a placement or an edit is.  Proven: a redundant copy, or an address or checksum of its own
 * that verifies in the only candidate; strong: a clear margin by several kinds of evidence; likely:
 * neighbours and order only.  Proven and strong are acted upon unasked.
 */
enum plt_certainty { PLT_GUESS, PLT_LIKELY, PLT_STRONG, PLT_PROVEN };

struct plt_finding {
	const char *id;          /* "Q-L2-OUTSIDE": static */
	enum plt_severity severity;
	bool beyond_qemu;        /* qemu-img does not count it: kept out of its counters */
	const char *text;        /* one line; valid during emit() only */
	uint64_t count;          /* how many of qemu-img's units it stands for (clusters leaked...), mostly 1 */
	uint64_t host_off, host_len;   /* place on disk; len 0: no single place */
	uint64_t guest_off, guest_len; /* guest range it affects; len 0: none or unknown */
};

struct plt_check_totals {
	uint64_t image_end_offset;
	uint64_t total_clusters, allocated_clusters, fragmented_clusters, compressed_clusters;
	bool have_clusters;      /* whether the four above mean anything for the format */
};

struct plt_examine {
	struct plt_ctx *ctx;
	struct plt_store *file;
	struct plt_store *data_file;  /* or NULL */
	const char *name;
	bool deep;
	void (*emit)(struct plt_examine *ex, const struct plt_finding *finding);
	void *arg;
	struct plt_check_totals totals; /* filled in by the driver */
};

/* Emit with a formatted text. */
void plt_emit(struct plt_examine *ex, const struct plt_finding *proto, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#endif
