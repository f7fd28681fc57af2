/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* Names become trees and trees become names; the words and the order of keys are QEMU's. */
#include <errno.h>

#include "base/jsontext.h"
#include "formats/name.h"
#include "tests/unit.h"

static char *compact(const json_t *v)
{
	return json_dumps(v, JSON_COMPACT | JSON_SORT_KEYS);
}

static const struct good {
	bool opts;
	const char *name, *tree, *text;
} good[] = {
	{ false, "a.img", "{'file':{'driver':'file','filename':'a.img'}}", "a.img" },
	{ false, "file:d/a", "{'file':{'driver':'file','filename':'d/a'}}", "d/a" },
	{ false, "file:a:b", "{'file':{'driver':'file','filename':'./a:b'}}", "./a:b" },
	{ false, "file:/a:b", "{'file':{'driver':'file','filename':'/a:b'}}", "/a:b" },
	{ false, "/x/a:b", "{'file':{'driver':'file','filename':'/x/a:b'}}", "/x/a:b" },
	{ false, "null-co://", "{'file':{'driver':'null-co'}}", "null-co://" },
	{ false, "json:{\"driver\":\"qcow2\",\"file.filename\":\"a\"}",
	  "{'driver':'qcow2','file':{'driver':'file','filename':'a'}}", "a" },
	{ false, "json:{'driver':'qcow2','file':{'driver':'file','filename':'it\\'s \"a\"'}}",
	  "{'driver':'qcow2','file':{'driver':'file','filename':'it\"s \\\"a\\\"'}}", NULL },
	{ false,
	  "json:{\"file.driver\":\"file\",\"file\":{\"filename\":\"a\",\"locking\":\"off\"}}",
	  "{'file':{'driver':'file','filename':'a','locking':'off'}}", "a" },
	{ false, "json:{\"driver\":\"file\",\"filename\":\"a\"}",
	  "{'driver':'raw','file':{'driver':'file','filename':'a'}}", "a" },
	{ false, "json:{\"driver\":\"qcow2\",\"backing\":\"\",\"file.filename\":\"a\"}",
	  "{'backing':null,'driver':'qcow2','file':{'driver':'file','filename':'a'}}",
	  "json:{\"backing\": null, \"driver\": \"qcow2\", \"file\": {\"driver\": \"file\", \"filename\": \"a\"}}" },
	{ true, "driver=qcow2,file.driver=raw,file.file.filename=a,lazy-refcounts",
	  "{'driver':'qcow2','file':{'driver':'raw','file':{'driver':'file','filename':'a'}},"
	  "'lazy-refcounts':'on'}",
	  "json:{\"driver\": \"qcow2\", \"file\": {\"driver\": \"raw\", \"file\": {\"driver\": \"file\", "
	  "\"filename\": \"a\"}}}" },
	{ false, "blkdebug:c:d/a",
	  "{'file':{'config':'c','driver':'blkdebug','image':{'driver':'file','filename':'d/a'}}}", "blkdebug:c:d/a" },
	{ false, "blkdebug::blkdebug:c:a",
	  "{'file':{'driver':'blkdebug','image':{'config':'c','driver':'blkdebug','image':{'driver':'file','filename':'a'}}}}",
	  "blkdebug::blkdebug:c:a" },
	{ true, "driver=blkdebug,image.filename=a,align=512",
	  "{'driver':'raw','file':{'align':'512','driver':'blkdebug','image':{'driver':'file','filename':'a'}}}",
	  "json:{\"driver\": \"raw\", \"file\": {\"image\": {\"driver\": \"file\", \"filename\": \"a\"}, "
	  "\"driver\": \"blkdebug\", \"align\": \"512\"}}" },
	{ true, "driver=raw,offset=512,size=1024,file.filename=a,,b",
	  "{'driver':'raw','file':{'driver':'file','filename':'a,b'},'offset':'512','size':'1024'}",
	  "json:{\"offset\": \"512\", \"driver\": \"raw\", \"size\": \"1024\", \"file\": {\"driver\": \"file\", "
	  "\"filename\": \"a,b\"}}" },
};

START_TEST(parses)
{
	const struct good *g = &good[_i];
	struct plt_error err = PLT_ERROR_INIT;
	json_t *tree = NULL;
	char *s, *want = strdup(g->tree), *text;

	for (char *p = want; *p; p++)
		if (*p == '\'')
			*p = '"';
	ck_assert_msg(plt_name_parse(g->name, g->opts, &tree, &err) == 0, "%s: %s", g->name,
		      err.text);
	if (g->text) {
		s = compact(tree);
		ck_assert_str_eq(s, want);
		free(s);
		text = plt_name_text(tree);
		ck_assert_str_eq(text, g->text);
		free(text);
	} else {
		ck_assert_str_eq(json_string_value(json_object_get(json_object_get(tree, "file"),
								   "filename")),
				 "it's \"a\"");
	}
	json_decref(tree);
	free(want);
}
END_TEST

