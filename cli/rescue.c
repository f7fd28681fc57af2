/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * --rescue and what goes with it, for every command that reads: how disks are opened, what is said of them when
 * they are closed, the report, and the exit status.  Invariant: a range whose content is not known is named on
 * stderr, or is in the report, and the exit status is never 0 then.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"

/* Memory for findings is bounded: a damaged image may have several a cluster. */
#define FINDINGS_MAX 1000000
#define DEEP_LAYERS 8      /* looked at deeply where all is read anyway: each is looked at with all that is below it */
#define LOST_SHOWN_MAX 100 /* ranges that repair names one by one: there may be more of them than a person reads */

struct cli_rescue {
	bool on, strict, zero_lost, likely, deep;
	const char *report, *plan, *trust, *donor, *map;
	struct plt_rescue_options options;
	json_t *findings, *images;
	uint64_t omitted;
	bool doubts, left, leaks; /* in what was opened */
	bool unwritable;          /* the report's name is that of an image */
};

static struct cli_rescue *state(struct cli_args *a)
{
	if (!a->rescue)
		a->rescue = calloc(1, sizeof(*a->rescue));
	if (!a->rescue) {
		cli_error("out of memory");
		a->status = 1;
	}
	return a->rescue;
}

bool cli_rescue_take(struct cli_args *a, int c)
{
	struct cli_rescue *s;

	if (c != OPT_RESCUE && c != OPT_REPORT && c != OPT_STRICT && c != OPT_ZERO_LOST && c != OPT_PLAN &&
	    c != OPT_TRUST && c != OPT_DONOR && c != OPT_DEEP && c != OPT_MAP)
		return false;
	if (c == OPT_MAP && a->cmd == &cli_scan)
		return false; /* it writes that one */
	s = state(a);
	if (!s)
		return true;
	switch (c) {
	case OPT_RESCUE:
		s->on = true;
		break;
	case OPT_REPORT:
		s->report = a->arg;
		break;
	case OPT_PLAN:
		s->plan = a->arg;
		break;
	case OPT_DONOR:
		s->donor = a->arg;
		break;
	case OPT_MAP:
		s->map = a->arg;
		break;
	case OPT_TRUST:
		s->likely = !strcmp(a->arg, "likely");
		s->trust = a->arg;
		if (!s->likely && strcmp(a->arg, "strong"))
			a->status = cli_usage_error("--trust: expecting 'strong' or 'likely', not '%s'", a->arg);
		break;
	case OPT_DEEP:
		s->deep = true;
		break;
	case OPT_STRICT:
		s->strict = true;
		break;
	case OPT_ZERO_LOST:
		s->zero_lost = true;
		break;
	}
	return true;
}

bool cli_trusts_likely(const struct cli_args *a)
{
	return a->rescue && a->rescue->likely;
}

const char *cli_plan_file(const struct cli_args *a)
{
	return a->rescue ? a->rescue->plan : NULL;
}

const char *cli_donor(const struct cli_args *a)
{
	return a->rescue ? a->rescue->donor : NULL;
}

bool cli_looks_deep(const struct cli_args *a)
{
	return a->rescue && a->rescue->deep;
}

bool cli_reports(const struct cli_args *a)
{
	return a->rescue && a->rescue->report;
}

bool cli_rescue_is_on(const struct cli_args *a)
{
	return a->rescue && a->rescue->on;
}

bool cli_rescue_doubts(const struct cli_args *a)
{
	return a->rescue && (a->rescue->doubts || a->rescue->left);
}

static void put_range(json_t *o, const char *name, uint64_t off, uint64_t len)
{
	if (len)
		json_object_set_new(o, name, json_pack("{s:I, s:I}", "offset", (json_int_t)off, "length",
						       (json_int_t)len));
}

