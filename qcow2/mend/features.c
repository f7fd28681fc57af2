/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
/*
 * Incompatible features that nobody knows.  An image may claim one because a program that knows more has made it, or
 * because a bit has turned.  For those who only look, a claim that nothing shows is ignored, unless the image's own table
 * has a name for the feature; for those who write only on the user's word (plt_ctx_ignored_features()), which also
 * overrides the name.  In either case all that the guest sees is inferred.
 */
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "qcow2/mend/find.h"

#define FEATURES offsetof(struct qcow2_header, incompatible_features)
#define SHOWN_MAX 8 /* as many options as are spelled out */

/* Has the image's own table a name for one of these?  Then it was made by who knows them. */
static bool has_name(const struct qcow2_state *q, uint64_t features)
{
	const size_t each = sizeof(struct qcow2_feature_name);

	for (size_t at = 0; at + each <= q->feature_table_len; at += each)
		if (q->feature_table[at] == 0 && q->feature_table[at + 1] < 64 && features >> q->feature_table[at + 1] & 1)
			return true;
	return false;
}

/* The claim goes, in the overlay. */
static int take_out(struct qcow2_exam *x, uint64_t size, uint64_t left, enum plt_certainty certainty, const char *why)
{
	const struct qcow2_tree all = {.disk = PLT_DISK_ACTIVE, .size = size};
	plt_be64 v = plt_be64_make(left);
	int r = plt_store_write(x->ex->file, FEATURES, &v, sizeof(v), PLT_IO_HEADER, NULL);

	if (r == 0)
		x->ex->mend->changed = true;
	return r < 0 ? r : qcow2_doubt(x, &all, PLT_INFERRED, 0, size, certainty, why);
}

int qcow2_ignore_features(struct qcow2_exam *x)
{
	struct plt_examine *ex = x->ex;
	PLT_AUTOFREE char *backing = NULL, *format = NULL;
	struct qcow2_state q = {0};
	struct qcow2_header h;
	uint64_t unknown;
	int r = plt_store_read(ex->file, 0, &h, sizeof(h), PLT_IO_HEADER, NULL);

	unknown = plt_be64_get(h.incompatible_features) & ~QCOW2_INCOMPAT_KNOWN;
	if (r < 0 || !unknown || plt_be32_get(h.version) != 3)
		return r < 0 ? r : -ENOTSUP;
	q.ignore = unknown;
	r = qcow2_header_read(ex->file, ex->name, true, &q, &backing, &format, NULL);
	if (r == 0 && (has_name(&q, unknown) || qcow2_leads_nowhere(ex->file, &q)))
		r = -ENOTSUP;
	qcow2_state_release(&q);
	if (r < 0)
		return r;
	plt_emit(ex, &(struct plt_finding){.id = "Q-HDR", .severity = PLT_CORRUPTION, .count = 1, .beyond_qemu = true,
					   .host_off = FEATURES, .host_len = 8},
		 "ERROR header: the image claims incompatible features that nobody knows (%#" PRIx64 "); nothing in the file shows "
		 "them: they are ignored to look at it, and it is not changed", unknown);
	return take_out(x, q.virtual_size, plt_be64_get(h.incompatible_features) & ~unknown, PLT_LIKELY,
			"the header claims a feature that nobody knows, and nothing shows it: it is ignored");
}

void qcow2_name_unknown(struct plt_store *file, struct plt_error *err)
{
	const struct plt_error was = err ? *err : (struct plt_error)PLT_ERROR_INIT;
	char options[SHOWN_MAX * 24] = "";
	plt_be64 claimed;
	uint64_t unknown;

	if (!err || !strstr(was.text, "eature") ||
	    plt_store_read(file, FEATURES, &claimed, sizeof(claimed), PLT_IO_HEADER, NULL) < 0)
		return;
	unknown = plt_be64_get(claimed) & ~QCOW2_INCOMPAT_KNOWN;
	if (!unknown)
		return;
	if (__builtin_popcountll(unknown) > SHOWN_MAX)
		snprintf(options, sizeof(options), " --ignore-feature BIT, for each of %d", __builtin_popcountll(unknown));
	for (unsigned bit = 0; bit < 64 && __builtin_popcountll(unknown) <= SHOWN_MAX; bit++)
		if (unknown >> bit & 1)
			snprintf(options + strlen(options), sizeof(options) - strlen(options), " --ignore-feature %u", bit);
	plt_error_set(err, ENOTSUP, "%s; to have it repaired as if it did not claim that:%s", was.text, options);
}

int qcow2_mend_ignored(struct qcow2_exam *x)
{
	struct plt_examine *ex = x->ex;
	const bool mends = ex->mend && ex->mend->what & PLT_MEND_MAP;

	if (!x->q.ignored)
		return 0;
	plt_emit(ex, &(struct plt_finding){.id = "Q-HDR", .severity = PLT_CORRUPTION, .count = 1, .beyond_qemu = true,
					   .mended = mends, .host_off = FEATURES, .host_len = 8},
		 "%s header: the image claims incompatible features that nobody knows (%#" PRIx64 "); on the user's word they are "
		 "ignored", mends ? "Repairing" : "ERROR", x->q.ignored);
	return mends ? take_out(x, x->q.virtual_size, x->q.incompatible, PLT_LIKELY,
				"the header claims a feature that nobody knows; on the user's word it is ignored") : 0;
}
