/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Names: parsed as a plain name, as json: or as a list of options; the text of what comes out is a
 * name again, and means the same.  Nothing is opened.
 */
#include "formats/name.h"
#include "tests/fuzz/fuzz.h"

static void parse(const char *name, bool image_opts)
{
	struct plt_error err = PLT_ERROR_INIT;
	json_t *tree = NULL, *again = NULL;
	char *text, *text2;
	int r = plt_name_parse(name, image_opts, &tree, &err);

	fuzz_failed(r, &err);
	if (r < 0)
		return;
	FUZZ_MUST(json_is_object(tree));
	text = plt_name_text(tree);
	FUZZ_MUST(text);
	if (plt_name_parse(text, false, &again, NULL) == 0) {
		text2 = plt_name_text(again);
		FUZZ_MUST(text2);
		/* what is not text has been replaced, and the order of keys goes by their bytes */
		if (strcmp(text, text2) && !strstr(text, "\\uFFFD")) {
			fprintf(stderr, "%s\n%s\n%s\n", name, text, text2);
			abort();
		}
		free(text2);
		json_decref(again);
	}
	free(text);
	json_decref(tree);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	char *text = malloc(len + 1), *full = NULL;
	struct plt_error err = PLT_ERROR_INIT;
	int r;

	FUZZ_MUST(text);
	memcpy(text, data, len);
	text[len] = 0;
	parse(text, false);
	parse(text, true);
	r = plt_name_resolve("/images/top.qcow2", text, &full, &err);
	fuzz_failed(r, &err);
	free(r == 0 ? full : NULL);
	r = plt_name_resolve(text, "base", &full, &err);
	fuzz_failed(r, &err);
	free(r == 0 ? full : NULL);
	free(text);
	return 0;
}
