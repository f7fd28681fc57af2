/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * LUKS headers and key slots on memory: what is created opens with its secret and no other, at any
 * offset; slots come and go; every field that is wrong is refused; a failing or a cut-off change of
 * slots never costs a way in that was there before.
 */
#include <errno.h>
#include <stdio.h>

#include "base/endian.h"
#include "crypt/luks.h"
#include "crypt/luks_split.h"
#include "tests/unit.h"

static struct plt_secret one = { (uint8_t *)"one", 3 }, two = { (uint8_t *)"two", 3 }, bad = { (uint8_t *)"bad", 3 };

static struct plt_luks_params params(const char *alg, const char *mode, const char *ivgen, const char *hash)
{
	struct plt_luks_texts t = { alg, mode, ivgen, NULL, hash, 1 };
	struct plt_luks_params p;
	struct plt_error err = PLT_ERROR_INIT;

	ck_assert_msg(plt_luks_params(&t, &p, &err) == 0, "%s", err.text);
	return p;
}

/* A header at @base of a new store. */
static struct plt_store *made(uint64_t base, const struct plt_luks_params *p)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_luks *l;
	struct plt_store *st;

	ck_assert_int_eq(plt_memory_new(NULL, 0, 0, &st), 0);
	ck_assert_msg(plt_luks_create(st, base, p, &one, true, &l, &err) == 0, "%s", err.text);
	plt_luks_free(l);
	return st;
}

static int try_open(struct plt_store *st, uint64_t base, const struct plt_secret *s, uint8_t key[PLT_KEY_MAX])
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_luks *l;
	int r;

	ck_assert_msg(plt_luks_read(st, base, UINT64_MAX, &l, &err) == 0, "%s", err.text);
	r = plt_luks_unlock(l, s, &err);
	if (r == 0)
		memcpy(key, l->master_key, PLT_KEY_MAX);
	plt_luks_free(l);
	return r;
}

START_TEST(created_opens)
{
	static const char *const v[][4] = {
		{ NULL, NULL, NULL, NULL },
		{ "aes-128", "cbc", "essiv", "sha1" },
		{ "aes-192", "xts", "plain", "sha512" },
		{ "aes-192", "cbc", "plain64", "ripemd160" },
		{ "aes-128", "ecb", "plain64", "sha224" },
	};

	for (unsigned i = 0; i < sizeof(v) / sizeof(v[0]); i++) {
		struct plt_luks_params p = params(v[i][0], v[i][1], v[i][2], v[i][3]);
		uint64_t base = i * 65536;
		struct plt_store *st = made(base, &p);
		uint8_t a[PLT_KEY_MAX], b[PLT_KEY_MAX];

		ck_assert_int_eq(try_open(st, base, &one, a), 0);
		ck_assert_int_eq(try_open(st, base, &one, b), 0);
		ck_assert_mem_eq(a, b, sizeof(a));
		ck_assert_int_eq(try_open(st, base, &bad, b), -EPERM);
		plt_store_unref(st);
	}
}
END_TEST

START_TEST(split_needs_every_stripe)
{
	uint8_t key[48], split[48 * 100], back[48];

	for (unsigned i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t)(i * 5);
	ck_assert_int_eq(plt_luks_split(PLT_HASH_SHA256, key, 48, 100, split), 0);
	ck_assert_int_eq(plt_luks_merge(PLT_HASH_SHA256, split, 48, 100, back), 0);
	ck_assert_mem_eq(key, back, 48);
	for (unsigned i = 0; i < 100; i += 33) {
		split[i * 48 + i % 48] ^= 1;
		ck_assert_int_eq(plt_luks_merge(PLT_HASH_SHA256, split, 48, 100, back), 0);
		ck_assert_mem_ne(key, back, 48);
		split[i * 48 + i % 48] ^= 1;
	}
}
END_TEST

