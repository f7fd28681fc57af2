/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Handing findings to whoever examines: formats the text and fills in what the driver left out.
 * Invariant: what reaches emit() has a one-line text and a count of at least 1.  Collecting and
 * counting findings is the receiver's.
 */
#include "formats/finding.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/shown.h"

void plt_emit(struct plt_examine *ex, const struct plt_finding *proto, const char *fmt, ...)
{
	struct plt_finding f = *proto;
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	/* Names from a hostile image must not break the line. */
	plt_text_clean(text, false);
	f.text = text;
	if (f.count == 0)
		f.count = 1;
	if (!f.mended && f.severity == PLT_CORRUPTION)
		ex->corruptions += f.count;
	else if (!f.mended && f.severity == PLT_LEAK)
		ex->leaks += f.count;
	if (ex->emit)
		ex->emit(ex, &f);
}

void plt_orphans_release(struct plt_orphans *o)
{
	free(o->v);
	free(o->gaps);
	free(o->named);
	free(o->open);
	plt_extents_release(&o->packed);
	*o = (struct plt_orphans){ 0 };
}

void plt_mend_release(struct plt_mend *mend)
{
	plt_orphans_release(&mend->unplaced);
	plt_orphans_release(&mend->pieces);
	plt_orphans_release(&mend->clusters);
	plt_orphans_release(&mend->streams);
	plt_doubts_release(&mend->doubts);
	plt_extents_release(&mend->left);
}
