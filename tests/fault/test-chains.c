/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Chains at random (tests/snapshot/chainlab.h), and whenever one is committed, rebased, flattened or coalesced: each state that a power cut
 * could have left meanwhile, and a failure of any of the writes.  In each the images show what they showed, the base of
 * a commit what it held or what it gets; and the same call, made again, brings it to its end.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/error.h"
#include "tests/fault/powercut.h"
#include "tests/snapshot/chainlab.h"

#define RUNS 4
#define FILES POWERCUT_STORES
#define STATES 400 /* of one deed */

struct file {
	char *path;
	struct powercut_disk start; /* before the deed */
	struct plt_store *store;    /* while it is played: what was opened, and stays so until it is over */
	int index;                  /* in the log; -1: not opened */
};

struct stage {
	struct chainlab lab;
	struct chain_deed deed;
	struct chain_saved *before;
	struct file file[FILES];
	unsigned nfiles;
	struct plt_writelog *log; /* NULL: failing stores */
	int logged;               /* stores in it */

	/* failing stores: operation number .fails does, and with .for_good all from then on */
	pthread_mutex_t lock;
	uint64_t seen, fails;
	bool for_good, full;
	unsigned hits;
	char first[100];          /* what failed first */

	unsigned states, cuts, failures;
	char why[900];
};

/* ---- files ----------------------------------------------------------------------------------- */

static void add_file(struct stage *s, char *path)
{
	struct file *f = &s->file[s->nfiles++];
	FILE *in = fopen(path, "r");

	ck_assert_uint_le(s->nfiles, FILES);
	ck_assert_ptr_nonnull(in);
	ck_assert_int_eq(fseek(in, 0, SEEK_END), 0);
	*f = (struct file){ .path = path, .index = -1 };
	f->start.len = (size_t)ftell(in);
	f->start.bytes = malloc(f->start.len + 1);
	rewind(in);
	ck_assert_uint_eq(fread(f->start.bytes, 1, f->start.len, in), f->start.len);
	fclose(in);
}

static void take_files(struct stage *s)
{
	s->nfiles = 0;
	for (unsigned i = 0; i < CHAIN_LAYERS; i++) {
		const struct chain_layer *l = &s->lab.v[i];
		char name[64];

		if (!l->used)
			continue;
		add_file(s, chain_path(&s->lab, l->name));
		snprintf(name, sizeof(name), "%s.data", l->name);
		if (l->kind->data)
			add_file(s, chain_path(&s->lab, name));
	}
	s->before = chain_save(&s->lab);
}

static void put_file(const struct file *f, const struct powercut_disk *content)
{
	FILE *out = fopen(f->path, "w");

	ck_assert_ptr_nonnull(out);
	ck_assert_uint_eq(fwrite(content->bytes, 1, content->len, out), content->len);
	ck_assert_int_eq(fclose(out), 0);
}

static void put_back(struct stage *s)
{
	for (unsigned i = 0; i < s->nfiles; i++)
		if (s->file[i].index >= 0)
			put_file(&s->file[i], &s->file[i].start);
	chain_restore(&s->lab, s->before);
}

static void drop_files(struct stage *s)
{
	for (unsigned i = 0; i < s->nfiles; i++) {
		free(s->file[i].path);
		free(s->file[i].start.bytes);
	}
	chain_saved_free(s->before);
	s->nfiles = 0;
}

/* ---- played ---------------------------------------------------------------------------------- */

/*
 * Not counted is what only tidies up: zeros (they may be written instead), discards, what a header no longer uses.
 * What finds no room may find some when what was freed has been given back: then all that follows fails, too.
 */
static int fail_one(void *arg, enum plt_fault_op op, int tag, uint64_t off, uint64_t len)
{
	static const unsigned changes = PLT_FAULT_WRITE | PLT_FAULT_SYNC | PLT_FAULT_TRUNCATE;
	struct stage *s = arg;
	bool hit;

	if (!(op & changes) || (tag == PLT_IO_HEADER && off))
		return 0;
	pthread_mutex_lock(&s->lock);
	hit = s->seen == s->fails || (s->for_good && s->seen > s->fails);
	s->seen++;
	hit = hit && !(s->full && op == PLT_FAULT_SYNC);
	if (hit && !s->hits++)
		snprintf(s->first, sizeof(s->first), "operation %d of tag %d at %#" PRIx64 "+%#" PRIx64, op, tag, off, len);
	pthread_mutex_unlock(&s->lock);
	return hit ? s->full ? ENOSPC : EIO : 0;
}