START_TEST(slots_come_and_go)
{
	struct plt_luks_params p = params("aes-128", "xts", NULL, NULL);
	struct plt_store *st = made(0, &p);
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_luks_change c = { .activate = true, .new_secret = &two, .keyslot = -1, .iter_ms = 1 };
	uint8_t a[PLT_KEY_MAX], b[PLT_KEY_MAX];
	struct plt_luks *l;
	unsigned mask;

	ck_assert_int_eq(try_open(st, 0, &one, a), 0);
	ck_assert_int_eq(plt_luks_read(st, 0, UINT64_MAX, &l, &err), 0);
	ck_assert_int_eq(plt_luks_amend(l, &c, &err), -EPERM); /* locked */
	ck_assert_int_eq(plt_luks_unlock(l, &one, &err), 0);
	ck_assert_int_eq(plt_luks_amend(l, &c, &err), 0);
	c.keyslot = 7;
	ck_assert_int_eq(plt_luks_amend(l, &c, &err), 0);
	ck_assert_int_eq(plt_luks_amend(l, &c, &err), -EINVAL); /* active already */
	ck_assert_int_eq(plt_luks_match(l, &two, &mask, &err), 0);
	ck_assert_uint_eq(mask, 1U << 1 | 1U << 7);
	ck_assert_int_eq(try_open(st, 0, &two, b), 0);
	ck_assert_mem_eq(a, b, 16);
	c = (struct plt_luks_change){ .old_secret = &one, .keyslot = -1, .iter_ms = UINT64_MAX };
	ck_assert_int_eq(plt_luks_amend(l, &c, &err), 0);
	ck_assert_int_eq(try_open(st, 0, &one, b), -EPERM);
	c.old_secret = &two; /* all that is left */
	ck_assert_int_eq(plt_luks_amend(l, &c, &err), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err.text, "irreversibly"));
	c = (struct plt_luks_change){ .keyslot = 7, .iter_ms = UINT64_MAX };
	ck_assert_int_eq(plt_luks_amend(l, &c, &err), 0);
	c.keyslot = 1;
	ck_assert_int_eq(plt_luks_amend(l, &c, &err), -EINVAL);
	c.force = true;
	ck_assert_int_eq(plt_luks_amend(l, &c, &err), 0);
	ck_assert_int_eq(try_open(st, 0, &two, b), -EPERM);
	plt_luks_free(l);
	plt_store_unref(st);
}
END_TEST

START_TEST(damage_is_refused)
{
	static const struct {
		unsigned at, len;
		uint64_t value;
		const char *says;
	} v[] = {
		{ 0, 1, 'l', "not in LUKS format" },
		{ 6, 2, 2, "version 2" },
		{ 8 + 31, 1, 0, NULL },
		{ 108, 4, 0, "master key has 0 bytes" },
		{ 108, 4, 65, "master key has 65 bytes" },
		{ 164, 4, 0, "iteration count" },
		{ 164, 4, 0x80000000, "iteration count" },
		{ 208, 4, 0, "state is corrupted" },
		{ 212, 4, 0, "iteration count" },
		{ 208 + 40, 4, 0, "overlapping with the LUKS header" },
		{ 208 + 40, 4, 1, "overlapping with the LUKS header" },
		{ 208 + 40, 4, 0xffffffff, "do not fit" },
		{ 208 + 40, 4, 9 * 16, "overlapping" },
		{ 208 + 44, 4, 3999, "stripes" },
		{ 208 + 44, 4, 0xffffffff, "stripes" },
		{ 104, 4, 16, "overlapping with the encrypted payload" },
	};
	struct plt_luks_params p = params("aes-128", "xts", NULL, NULL);
	struct plt_store *st = made(0, &p);
	uint8_t first[4096];

	ck_assert_int_eq(plt_store_read(st, 0, first, sizeof(first), PLT_IO_HEADER, NULL), 0);
	for (unsigned i = 0; i < sizeof(v) / sizeof(v[0]); i++) {
		struct plt_error err = PLT_ERROR_INIT;
		struct plt_luks *l = NULL;
		uint8_t h[4096];
		int r;

		memcpy(h, first, sizeof(h));
		for (unsigned k = 0; k < v[i].len; k++)
			h[v[i].at + k] = (uint8_t)(v[i].value >> 8 * (v[i].len - 1 - k));
		ck_assert_int_eq(plt_store_write(st, 0, h, sizeof(h), PLT_IO_HEADER, NULL), 0);
		r = plt_luks_read(st, 0, UINT64_MAX, &l, &err);
		if (v[i].says) {
			ck_assert_msg(r < 0, "%u", i);
			ck_assert_msg(strstr(err.text, v[i].says) != NULL, "%u: %s", i, err.text);
		} else {
			ck_assert_msg(r == 0, "%u: %s", i, err.text);
			plt_luks_free(l);
		}
	}
	/* other ciphers are described and not unlocked; texts that do not end are refused */
	memcpy(first + 8, "serpent", 8);
	ck_assert_int_eq(plt_store_write(st, 0, first, sizeof(first), PLT_IO_HEADER, NULL), 0);
	{
		struct plt_error err = PLT_ERROR_INIT;
		struct plt_luks *l = NULL;
		json_t *j;

		ck_assert_int_eq(plt_luks_read(st, 0, UINT64_MAX, &l, &err), 0);
		ck_assert_int_eq(plt_luks_unlock(l, &one, &err), -ENOTSUP);
		ck_assert_ptr_nonnull(strstr(err.text, "serpent"));
		j = plt_luks_info(l);
		ck_assert_str_eq(json_string_value(json_object_get(j, "cipher-alg")), "serpent-128");
		json_decref(j);
		plt_luks_free(l);
		memset(first + 8, 'x', 32);
		ck_assert_int_eq(plt_store_write(st, 0, first, sizeof(first), PLT_IO_HEADER, NULL), 0);
		ck_assert_int_eq(plt_luks_read(st, 0, UINT64_MAX, &l, &err), -EUCLEAN);
		ck_assert_int_eq(plt_luks_read(st, UINT64_MAX - 100, UINT64_MAX, &l, &err), -EINVAL);
	}
	plt_store_unref(st);
}
END_TEST

