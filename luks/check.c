/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What is wrong with a luks image, as far as that can be said without a key: fields of the header, where
 * the key slots and the payload lie, and key material that somebody has written over.  Material that
 * is whole looks like noise; a sector of it that is one byte over and over is not, and with it no
 * passphrase opens its slot any more.  The payload has no structure.
 */
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "luks/luks.h"

#define FEW_ITERATIONS 1000 /* the least that the specification asks for */

static void found(struct plt_examine *ex, const char *id, enum plt_severity s, uint64_t off, uint64_t len,
		  const char *fmt, ...) __attribute__((format(printf, 6, 7)));

static void found(struct plt_examine *ex, const char *id, enum plt_severity s, uint64_t off, uint64_t len,
		  const char *fmt, ...)
{
	struct plt_finding f = { .id = id, .severity = s, .count = 1, .host_off = off, .host_len = len,
				 .beyond_qemu = s == PLT_NOTE };
	char text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	plt_emit(ex, &f, "%s", text);
}

static int check_slot(struct plt_examine *ex, const struct plt_luks *l, unsigned i, uint64_t size, unsigned *ret_left,
		      struct plt_error *err)
{
	uint64_t at = l->slot[i].key_offset, len = (uint64_t)l->key_bytes * LUKS_STRIPES;
	struct plt_luks_wear w;
	int r;

	if (!plt_in_range(at, len, size)) {
		found(ex, "L-SLOT", PLT_CORRUPTION, at, 0, "key slot %u: its key material (%" PRIu64 " bytes at %" PRIu64
		      ") ends behind the end of the file (%" PRIu64 " bytes)", i, len, at, size);
		return 0;
	}
	r = plt_luks_worn(ex->file, l, i, &w, err);
	*ret_left += !w.worn;
	if (w.worn)
		found(ex, "L-SLOT", PLT_CORRUPTION, w.first, PLT_SECTOR, "key slot %u: %s", i, w.text);
	if (l->slot[i].iterations < FEW_ITERATIONS)
		found(ex, "L-WEAK", PLT_NOTE, 0, sizeof(struct luks_header_ondisk), "key slot %u: %u iterations, a passphrase is "
		      "quickly guessed (%d are the least that should be)", i, l->slot[i].iterations, FEW_ITERATIONS);
	return r;
}

static void check_payload(struct plt_examine *ex, const struct plt_luks *l, uint64_t size)
{
	if (!l->payload_offset)
		found(ex, "L-DETACHED", PLT_NOTE, 0, 0, "the header is detached: the payload is elsewhere");
	else if (l->payload_offset > size)
		found(ex, "L-PAYLOAD", PLT_CORRUPTION, l->payload_offset, 0, "the payload is said to begin at %" PRIu64
		      ", behind the end of the file (%" PRIu64 " bytes)", l->payload_offset, size);
	else if ((size - l->payload_offset) % PLT_SECTOR)
		found(ex, "L-END", PLT_NOTE, size, 0, "the file ends %" PRIu64 " bytes behind the beginning of a sector: the rest "
		      "of that sector is lost", (size - l->payload_offset) % PLT_SECTOR);
}

/* A header that cannot be read, or that names a cipher that nobody has: what of it can be told otherwise is put right. */
static int mend_header(struct plt_examine *ex, const struct plt_error *why, struct plt_error *err)
{
	const bool mend = ex->mend && ex->mend->what & PLT_MEND_MAP;
	struct plt_luks_mended m;
	int r = plt_luks_mend(ex->file, 0, UINT64_MAX, false, &m, err);
	struct plt_finding f = { .id = "L-HEADER", .severity = PLT_CORRUPTION, .count = 1, .beyond_qemu = true,
				 .host_len = sizeof(struct luks_header_ondisk) };

	if (r == -ENOENT)
		return plt_error_set(err, EINVAL, "%s", why->text);
	if (r < 0)
		return r;
	if (!m.fields) {
		if (*why->text)
			found(ex, "L-HEADER", PLT_CORRUPTION, 0, sizeof(struct luks_header_ondisk), "%s", why->text);
		return 0;
	}
	f.mended = mend && m.whole;
	plt_emit(ex, &f, "%s the LUKS header (%s): wrong %s %s. %s", f.mended ? "Repairing" : "ERROR",
		 *why->text ? why->text : "it says what cannot be", m.fields == 1 ? "is" : "are", m.text,
		 m.whole ? "The rest of it tells what is right" : "What is right cannot be told from the rest: without its header "
		 "nothing opens the image");
	if (!f.mended)
		return 0;
	ex->mend->changed = true;
	return plt_store_write(ex->file, 0, m.header, sizeof(m.header), PLT_IO_HEADER, err);
}

int luks_examine(struct plt_examine *ex, struct plt_error *err)
{
	struct plt_error why = PLT_ERROR_INIT;
	struct plt_luks *l = NULL;
	unsigned active = 0, left = 0;
	uint64_t size;
	int r = plt_store_size(ex->file, &size, err);

	if (r < 0)
		return r;
	r = plt_luks_read(ex->file, 0, UINT64_MAX, &l, &why);
	if (r == -EUCLEAN || r == -EINVAL || r == -ENOTSUP || r == 0) {
		int m = mend_header(ex, &why, err);

		if (m < 0 || r < 0 || (ex->mend && ex->mend->changed)) {
			plt_luks_free(l);
			return m;
		}
	}
	if (r < 0)
		return plt_error_set(err, -r, "%s", why.text);
	ex->totals.image_end_offset = size;
	if (!l->usable)
		found(ex, "L-CIPHER", PLT_NOTE, 0, sizeof(struct luks_header_ondisk), "%s", l->unusable.text);
	for (unsigned i = 0; i < LUKS_SLOTS && r == 0; i++)
		if (l->slot[i].active) {
			active++;
			r = check_slot(ex, l, i, size, &left, err);
		}
	if (!active)
		found(ex, "L-NO-SLOT", PLT_CORRUPTION, 0, sizeof(struct luks_header_ondisk), "no key slot is active: nothing "
		      "opens the image any more");
	if (r == 0 && active && !left)
		found(ex, "L-NO-SLOT", PLT_CORRUPTION, 0, sizeof(struct luks_header_ondisk), "no key slot is left that opens: nothing "
		      "reads the image any more");
	if (r == 0)
		check_payload(ex, l, size);
	plt_luks_free(l);
	return r;
}
