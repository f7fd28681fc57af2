/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Findings, as check and repair print them.  What qemu-img finds too has its words and goes to stderr, where
 * scripts look for it; the rest is marked with the name of its kind, and kept apart in JSON.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "cli/cli.h"

/* Memory for findings in JSON is bounded: a damaged image may have one a cluster. */
#define FINDINGS_MAX 10000

/*
 * A damaged image may have a million findings, and a system call for each would take longer than the check.  What is
 * pending is said before anything else is.
 */
static char pending[32 << 10];
static size_t npending;

void cli_findings_flush(void)
{
	if (npending)
		fwrite(pending, 1, npending, stderr);
	npending = 0;
}

static void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static bool on_terminal(void)
{
	static int answer = -1;

	if (answer < 0)
		answer = isatty(STDERR_FILENO);
	return answer;
}

static void say(const char *fmt, ...)
{
	va_list ap;
	int n;

	if (sizeof(pending) - npending < 2048) /* more than a finding's text is long */
		cli_findings_flush();
	va_start(ap, fmt);
	n = vsnprintf(pending + npending, sizeof(pending) - npending, fmt, ap);
	va_end(ap);
	if (n > 0)
		npending += PLT_MIN((size_t)n, sizeof(pending) - npending - 1);
	if (on_terminal())
		cli_findings_flush();
}

static void put_range(json_t *o, const char *name, uint64_t off, uint64_t len)
{
	if (len)
		json_object_set_new(o, name,
				    json_pack("{s:I, s:I}", "offset", (json_int_t)off, "length",
					      (json_int_t)len));
}

/* Does @text say '@image'? */
static bool names(const char *text, const char *image)
{
	size_t n = strlen(image);

	for (const char *at = text; (at = strchr(at, '\'')); at++)
		if (!strncmp(at + 1, image, n) && at[1 + n] == '\'')
			return true;
	return false;
}

void cli_found(void *arg, const struct plt_check_finding *f)
{
	struct cli_findings *rep = arg;
	json_t *o;

	rep->orphans |= !strcmp(f->id, "Q-ORPHANS") || (f->beyond_qemu && !strncmp(f->id, "Q-L", 3) && strcmp(f->id, "Q-LEAK"));
	/* As qemu-img, findings go to stderr in any form: stdout is the summary's. */
	if (!f->beyond_qemu) {
		say("%s\n", f->text);
		return;
	}
	if (!rep->json && !strcmp(f->severity, "note") && !on_terminal())
		return; /* worth knowing for a person; for a script stderr means trouble */
	if (!rep->json) {
		const char *of = f->image && !names(f->text, f->image) ? f->image : NULL; /* a layer below */

		say("%s: %s%s%s%s [%s]\n", f->severity, of ? "'" : "", of ? of : "", of ? "': " : "", f->text, f->id);
		return;
	}
	if (json_array_size(rep->beyond) == FINDINGS_MAX) {
		rep->omitted++;
		return;
	}
	o = json_object();
	json_object_set_new(o, "id", cli_json_text(f->id));
	json_object_set_new(o, "severity", cli_json_text(f->severity));
	json_object_set_new(o, "text", cli_json_text(f->text));
	if (f->image)
		json_object_set_new(o, "image", cli_json_text(f->image));
	put_range(o, "host", f->host_off, f->host_len);
	put_range(o, "guest", f->guest_off, f->guest_len);
	if (f->mended)
		json_object_set_new(o, "repaired", json_true());
	json_array_append_new(rep->beyond, o);
}