/* What is done to the slots of an image that "one" opens, and "two" if @erase. */
static int change(struct plt_store *st, bool erase, struct plt_error *err)
{
	struct plt_luks *l;
	int r = plt_luks_read(st, 0, UINT64_MAX, &l, err);

	if (r < 0)
		return r;
	r = plt_luks_unlock(l, &one, err);
	if (r == 0)
		r = erase ? plt_luks_slot_erase(l, 1, err) : plt_luks_slot_set(l, 1, &two, 1, err);
	plt_luks_free(l);
	return r;
}

/* Fail at the n-th operation, for every n, until nothing fails. */
START_TEST(failing_store)
{
	struct plt_luks_params p = params("aes-128", "xts", NULL, NULL);

	for (int erase = 0; erase < 2; erase++) {
		unsigned n;

		for (n = 0;; n++) {
			struct plt_store *mem = made(0, &p), *st;
			struct plt_error err = PLT_ERROR_INIT;
			uint8_t key[PLT_KEY_MAX];
			int r;

			if (erase)
				ck_assert_int_eq(change(mem, false, &err), 0);
			ck_assert_int_eq(plt_fault_new(mem, &st), 0);
			plt_fault_add(st, &(struct plt_fault_rule){ .ops = PLT_FAULT_WRITE | PLT_FAULT_SYNC, .tag = -1,
								    .skip = n, .count = 1, .error = EIO, .tear = 512 });
			r = change(st, erase, &err);
			plt_store_unref(st);
			ck_assert_int_eq(try_open(mem, 0, &one, key), 0);
			if (r == 0) {
				ck_assert_int_eq(try_open(mem, 0, &two, key), erase ? -EPERM : 0);
				plt_store_unref(mem);
				break;
			}
			plt_store_unref(mem);
		}
		ck_assert_uint_ge(n, 4);
	}
}
END_TEST

/*
 * A power cut after any record of the log, with the writes since the last sync there or not, and the
 * last of them torn at any sector of its first page.
 */
