/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A plan that is only looked through: what block/ asks for when a disk is opened for rescue.  Of a format that
 * cannot be mended the image is as it is.  Invariant: the image is only read.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "formats/driver.h"
#include "formats/probe.h"
#include "repair/guest/guest.h"
#include "repair/repair.h"

void plt_rescue_plan_release(struct plt_rescue_plan *plan)
{
	plt_store_unref(plan->overlay);
	free(plan->format);
	plt_doubts_release(&plan->doubts);
	plt_store_unref(plan->medium);
	free(plan->map);
	*plan = (struct plt_rescue_plan){ 0 };
}

/* Findings get the name of the file that they are of. */
struct named {
	const struct plt_rescue_options *opts;
	const char *image;
};

static void named_found(void *arg, const struct plt_check_finding *f)
{
	const struct named *n = arg;
	struct plt_check_finding named = *f;

	named.image = n->image;
	if (n->opts && n->opts->found)
		n->opts->found(n->opts->found_arg, &named);
}

static int add_up(void *arg, uint64_t off, const void *bytes, uint64_t len)
{
	struct plt_rescue_plan *plan = arg;

	(void)off;
	(void)bytes;
	plan->edits++;
	plan->bytes += len;
	return 0;
}

/* Of a format that nothing is mended of: what is wrong all the same. */
static int look(struct plt_repair *rep, struct named *n, struct plt_error *err)
{
	struct plt_error why = PLT_ERROR_INIT;
	int r = plt_check_store(rep->ctx, rep->file, rep->name, rep->format, named_found, n, &rep->before, &why);

	if (r == -ENOTSUP)
		r = 0;
	return r < 0 ? plt_error_set(err, -r, "%s", why.text) : 0;
}

/* A disk that begins further on in the file is shown from there. */
static int unshift(struct plt_repair *rep, struct named *n, struct plt_store **ret, struct plt_error *err)
{
	const struct plt_driver *drv = plt_driver_find(rep->format);
	bool raw = drv && drv->flags & PLT_DRIVER_NO_HEADER && !rep->plan;
	uint64_t shift = raw ? plt_guest_shift(rep->file) : 0, size;
	struct plt_check_finding f = { .id = "R-OFF", .severity = "corruption", .beyond_qemu = true, .mended = true,
				       .host_len = shift };
	char text[160];
	int r;

	if (!shift)
		return 0;
	r = plt_store_size(rep->file, &size, err);
	if (r == 0)
		r = plt_window_new(rep->file, shift, size - shift, ret, err);
	if (r < 0)
		return r;
	plt_store_unref(rep->overlay);
	plt_doubts_release(&rep->doubts);
	rep->overlay = NULL;
	rep->file = *ret;
	r = plt_repair_make(rep, PLT_MEND_ALL, false, named_found, n, err);
	snprintf(text, sizeof(text), "the disk begins %" PRIu64 " bytes into the file, where its partition table stands: it is "
		 "shown from there", shift);
	f.text = text;
	named_found(n, &f);
	rep->before.corruptions_fixed++;
	return r;
}

int plt_rescue_plan_make(struct plt_ctx *ctx, struct plt_store *file, const char *name, const char *format,
			 const char *key, const struct plt_rescue_options *opts, unsigned flags, struct plt_rescue_plan *ret,
			 struct plt_error *err)
{
	struct plt_repair rep = { .look = true, .ctx = ctx, .file = file, .name = (char *)(uintptr_t)name,
				  .plan = opts ? opts->plan : NULL, .deep = opts && opts->deep,
				  .no_backing = flags & PLT_OPEN_NO_BACKING, .nested = flags & PLT_OPEN_NESTED_RESCUE, .key = { key },
				  .trust = opts && opts->trust_likely ? PLT_LIKELY : PLT_STRONG };
	struct named n = { opts, name };
	struct plt_store *part = NULL;
	int r = 0;

	*ret = (struct plt_rescue_plan){ 0 };
	if (!format) {
		const struct plt_driver *drv;

		r = plt_probe(file, &drv, err);
		if (r == 0 && !(drv->flags & PLT_DRIVER_NO_HEADER))
			format = drv->name;
	}
	if (r == 0 && format && !(rep.format = strdup(format)))
		r = plt_error_set(err, ENOMEM, "out of memory");
	if (r == 0)
		r = plt_repair_make(&rep, PLT_MEND_ALL, false, named_found, &n, err);
	if (r == 0 && rep.format)
		r = unshift(&rep, &n, &part, err);
	if (r == -ENOSYS) {
		if (err)
			*err = (struct plt_error)PLT_ERROR_INIT;
		r = look(&rep, &n, err);
	}
	if (r == 0) {
		plt_repair_each(&rep, add_up, ret);
		ret->before = ret->left = rep.before;
		ret->left.corruptions_fixed = ret->left.leaks_fixed = 0;
	}
	if (r == 0 && ret->edits)
		r = plt_repair_examine(&rep, NULL, NULL, NULL, &ret->left, err);
	plt_repair_forget(&rep);
	plt_store_unref(part);
	ret->overlay = rep.overlay;
	ret->format = rep.format;
	ret->doubts = rep.doubts;
	if (r < 0)
		plt_rescue_plan_release(ret);
	return r;
}