/* The context's opener: what a deed opens is opened once, under the log or the faults. */
static int open_file(void *arg, const char *path, unsigned flags, struct plt_store **ret, struct plt_error *err)
{
	struct stage *s = arg;
	struct plt_store *below;
	struct file *f = s->file;
	int r;

	while (f < s->file + s->nfiles && strcmp(f->path, path))
		f++;
	if (f == s->file + s->nfiles)
		return plt_error_set(err, ENOENT, "'%s' is none of the images", path);
	if (!f->store) {
		r = plt_file_open(path, PLT_FILE_WRITE | PLT_FILE_UNSAFE | PLT_FILE_NO_LOCK, &below, err);
		if (r < 0)
			return r;
		if (s->log) {
			ck_assert_int_eq(plt_writelog_attach(s->log, below, &f->store), 0);
		} else {
			ck_assert_int_eq(plt_fault_new(below, &f->store), 0);
			plt_fault_set_judge(f->store, &(struct plt_fault_judge){ .before = fail_one, .arg = s });
		}
		f->index = s->logged++;
		plt_store_unref(below);
	}
	(void)flags;
	*ret = plt_store_ref(f->store);
	return 0;
}

static int play(struct stage *s, struct plt_error *err)
{
	int r;

	for (unsigned i = 0; i < s->nfiles; i++)
		s->file[i].index = -1;
	s->logged = 0;
	s->seen = 0;
	s->hits = 0;
	s->lab.warned = false;
	s->lab.cache = NULL;
	plt_ctx_set_opener(s->lab.ctx, open_file, s);
	r = chain_do(&s->lab, &s->deed, err);
	plt_ctx_set_opener(s->lab.ctx, NULL, NULL);
	s->lab.cache = "unsafe";
	if (s->log)
		plt_writelog_mark(s->log, 1);
	for (unsigned i = 0; i < s->nfiles; i++) {
		plt_store_unref(s->file[i].store);
		s->file[i].store = NULL;
	}
	return r;
}

/* ---- judged ---------------------------------------------------------------------------------- */

static bool concerns(const struct stage *s, int i)
{
	const struct chainlab *c = &s->lab;

	return c->v[i].used && (i == s->deed.i || i == s->deed.on || chain_is_above(c, i, s->deed.i) ||
				chain_is_above(c, i, s->deed.on) ||
				(s->deed.verb == CHAIN_COALESCE && (i == s->deed.child || chain_is_above(c, i, s->deed.child))));
}

static const char *judge_all(struct stage *s, bool again)
{
	const char *why = NULL;

	for (int i = 0; i < CHAIN_LAYERS && !why; i++)
		if (concerns(s, i)) {
			why = chain_wrong(&s->lab, i, &s->deed);
			/* (lazy counts come right when the image is written again) */
			if (!why && (!s->lab.v[i].kind->lazy || again))
				why = chain_unsound(&s->lab, i, true, &s->deed);
		}
	return why;
}

/* What is on disk now is what a cut or a failure left; @done: the call had come back without an error. */
static int judge(struct stage *s, bool done, const char *what)
{
	struct plt_error err = PLT_ERROR_INIT;
	const char *why;
	int r;

	chain_restore(&s->lab, s->before);
	if (done)
		chain_done(&s->lab, &s->deed);
	why = judge_all(s, false);
	if (!why) {
		r = chain_do(&s->lab, &s->deed, &err);
		/* (a layer that is in the chain no longer has been coalesced) */
		why = r < 0 && !(r == -ENOENT && s->deed.verb == CHAIN_COALESCE) ? err.text : NULL;
		if (!why && !done)
			chain_done(&s->lab, &s->deed);
		if (!why)
			why = judge_all(s, true);
		if (why)
			snprintf(s->why, sizeof(s->why), "%s: %s, and again: %.400s", chain_text(&s->lab, &s->deed), what, why);
	} else {
		snprintf(s->why, sizeof(s->why), "%s: %s: %.400s", chain_text(&s->lab, &s->deed), what, why);
	}
	s->states++;
	return why ? -1 : 0;
}

