/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Objects that the user defines for a context: secrets, by their ids, and those that are taken without
 * effect.  Secrets live as long as the context; whoever asks for one gets a copy, and both are wiped.
 */
#include <stdio.h>
#include <string.h>

#include "block/engine.h"
#include "crypt/secret.h"
#include "formats/options.h"

struct plt_named_secret {
	struct plt_named_secret *next;
	struct plt_secret secret;
	char id[];
};

void plt_secrets_free(struct plt_ctx *ctx)
{
	struct plt_named_secret *s;

	while ((s = ctx->secrets)) {
		ctx->secrets = s->next;
		plt_secret_release(&s->secret);
		free(s);
	}
}

/* Under the context's lock. */
static struct plt_named_secret *find(struct plt_ctx *ctx, const char *id)
{
	struct plt_named_secret *s = ctx->secrets;

	while (s && strcmp(s->id, id))
		s = s->next;
	return s;
}

/* A copy, whatever bytes it has. */
static int lookup(struct plt_ctx *ctx, const char *id, struct plt_secret *ret, struct plt_error *err)
{
	struct plt_named_secret *s;
	int r = 0;

	PLT_LOCK_SCOPE(&ctx->lock);
	s = find(ctx, id);
	if (!s)
		return plt_error_set(err, ENOENT, "No secret with id '%s'", id);
	r = plt_secret_set(ret, s->secret.data, s->secret.len);
	return r < 0 ? plt_error_set(err, -r, "out of memory") : 0;
}

int plt_secret_get(struct plt_ctx *ctx, const char *id, struct plt_secret *ret, struct plt_error *err)
{
	int r = lookup(ctx, id, ret, err);

	if (r == 0 && !plt_secret_is_utf8(ret)) {
		plt_secret_release(ret);
		return plt_error_set(err, EINVAL, "Data from secret %s is not valid UTF-8", id);
	}
	return r;
}

/* ---- defining -------------------------------------------------------------------------------- */

/* "type,key=value,..." or a JSON object, as a set of options with "qom-type". */
static int parse(const char *text, struct plt_opts *o, struct plt_error *err)
{
	PLT_AUTOFREE char *named = NULL;
	const char *key;
	json_error_t jerr;
	json_t *tree, *v;
	int r = 0;

	if (*text != '{') {
		/* the first word may do without its key */
		if (text[strcspn(text, "=,")] != '=') {
			if (asprintf(&named, "qom-type=%s", text) < 0) {
				named = NULL;
				return plt_error_set(err, ENOMEM, "out of memory");
			}
			text = named;
		}
		return plt_opts_parse(o, text, NULL, err);
	}
	tree = json_loads(text, JSON_REJECT_DUPLICATES, &jerr);
	if (!tree)
		return plt_error_set(err, EINVAL, "JSON parse error, %s", jerr.text);
	json_object_foreach(tree, key, v) {
		if (!json_is_string(v))
			r = plt_error_set(err, EINVAL, "Invalid parameter type for '%s', expected: string", key);
		else if (plt_opts_set(o, key, json_string_value(v)) < 0)
			r = plt_error_set(err, ENOMEM, "out of memory");
		if (r < 0)
			break;
	}
	json_decref(tree);
	return r;
}

static int check_id(const char *id, struct plt_error *err)
{
	bool ok;

	if (!id)
		return plt_error_set(err, EINVAL, "Parameter 'id' is missing");
	ok = (*id >= 'a' && *id <= 'z') || (*id >= 'A' && *id <= 'Z');
	for (const char *p = id; *p && ok; p++)
		ok = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
		     strchr("-._", *p);
	return ok ? 0 : plt_error_set(err, EINVAL, "Parameter 'id' expects an identifier\nIdentifiers consist of letters, "
				      "digits, '-', '.', '_', starting with a letter.");
}