START_TEST(power_cut)
{
	struct plt_luks_params p = params("aes-128", "xts", NULL, NULL);
	struct plt_store *mem = made(0, &p), *copy, *st;
	const struct plt_log_record *rec;
	struct plt_luks *l = NULL;
	struct plt_writelog *log;
	struct plt_error err = PLT_ERROR_INIT;
	uint8_t key[PLT_KEY_MAX], *before;
	const void *data;
	size_t len, n, states = 0;

	data = plt_memory_data(mem, &len);
	before = malloc(len);
	memcpy(before, data, len);
	ck_assert_int_eq(plt_writelog_new(&log), 0);
	ck_assert_int_eq(plt_writelog_attach(log, mem, &st), 0);
	ck_assert_int_eq(change(st, false, &err), 0);
	plt_writelog_mark(log, 1);
	ck_assert_int_eq(change(st, true, &err), 0);
	n = plt_writelog_records(log, &rec);
	for (size_t cut = 0; cut <= n; cut++) {
		long synced = -1;
		bool acked = false;

		for (size_t i = 0; i < cut; i++) {
			synced = rec[i].kind == PLT_LOG_SYNC ? (long)i : synced;
			acked = acked || rec[i].kind == PLT_LOG_MARK;
		}
		/* of what came since the sync 0: nothing; 1..8: so many sectors each; 9: all; 10: the last alone */
		for (unsigned keep = 0; keep <= 10; keep++) {
			ck_assert_int_eq(plt_memory_new(before, len, 0, &copy), 0);
			for (size_t i = 0; i < cut; i++) {
				uint64_t bytes = rec[i].len;

				if (rec[i].kind != PLT_LOG_WRITE || ((long)i > synced && !keep) ||
				    ((long)i > synced && keep == 10 && i + 1 < cut))
					continue;
				if ((long)i > synced && keep < 9)
					bytes = bytes < keep * 512 ? bytes : keep * 512;
				ck_assert_int_eq(plt_store_write(copy, rec[i].off, rec[i].data, bytes, PLT_IO_DATA, NULL),
						 0);
			}
			ck_assert_msg(try_open(copy, 0, &one, key) == 0, "cut %zu keep %u", cut, keep);
			/* a slot that is said to be active is whole */
			ck_assert_int_eq(plt_luks_read(copy, 0, UINT64_MAX, &l, &err), 0);
			if (l->slot[1].active)
				ck_assert_msg(try_open(copy, 0, &two, key) == 0, "cut %zu keep %u: slot 1", cut, keep);
			plt_luks_free(l);
			if (acked && synced + 2 >= (long)cut && rec[cut - 1].kind == PLT_LOG_MARK)
				ck_assert_int_eq(try_open(copy, 0, &two, key), 0);
			states++;
			plt_store_unref(copy);
		}
	}
	ck_assert_uint_gt(states, 40);
	plt_store_unref(st);
	plt_writelog_free(log);
	plt_store_unref(mem);
	free(before);
}
END_TEST

START_TEST(names_are_judged)
{
	static const struct {
		struct plt_luks_texts t;
		const char *says;
	} v[] = {
		{ { "serpent-256", NULL, NULL, NULL, NULL, 1 }, "'serpent-256' is not supported" },
		{ { "twofish-256", NULL, NULL, NULL, NULL, 1 }, "'twofish-256' is not supported" },
		{ { "x", NULL, NULL, NULL, NULL, 1 }, "'cipher-alg' does not accept value 'x'" },
		{ { NULL, "x", NULL, NULL, NULL, 1 }, "'cipher-mode' does not" },
		{ { NULL, NULL, "x", NULL, NULL, 1 }, "'ivgen-alg' does not" },
		{ { NULL, NULL, NULL, "x", NULL, 1 }, "'ivgen-hash-alg' does not" },
		{ { NULL, NULL, NULL, NULL, "x", 1 }, "'hash-alg' does not" },
		{ { NULL, NULL, NULL, NULL, NULL, UINT64_MAX - 1 }, "too many" },
	};

	for (unsigned i = 0; i < sizeof(v) / sizeof(v[0]); i++) {
		struct plt_error err = PLT_ERROR_INIT;
		struct plt_luks_params p;

		ck_assert_int_lt(plt_luks_params(&v[i].t, &p, &err), 0);
		ck_assert_msg(strstr(err.text, v[i].says) != NULL, "%s", err.text);
	}
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("luks");
	TCase *t = tcase_create("luks");

	tcase_add_test(t, created_opens);
	tcase_add_test(t, split_needs_every_stripe);
	tcase_add_test(t, slots_come_and_go);
	tcase_add_test(t, damage_is_refused);
	tcase_add_test(t, failing_store);
	tcase_add_test(t, power_cut);
	tcase_add_test(t, names_are_judged);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