static const struct bad {
	bool opts;
	const char *name, *words;
} bad[] = {
	{ false, "", "The 'file' block driver requires a file name" },
	{ false, "foo:bar", "Unknown protocol 'foo'" },
	{ false, "nbd:unix:/x", "Unknown protocol 'nbd'" },
	{ false, "json:[1]", "Invalid JSON object given" },
	{ false, "json:{}", "Must specify either driver or file" },
	{ false, "json:{\"filename\":\"a\"}", "Must specify either driver or file" },
	{ false, "json:{\"file\":{}}", "Must specify either driver or file" },
	{ false, "json:{\"driver\":3}", "Invalid parameter type for 'driver', expected: string" },
	{ false, "json:{\"file\":3}", "Invalid parameter type for 'file', expected: object" },
	{ false, "json:{\"file\":\"x\",\"file.filename\":\"y\"}",
	  "Parameters 'file.*' used inconsistently" },
	{ false, "json:{\"file.filename\":\"y\",\"file\":{\"filename\":\"x\"}}",
	  "Parameters 'filename.*' used inconsistently" },
	{ true, "a.qcow2", "Cannot find device='a.qcow2' nor node-name='a.qcow2'" },
	{ true, "file=a.qcow2", "Cannot find device='a.qcow2' nor node-name='a.qcow2'" },
	{ true, "=x", "Must specify either driver or file" },
	{ true, "filename=x", "Must specify either driver or file" },
	{ true, "", "Must specify either driver or file" },
};

START_TEST(refuses)
{
	struct plt_error err = PLT_ERROR_INIT;
	json_t *tree = NULL;

	ck_assert_int_eq(plt_name_parse(bad[_i].name, bad[_i].opts, &tree, &err), -EINVAL);
	ck_assert_str_eq(err.text, bad[_i].words);
	ck_assert_ptr_null(tree);
}
END_TEST

START_TEST(bad_json)
{
	static const char *const names[] = { "json:foo", "json:", "json:{",
					     "json:{\"a\":1,\"a\":2}", "json:{'a" };
	struct plt_error err = PLT_ERROR_INIT;
	json_t *tree;

	ck_assert_int_eq(plt_name_parse(names[_i], false, &tree, &err), -EINVAL);
	ck_assert_int_eq(
		strncmp(err.text, "Could not parse the JSON options: JSON parse error, ", 52), 0);
}
END_TEST

START_TEST(depth_is_bounded)
{
	struct plt_error err = PLT_ERROR_INIT;
	size_t n = 100000;
	char *name = malloc(2 * n + 100);
	json_t *tree;

	for (size_t i = 0; i < n; i++)
		memcpy(name + 2 * i, "a.", 2);
	strcpy(name + 2 * n, "b=1");
	ck_assert_int_eq(plt_name_parse(name, true, &tree, &err), -EINVAL);

	strcpy(name, "json:");
	for (size_t i = 0; i < 1000; i++)
		strcat(name, "{\"file\":");
	strcat(name, "{}");
	for (size_t i = 0; i < 1000; i++)
		strcat(name, "}");
	ck_assert_int_eq(plt_name_parse(name, false, &tree, &err), -EINVAL);
	free(name);
}
END_TEST

START_TEST(bytes_survive)
{
	json_t *tree;
	char *text;

	ck_assert_int_eq(plt_name_parse("a\xff\x01z", false, &tree, NULL), 0);
	text = plt_name_text(tree);
	ck_assert_str_eq(text, "a\xff\x01z");
	free(text);
	json_object_set_new(tree, "backing", json_null());
	text = plt_name_text(tree);
	ck_assert_str_eq(text, "json:{\"backing\": null, \"file\": {\"driver\": \"file\", "
			       "\"filename\": \"a\\uFFFD\\u0001z\"}}");
	free(text);
	json_decref(tree);

	ck_assert_int_eq(plt_name_parse("\xc3\xa4\xf0\x9f\x98\x80\"\n", false, &tree, NULL), 0);
	json_object_set_new(tree, "offset", json_integer(5));
	text = plt_name_text(tree);
	ck_assert_str_eq(text, "json:{\"offset\": 5, \"file\": {\"driver\": \"file\", "
			       "\"filename\": \"\\u00E4\\uD83D\\uDE00\\\"\\n\"}}");
	free(text);
	json_decref(tree);
}
END_TEST

static const struct beside {
	const char *base, *ref, *result;
} besides[] = {
	{ "a", "b", "b" },
	{ "d/a", "b", "d/b" },
	{ "/d/e/a", "../b", "/d/e/../b" },
	{ "d/a", "/b", "/b" },
	{ "d/a", "file:b", "file:b" },
	{ "d/a", "json:{}", "json:{}" },
	{ "d/a", "./x:y", "d/./x:y" },
	{ "file:a", "b", "file:b" },
	{ "file:d/a", "b", "file:d/b" },
	{ "json:{\"a\": \"d/e\"}", "/b", "/b" },
	{ "json:{}", "b", NULL },
	{ "blkdebug:x/c:d/a", "b", "d/b" },
	{ "blkdebug::blkdebug:c:/d/a", "b", "/d/b" },
	{ "", "b", NULL },
};