/*
 * What `check -r all` makes of an image: nothing is left wrong or lost, and *ret_sure: nothing was inferred, so what is
 * shown stays.  The journal goes.
 */
static const char *mend(struct stage *s, int i, bool *ret_sure)
{
	static struct plt_error err;
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_check_result res = { 0 };
	char *path = chain_path(&s->lab, s->lab.v[i].name), *journal;
	int r;

	o.format = s->lab.v[i].kind->format;
	o.cache = "unsafe";
	r = plt_check_repair(s->lab.ctx, path, &o, NULL, NULL, NULL, &res, &err);
	if (asprintf(&journal, "%s.platter-undo", path) < 0)
		abort();
	unlink(journal);
	free(journal);
	free(path);
	if (r == -ENOSYS || r == -ENOTSUP) /* raw */
		return NULL;
	*ret_sure &= !res.inferred;
	/* (blocks of a VHD that were discarded cannot be told from lost ones) */
	if (r == 0 && (res.corruptions || res.added || (res.lost && !strcmp(o.format, "qcow2"))))
		r = plt_error_set(&err, EUCLEAN, "%" PRIu64 " errors are left, %" PRIu64 " bytes lost", res.corruptions + res.added,
				  res.lost);
	return r < 0 ? err.text : NULL;
}

static int judge_mended(struct stage *s, bool done, const char *what)
{
	const char *why = NULL;
	bool sure = true;

	chain_restore(&s->lab, s->before);
	if (done)
		chain_done(&s->lab, &s->deed);
	if (!chain_empties(&s->deed, s->deed.i))
		why = mend(s, s->deed.i, &sure);
	if (!why && s->deed.on >= 0)
		why = mend(s, s->deed.on, &sure);
	if (!why)
		why = judge_all(s, true);
	if (why)
		snprintf(s->why, sizeof(s->why), "%s: %s: mended, %.400s", chain_text(&s->lab, &s->deed), what, why);
	return why ? -1 : 0;
}

static int judge_cut(void *arg, const struct powercut_state *st)
{
	struct stage *s = arg;
	int r = 0;

	for (unsigned again = 0; again < 2 && r == 0; again++) {
		for (unsigned i = 0; i < s->nfiles; i++)
			if (s->file[i].index >= 0)
				put_file(&s->file[i], &st->disk[s->file[i].index]);
		if (again && s->states % 4)
			break;
		r = again ? judge_mended(s, st->mark == 1, st->what) : judge(s, st->mark == 1, st->what);
	}
	return r;
}

static void cut_power(struct stage *s)
{
	struct powercut_limits limits = { .seed = plt_unit_random(&s->lab.seed), .total = STATES, .window = 60 };
	struct powercut_disk start[FILES];
	struct plt_error err = PLT_ERROR_INIT;

	take_files(s);
	ck_assert_int_eq(plt_writelog_new(&s->log), 0);
	if (play(s, &err) < 0)
		ck_abort_msg("%s: %s", chain_text(&s->lab, &s->deed), err.text);
	for (unsigned i = 0; i < s->nfiles; i++)
		if (s->file[i].index >= 0)
			start[s->file[i].index] = s->file[i].start;
	if (powercut_each(s->log, start, (unsigned)s->logged, &limits, judge_cut, s, NULL) < 0)
		ck_abort_msg("%s", s->why);
	plt_writelog_free(s->log);
	s->log = NULL;
	put_back(s);
	drop_files(s);
	s->cuts++;
}

