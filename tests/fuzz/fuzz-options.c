/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Option texts: parsed, validated against every format's table, and a small image created with them
 * in memory, which must open again and be without fault.
 */
#include "formats/options.h"
#include "tests/fuzz/fuzz.h"

static void create(const char *format, const char *text)
{
	struct plt_create_options c = PLT_CREATE_OPTIONS_INIT;
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_check_result res = { 0 };
	struct plt_error err = PLT_ERROR_INIT;
	const char *options[] = { text, NULL };
	struct plt_store *st;
	struct plt_disk *disk;
	char *line = NULL;
	int r;

	if (strstr(text, "backing_") || strstr(text, "data_file")) /* names of files */
		return;
	FUZZ_MUST(plt_memory_new(NULL, 0, FUZZ_MEMORY, &st) == 0);
	c.format = format;
	c.options = options;
	c.virtual_size = 300 << 10;
	c.flags = PLT_CREATE_UNCHECKED_BACKING;
	r = plt_create_store(fuzz_ctx(), st, "image", &c, &line, &err);
	FUZZ_MUST(r == 0 || err.text[0]);
	free(line);
	if (r == 0) {
		o.flags = PLT_OPEN_NO_BACKING;
		r = plt_disk_open_store(fuzz_ctx(), st, "image", format, &o, &disk, &err);
		if (r < 0)
			fprintf(stderr, "%s: %s\n", text, err.text);
		FUZZ_MUST(r == 0);
		FUZZ_MUST(plt_disk_close(disk, NULL) == 0);
		r = plt_check_store(fuzz_ctx(), st, "image", format, NULL, NULL, &res, &err);
		FUZZ_MUST(r == -ENOTSUP || (r == 0 && !res.corruptions && !res.leaks && !res.added));
	}
	plt_store_unref(st);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	char *text = malloc(len + 1);
	uint64_t size;
	bool flag;

	FUZZ_MUST(text);
	memcpy(text, data, len);
	text[len] = 0;
	(void)plt_parse_size(text, &size);
	(void)plt_parse_bool(text, &flag);
	for (unsigned i = 0; plt_drivers[i]; i++) {
		const struct plt_opt_desc *const tables[] = { plt_drivers[i]->create_opts, NULL };
		const struct plt_opt_desc *const open_tables[] = { plt_drivers[i]->open_opts, NULL };
		struct plt_error err = PLT_ERROR_INIT;

		for (unsigned k = 0; k < 2; k++) {
			const struct plt_opt_desc *const *t = k ? open_tables : tables;
			struct plt_opts *o = plt_opts_new();
			int r;

			FUZZ_MUST(o);
			r = plt_opts_parse(o, text, *t, &err);
			fuzz_failed(r, &err);
			for (size_t n = 0; r == 0 && n < plt_opts_count(o); n++)
				FUZZ_MUST(plt_opts_get(o, plt_opts_key(o, n)));
			if (r == 0 && *t) { /* some reasons are QEMU's, of two lines */
				r = plt_opts_validate(o, t, &err);
				FUZZ_MUST(r == 0 || (r == -err.code && err.text[0]));
			}
			plt_opts_free(o);
		}
		create(plt_drivers[i]->name, text);
	}
	free(text);
	return 0;
}