START_TEST(resolves)
{
	const struct beside *b = &besides[_i];
	struct plt_error err = PLT_ERROR_INIT;
	char *ret = NULL;
	int r = plt_name_resolve(b->base, b->ref, &ret, &err);

	if (b->result) {
		ck_assert_int_eq(r, 0);
		ck_assert_str_eq(ret, b->result);
		free(ret);
	} else {
		ck_assert_int_eq(r, -EINVAL);
		ck_assert_int_eq(
			strncmp(err.text, "Cannot use relative backing file names for '", 44), 0);
	}
}
END_TEST

static const struct merged {
	const char *name, *options, *tree;
} merges[] = {
	{ "a", "driver=qcow2,file.x=1", "{'driver':'qcow2','file':{'driver':'file','filename':'a','x':'1'}}" },
	{ "json:{\"driver\":\"raw\",\"file.filename\":\"a\"}", "driver=qcow2",
	  "{'driver':'qcow2','file':{'driver':'file','filename':'a'}}" },
	{ "a", "file.driver=raw,file.offset=512",
	  "{'file':{'driver':'raw','file':{'driver':'file','filename':'a'},'offset':'512'}}" },
	{ "blkdebug::a", "driver=blkdebug,image.driver=qcow2,align=4k",
	  "{'driver':'raw','file':{'align':'4k','driver':'blkdebug','image':{'driver':'qcow2','file':{'driver':'file',"
	  "'filename':'a'}}}}" },
	{ "a", "backing.driver=qcow2", "{'backing':{'driver':'qcow2'},'file':{'driver':'file','filename':'a'}}" },
};

START_TEST(merges_options)
{
	const struct merged *m = &merges[_i];
	const char *const options[] = { m->options, NULL };
	struct plt_error err = PLT_ERROR_INIT;
	char *s, *want = strdup(m->tree);
	json_t *tree = NULL;

	for (char *p = want; *p; p++)
		if (*p == '\'')
			*p = '"';
	ck_assert_int_eq(plt_name_parse(m->name, false, &tree, &err), 0);
	ck_assert_msg(plt_name_merge(tree, options, &err) == 0, "%s", err.text);
	s = compact(tree);
	ck_assert_str_eq(s, want);
	free(s);
	free(want);
	json_decref(tree);
}
END_TEST

/* Orders seen in what QEMU prints. */
static const char *const orders[] = {
	"backing-image compressed backing-filename-format children snapshots virtual-size "
	"filename cluster-size format actual-size format-specific full-backing-filename encrypted "
	"backing-filename dirty-flag",
	"icount vm-clock-nsec name date-sec date-nsec vm-clock-sec id vm-state-size",
	"compat compression-type lazy-refcounts bitmaps refcount-bits data-file encrypt "
	"data-file-raw corrupt extended-l2",
	"flags name granularity",
	"image-end-offset compressed-clusters total-clusters corruptions corruptions-fixed "
	"check-errors leaks leaks-fixed allocated-clusters filename format fragmented-clusters",
	"bitmaps required fully-allocated",
	"cid parent-cid create-type extents",
	"type data",
	"offset driver size file",
};

START_TEST(order_is_qemus)
{
	char want[512], got[512] = "";
	const char **v;
	char *keys[32], *save = NULL;
	json_t *obj = json_object();
	unsigned n = 0;

	strcpy(want, orders[_i]);
	for (char *k = strtok_r(want, " ", &save); k; k = strtok_r(NULL, " ", &save))
		keys[n++] = k;
	/* The order of insertion must not matter (there is no collision among these). */
	while (n--)
		json_object_set_new(obj, keys[n], json_true());
	v = plt_json_order(obj);
	for (n = 0; v[n]; n++) {
		if (n)
			strcat(got, " ");
		strcat(got, v[n]);
	}
	ck_assert_str_eq(got, orders[_i]);
	free(v);
	json_decref(obj);
}
END_TEST

START_TEST(protocols)
{
	ck_assert(plt_name_has_protocol("nbd:x"));
	ck_assert(plt_name_has_protocol("a:"));
	ck_assert(!plt_name_has_protocol("./a:b"));
	ck_assert(!plt_name_has_protocol("ab"));
	ck_assert(plt_name_is_protocol("file"));
	ck_assert(!plt_name_is_protocol("qcow2"));
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("formats/name");
	TCase *tc = tcase_create("name");

	tcase_add_loop_test(tc, parses, 0, sizeof(good) / sizeof(good[0]));
	tcase_add_loop_test(tc, refuses, 0, sizeof(bad) / sizeof(bad[0]));
	tcase_add_loop_test(tc, bad_json, 0, 5);
	tcase_add_test(tc, depth_is_bounded);
	tcase_add_test(tc, bytes_survive);
	tcase_add_loop_test(tc, resolves, 0, sizeof(besides) / sizeof(besides[0]));
	tcase_add_loop_test(tc, merges_options, 0, sizeof(merges) / sizeof(merges[0]));
	tcase_add_loop_test(tc, order_is_qemus, 0, sizeof(orders) / sizeof(orders[0]));
	tcase_add_test(tc, protocols);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