/* From how it was given to the bytes that are meant. */
static int decode(struct plt_ctx *ctx, const struct plt_opts *o, bool base64, struct plt_secret *s, struct plt_error *err)
{
	const char *keyid = plt_opts_get(o, "keyid"), *iv_text = plt_opts_get(o, "iv");
	struct plt_secret key = PLT_SECRET_INIT, iv = PLT_SECRET_INIT;
	int r;

	if (!keyid)
		return base64 ? plt_secret_base64(s, err) : 0;
	r = lookup(ctx, keyid, &key, err);
	if (r == 0 && key.len != 32)
		r = plt_error_set(err, EINVAL, "Key should be 32 bytes in length");
	if (r == 0 && !iv_text)
		r = plt_error_set(err, EINVAL, "IV is required to decrypt secret");
	if (r == 0 && (r = plt_secret_set(&iv, iv_text, strlen(iv_text))) < 0)
		plt_error_set(err, -r, "out of memory");
	if (r == 0)
		r = plt_secret_base64(&iv, err);
	if (r == 0 && base64)
		r = plt_secret_base64(s, err);
	if (r == 0)
		r = plt_secret_decrypt(s, &key, &iv, err);
	plt_secret_release(&key);
	plt_secret_release(&iv);
	return r;
}

static int add_secret(struct plt_ctx *ctx, const struct plt_opts *o, struct plt_error *err)
{
	static const char *const known[] = { "qom-type", "id", "data", "file", "format", "keyid", "iv", NULL };
	const char *id = plt_opts_get(o, "id"), *data = plt_opts_get(o, "data"), *file = plt_opts_get(o, "file");
	const char *format = plt_opts_get(o, "format");
	struct plt_secret s = PLT_SECRET_INIT;
	struct plt_named_secret *n;
	unsigned k;
	int r = 0;

	for (size_t i = 0; i < plt_opts_count(o); i++) {
		for (k = 0; known[k] && strcmp(known[k], plt_opts_key(o, i)); k++)
			;
		if (!known[k])
			return plt_error_set(err, EINVAL, "Parameter '%s' is unexpected", plt_opts_key(o, i));
	}
	if (format && strcmp(format, "raw") && strcmp(format, "base64"))
		return plt_error_set(err, EINVAL, "Parameter 'format' does not accept value '%s'", format);
	if (data && file)
		return plt_error_set(err, EINVAL, "'file' and 'data' are mutually exclusive");
	if (!data && !file)
		return plt_error_set(err, EINVAL, "Either 'file' or 'data' must be provided");
	if (file)
		r = plt_secret_read_file(&s, file, err);
	else if ((r = plt_secret_set(&s, data, strlen(data))) < 0)
		plt_error_set(err, -r, "out of memory");
	if (r == 0)
		r = decode(ctx, o, format && !strcmp(format, "base64"), &s, err);
	n = r == 0 ? calloc(1, sizeof(*n) + strlen(id) + 1) : NULL;
	if (!n) {
		plt_secret_release(&s);
		return r < 0 ? r : plt_error_set(err, ENOMEM, "out of memory");
	}
	n->secret = s;
	strcpy(n->id, id);
	PLT_LOCK_SCOPE(&ctx->lock);
	if (find(ctx, id)) {
		plt_secret_release(&n->secret);
		free(n);
		return plt_error_set(err, EEXIST, "attempt to add duplicate property '%s' to object (type 'container')", id);
	}
	n->next = ctx->secrets;
	ctx->secrets = n;
	return 0;
}

int plt_ctx_add_object(struct plt_ctx *ctx, const char *definition, struct plt_error *err)
{
	struct plt_opts *o = plt_opts_new();
	const char *type;
	int r = o ? parse(definition, o, err) : plt_error_set(err, ENOMEM, "out of memory");

	type = plt_opts_get(o, "qom-type");
	if (r == 0 && !type)
		r = plt_error_set(err, EINVAL, "Parameter 'qom-type' is missing");
	else if (r == 0 && !strcmp(type, "secret")) {
		r = check_id(plt_opts_get(o, "id"), err);
		if (r == 0)
			r = add_secret(ctx, o, err);
	} else if (r == 0 && strcmp(type, "iothread") && strcmp(type, "throttle-group")) {
		r = plt_error_set(err, ENOTSUP, "objects of type '%s' are not supported (secret is, and iothread and "
				  "throttle-group have no effect)", type);
	}
	plt_opts_free(o);
	return r;
}