void cli_report_finding(const struct cli_args *a, const struct plt_check_finding *f)
{
	struct cli_rescue *s = a->rescue;
	json_t *o;

	if (!s || !s->report)
		return;
	if (!s->findings)
		s->findings = json_array();
	if (json_array_size(s->findings) == FINDINGS_MAX) {
		s->omitted++;
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
	json_object_set_new(o, "mended", json_boolean(f->mended));
	json_array_append_new(s->findings, o);
}

static void found(void *arg, const struct plt_check_finding *f)
{
	cli_report_finding(arg, f);
}

static bool same_file(const char *a, const char *b)
{
	struct stat x, y;

	return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* Is it the name of a file that the command line names for something else? */
static bool is_operand(const struct cli_args *a, const char *report)
{
	for (int i = 1; i < a->argc; i++)
		if (a->argv[i] != report && same_file(report, a->argv[i]))
			return true;
	return false;
}

/* Is there a place for the report, or the plan?  Behind all the work it would be too late to find out. */
static bool has_place(const struct cli_args *a, const char *what, const char *name)
{
	const char *slash = strrchr(name, '/');
	char *folder = slash ? strndup(name, (size_t)(slash - name) + 1) : strdup(".");
	struct stat sb;
	bool exists = stat(name, &sb) == 0;
	int r = 0;

	if (exists && S_ISDIR(sb.st_mode))
		r = EISDIR;
	else if (strcmp(name, "-") && folder && (!exists || S_ISREG(sb.st_mode)) && access(folder, W_OK | X_OK) < 0)
		r = errno; /* (it is written beside, and renamed) */
	free(folder);
	if (r)
		cli_error("the %s '%s' could not be written: %s", what, name, strerror(r));
	else if (is_operand(a, name))
		cli_error("'%s' is an image: the %s is not written over it", name, what);
	else
		return true;
	return false;
}

bool cli_plan_has_place(const struct cli_args *a)
{
	return !a->rescue || !a->rescue->plan || has_place(a, "plan", a->rescue->plan);
}

int cli_rescue_flags(const struct cli_args *a, struct plt_open_options *opts)
{
	struct cli_rescue *s = a->rescue;

	if (s && s->report && !has_place(a, "report", s->report)) {
		s->report = NULL; /* it has been said */
		return -1;
	}
	if (!s || a->cmd->makes_plan)
		return 0;
	if (!s->on && s->deep && a->cmd == &cli_check && !s->report && !s->strict && !s->plan && !s->trust && !s->donor &&
	    !s->map && !s->zero_lost)
		return 0;
	if (!s->on) {
		cli_error("%s is said of a disk that is opened with --rescue", s->report ? "--report" : s->strict ? "--strict" :
			  s->plan ? "--plan" : s->trust ? "--trust" : s->donor ? "--donor" : s->map ? "--map" : s->deep ? "--deep" : "--zero-lost");
		return -1;
	}
	if (s->strict && s->zero_lost) {
		cli_error("--strict and --zero-lost exclude each other");
		return -1;
	}
	s->options = (struct plt_rescue_options)PLT_RESCUE_OPTIONS_INIT;
	s->options.found = found;
	s->options.found_arg = (void *)(uintptr_t)a;
	s->options.plan = s->plan;
	s->options.trust_likely = s->likely;
	s->options.donor = s->donor;
	s->options.map = s->map;
	s->options.deep = s->deep;
	if (a->cmd->reads_all)
		s->options.deep_layers = DEEP_LAYERS;
	opts->rescue = &s->options;
	opts->flags |= PLT_OPEN_RESCUE;
	opts->flags &= ~(unsigned)PLT_OPEN_INSPECT; /* what a base has lost is the disk's loss */
	if (s->zero_lost || (a->cmd->makes_result && !s->strict))
		opts->flags |= PLT_OPEN_ZERO_LOST;
	return 0;
}

/* ---- what is said at the end ----------------------------------------------------------------- */

struct sum {
	uint64_t n, bytes;
};

struct lists {
	const char *name;
	json_t *lost, *inferred, *snapshots; /* the disk's; NULL: nothing is said of snapshots */
	json_t *now;                         /* the snapshot that is being listed, */
	const char *now_id;                  /* and its id, as long as that goes on */
	struct sum all_lost, all_inferred;
	uint64_t most;                       /* ranges that are named one by one */
};

/* The list that the range belongs to, and on whose disk. */
static json_t *list_of(struct lists *l, const struct plt_doubt_range *d)
{
	if (!d->snapshot)
		return d->lost ? l->lost : l->inferred;
	if (!l->snapshots)
		l->snapshots = json_array();
	if (!l->now || l->now_id != d->snapshot) {
		l->now_id = d->snapshot;
		l->now = json_pack("{s:o, s:[], s:[]}", "id", cli_json_text(d->snapshot), "lost", "inferred");
		json_array_append_new(l->snapshots, l->now);
	}
	return json_object_get(l->now, d->lost ? "lost" : "inferred");
}

static int list(void *arg, const struct plt_doubt_range *d)
{
	struct lists *l = arg;
	struct sum *sum = d->lost ? &l->all_lost : &l->all_inferred;
	json_t *o = json_pack("{s:I, s:I}", "start", (json_int_t)d->off, "length", (json_int_t)d->len);

	json_object_set_new(o, "reason", cli_json_text(d->why));
	if (!d->lost)
		json_object_set_new(o, "certainty", cli_json_text(d->certainty));
	json_array_append_new(list_of(l, d), o);
	if (d->lost && sum->n < l->most)
		cli_warn("'%s'%s%s: lost: %" PRIu64 " bytes at %" PRIu64 ": %s", l->name, d->snapshot ? ", snapshot " : "",
			 d->snapshot ? d->snapshot : "", d->len, d->off, d->why);
	sum->n++;
	sum->bytes += d->len;
	return 0;
}

static void say_plan(struct cli_rescue *s, struct plt_disk *disk, bool quiet)
{
	struct plt_rescue_info info;

	for (unsigned i = 0; plt_disk_rescue_info(disk, i, &info) != -ENOENT; i++) {
		if (!info.filename)
			continue;
		if (s->report && same_file(s->report, info.filename))
			s->unwritable = true;
		s->left = s->left || info.left;
		s->leaks = s->leaks || info.leaks;
		if (!quiet && (info.fixed || info.left))
			cli_warn("'%s': %" PRIu64 " error%s put right in what is shown, %" PRIu64 " %s left",
				 info.filename, info.fixed, info.fixed == 1 ? " is" : "s are", info.left, info.left == 1 ? "is" : "are");
	}
}

/* The lists of one disk: named on stderr, put into the report. */
static void begin_lists(struct lists *l, const char *name, uint64_t most)
{
	*l = (struct lists){ .name = name, .lost = json_array(), .inferred = json_array(), .most = most };
}

static bool end_lists(struct cli_rescue *s, struct lists *l, const char *format, uint64_t size, bool known)
{
	bool any = l->all_inferred.n || l->all_lost.n || !known;
	const char *where = s && s->report ? "" : " (--report lists them)";
	json_t *image = json_object();

	if (l->all_lost.n > l->most)
		cli_warn("'%s': ... and %" PRIu64 " more lost ranges", l->name, l->all_lost.n - l->most);
	if (l->all_lost.n > 1)
		cli_warn("'%s': %" PRIu64 " bytes in %" PRIu64 " ranges are lost%s", l->name, l->all_lost.bytes, l->all_lost.n,
			 where);
	if (l->all_inferred.n)
		cli_warn("'%s': %" PRIu64 " bytes in %" PRIu64 " ranges rest on less than proof%s", l->name,
			 l->all_inferred.bytes, l->all_inferred.n, where);
	json_object_set_new(image, "filename", cli_json_text(l->name));
	json_object_set_new(image, "format", cli_json_text(format));
	if (size)
		json_object_set_new(image, "virtual-size", json_integer((json_int_t)size));
	json_object_set_new(image, "lost", l->lost);
	json_object_set_new(image, "inferred", l->inferred);
	if (l->snapshots)
		json_object_set_new(image, "snapshots", l->snapshots);
	if (s && !s->images)
		s->images = json_array();
	if (s)
		json_array_append(s->images, image);
	json_decref(image);
	return any;
}

void cli_rescue_tell(const struct cli_args *a, struct plt_disk *disk)
{
	struct cli_rescue *s = a->rescue;
	struct plt_error err = PLT_ERROR_INIT;
	struct lists l;
	int r;

	if (!disk || !cli_rescue_is_on(a))
		return;
	say_plan(s, disk, a->quiet);
	begin_lists(&l, plt_disk_name(disk), UINT64_MAX);
	r = plt_disk_doubts(disk, list, &l, &err);
	if (r < 0)
		cli_error("%s", err.text);
	if (end_lists(s, &l, plt_disk_format(disk), plt_disk_size(disk), r == 0))
		s->doubts = true;
	if (plt_disk_update_map(disk, &err) < 0)
		cli_error("%s", err.text);
}

bool cli_report_plan(const struct cli_args *a, struct plt_repair *rep, const char *name, const char *format,
		     struct cli_doubts *ret)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct lists l;
	int r;

	begin_lists(&l, name, LOST_SHOWN_MAX);
	r = plt_repair_doubts(rep, list, &l, &err);
	if (r < 0)
		cli_error("%s", err.text);
	*ret = (struct cli_doubts){ l.all_lost.bytes, l.all_inferred.bytes };
	return end_lists(a->rescue, &l, format, 0, r == 0);
}

void cli_close(const struct cli_args *a, struct plt_disk *disk)
{
	cli_rescue_tell(a, disk);
	(void)plt_disk_close(disk, NULL); /* opened for reading */
}

/* Of one disk its lists stand beside the findings; of several (or none) each has its own. */
static json_t *make_report(struct cli_rescue *s)
{
	json_t *o = json_array_size(s->images) == 1 ? json_incref(json_array_get(s->images, 0)) : json_object();

	json_object_set_new(o, "findings", s->findings ? json_incref(s->findings) : json_array());
	if (s->omitted)
		json_object_set_new(o, "findings-omitted", json_integer((json_int_t)s->omitted));
	if (json_array_size(s->images) != 1)
		json_object_set_new(o, "images", s->images ? json_incref(s->images) : json_array());
	return o;
}

static bool write_report(const struct cli_args *a, struct cli_rescue *s)
{
	json_t *o = make_report(s);
	char *text = json_dumps(o, JSON_INDENT(4)), *tmp = NULL;
	FILE *f = NULL;
	bool done = false;

	json_decref(o);
	if (!strcmp(s->report, "-")) {
		done = text && printf("%s\n", text) > 0 && fflush(stdout) == 0;
		if (!done)
			cli_error("the report could not be written to standard output: %s", strerror(errno));
	} else if (s->unwritable || is_operand(a, s->report)) {
		cli_error("'%s' is an image: the report is not written over it", s->report);
	} else if (!text || asprintf(&tmp, "%s.new", s->report) < 0) {
		tmp = NULL;
		cli_error("out of memory");
	} else {
		/* the name may be that of a pipe or a terminal */
		struct stat sb;
		bool plain = stat(s->report, &sb) < 0 || S_ISREG(sb.st_mode);

		f = fopen(plain ? tmp : s->report, "we");
		done = f && fprintf(f, "%s\n", text) > 0;
		done = f && fclose(f) == 0 && done && (!plain || rename(tmp, s->report) == 0);
		if (!done) {
			cli_error("the report '%s' could not be written: %s", s->report, strerror(errno));
			if (f && plain)
				(void)unlink(tmp);
		}
	}
	free(text);
	free(tmp);
	return done;
}

int cli_rescue_end(struct cli_args *a, int status)
{
	struct cli_rescue *s = a->rescue;

	if (!s)
		return status;
	if (s->report && (s->on || s->images || s->findings) && !write_report(a, s))
		status = status ? status : 1;
	if (status == 0 && s->on)
		status = s->doubts || s->left ? 2 : s->leaks ? 3 : 0;
	json_decref(s->findings);
	json_decref(s->images);
	free(s);
	a->rescue = NULL;
	return status;
}