static void fail_writes(struct stage *s, unsigned tries)
{
	struct plt_error err = PLT_ERROR_INIT;
	uint64_t all;
	char what[260];
	int r;

	take_files(s);
	s->fails = UINT64_MAX;
	s->for_good = s->full = false;
	if (play(s, &err) < 0)
		ck_abort_msg("%s: %s", chain_text(&s->lab, &s->deed), err.text);
	all = s->seen;
	for (unsigned n = 0; n < tries && all; n++) {
		put_back(s);
		s->fails = chain_any(&s->lab, all);
		s->full = chain_any(&s->lab, 2);
		s->for_good = s->full || chain_any(&s->lab, 2);
		r = play(s, &err);
		snprintf(what, sizeof(what), "change %" PRIu64 " of %" PRIu64 " (%s) fails%s, %s", s->fails, all, s->first,
			 s->for_good ? " and all behind it" : "", s->full ? "no space" : "EIO");
		/* (of a VHD's header the last copies are only for those who look for it there) */
		if (r == 0 && s->hits && !s->lab.warned && !(s->lab.v[s->deed.i].kind->vhd_only && s->deed.verb != CHAIN_COMMIT))
			ck_abort_msg("%s: %s: nobody was told", chain_text(&s->lab, &s->deed), what);
		if (judge(s, r == 0, what) < 0)
			ck_abort_msg("%s", s->why);
		s->failures++;
	}
	put_back(s);
	drop_files(s);
}

/* ---- the suite ------------------------------------------------------------------------------- */

static unsigned deeds(void)
{
	const char *env = getenv("PLT_STEPS");

	return env && *env ? (unsigned)strtoul(env, NULL, 0) : getenv("PLT_SANITIZER") ? 3 : 8;
}

/* Tried out; all is put back. */
static bool is_refused(struct stage *s)
{
	struct plt_error err = PLT_ERROR_INIT;
	int r;

	if (!chain_may_be_refused(&s->lab, &s->deed))
		return false;
	take_files(s);
	r = chain_do(&s->lab, &s->deed, &err);
	for (unsigned i = 0; i < s->nfiles; i++)
		s->file[i].index = 0;
	put_back(s);
	drop_files(s);
	return r < 0;
}

static void run(uint64_t seed, bool cuts)
{
	struct stage *s = calloc(1, sizeof(*s));
	struct plt_error err = PLT_ERROR_INIT;

	chainlab_init(&s->lab, seed);
	pthread_mutex_init(&s->lock, NULL);
	for (unsigned step = 0, n = 0; n < deeds(); step++) {
		if (step < 4 || chain_any(&s->lab, 4) == 0)
			chain_make(&s->lab);
		else
			chain_burst(&s->lab);
		if (step < 4 || chain_any(&s->lab, 3))
			continue;
		s->deed = chain_choose(&s->lab);
		if (s->deed.verb == CHAIN_NOTHING || is_refused(s) ||
		    chain_grows_fixed(&s->lab, &s->deed))
			continue;
		if (cuts)
			cut_power(s);
		else
			fail_writes(s, 24);
		if (chain_do(&s->lab, &s->deed, &err) < 0)
			ck_abort_msg("%s: %s", chain_text(&s->lab, &s->deed), err.text);
		chain_done(&s->lab, &s->deed);
		for (int i = 0; i < CHAIN_LAYERS; i++)
			if (concerns(s, i) && chain_wrong(&s->lab, i, &s->deed))
				ck_abort_msg("%s: %s", chain_text(&s->lab, &s->deed), chain_wrong(&s->lab, i, &s->deed));
		n++;
	}
	printf("# %u states\n", s->states);
	ck_assert_uint_ge(s->states, deeds());
	chainlab_release(&s->lab);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

START_TEST(power_cuts)
{
	run(plt_unit_seed() + (uint64_t)_i, true);
}
END_TEST

START_TEST(failures)
{
	run(plt_unit_seed() + (uint64_t)_i, false);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("fault/chains");
	TCase *tc = tcase_create("chains");

	tcase_add_loop_test(tc, power_cuts, 0, RUNS);
	tcase_add_loop_test(tc, failures, 0, RUNS);
	suite_add_tcase(s, tc);
	return s;
}

int main(void)
{
	return plt_unit_main(suite());
}
