/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_CLI_CLI_H
#define PLT_CLI_CLI_H

/*
 * What the commands share.  The program is one thread of its own over include/platter.h; only the
 * progress callback may come from another.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "platter.h"

/* ---- option tables: args.c ------------------------------------------------------------------- */

/* What an argument may be, for completion. */
enum cli_kind {
	CLI_ANY,
	CLI_FILE,
	CLI_DIR,
	CLI_FORMAT,
	CLI_CACHE,
	CLI_OUTPUT,
	CLI_REPAIR,
	CLI_DIGEST
};

/* Options without a short form. */
enum {
	OPT_OBJECT = 256,
	OPT_IMAGE_OPTS,
	OPT_TARGET_IMAGE_OPTS,
	OPT_OUTPUT,
	OPT_BACKING_CHAIN,
	OPT_SALVAGE,
	OPT_TARGET_IS_ZERO,
	OPT_BITMAPS,
	OPT_SKIP_BROKEN,
	OPT_UNTRUSTED,
	OPT_ALLOW_DIR,
	OPT_NO_BACKING,
	OPT_VERIFY,
	OPT_LEVEL,
	OPT_DIGEST,
	OPT_FLAT,
	OPT_MAN,
	OPT_SIZE,
	OPT_PATTERN,
	OPT_FLUSH_INTERVAL,
	OPT_NO_DRAIN,
	OPT_SHRINK,
	OPT_PREALLOCATION,
	OPT_FORCE,
	OPT_UNDO_FILE,
	OPT_YES,
	OPT_DRY_RUN,
	OPT_COPY,
	OPT_LIMITS,
	OPT_ADD,
	OPT_REMOVE,
	OPT_CLEAR,
	OPT_ENABLE,
	OPT_DISABLE,
	OPT_MERGE,
	OPT_CARVE,
	OPT_MAP,
	OPT_RESCUE,
	OPT_REPORT,
	OPT_STRICT,
	OPT_ZERO_LOST,
	OPT_PLAN,
	OPT_TRUST,
	OPT_DONOR,
	OPT_DEEP,
	OPT_INTERACTIVE,
	OPT_AGAINST,
	OPT_INTO,
	OPT_SEARCH,
	OPT_TO,
	OPT_FREE,
	OPT_SWAP,
	OPT_ZERO,
	OPT_SAME,
	OPT_LEAKS,
	OPT_ALL,
	OPT_EXACT,
	OPT_IGNORE_FEATURE,
};

struct cli_opt {
	int val;	  /* the short letter, or OPT_* */
	const char *name; /* long, or NULL */
	const char *arg;  /* what it takes, or NULL */
	const char *help; /* NULL: another spelling, shown nowhere */
	enum cli_kind kind;
};

struct cli_args;

struct cli_command {
	const char *name;
	const char *operands; /* "filename [size]" */
	enum cli_kind operand_kind;
	const char *summary;	     /* one line */
	const char *const *text;     /* paragraphs of the manual page, NULL-terminated */
	const char *const *examples; /* a command line, what it does, ...; NULL-terminated */
	const struct cli_opt *const *groups; /* tables ending with .val == 0; NULL-terminated */
	int (*run)(struct cli_args *a);	     /* returns the exit status */
	bool makes_result; /* of what it reads: under --rescue it goes on where something is lost */
	bool reads_all;    /* under --rescue it may as well read the guest's metadata once more, to look deep */
	bool makes_plan;   /* --plan and --report are its own */
};

extern const struct cli_command *const cli_commands[]; /* main.c; NULL-terminated */
const struct cli_command *cli_command_find(const char *name);

/* Tables that several commands have; every command that only reads an image has cli_open_opts. */
extern const struct cli_opt cli_object_opts[];	 /* --object */
extern const struct cli_opt cli_open_opts[];	 /* --image-opts, -U, --rescue and its company: commands that read */
extern const struct cli_opt cli_strict_opts[];	 /* --strict, for all of those but compare, which has its own */
extern const struct cli_opt cli_image_opts_opts[]; /* --image-opts alone, for commands that write */
extern const struct cli_opt cli_policy_opts[];	 /* --untrusted, --allow-dir, --no-backing */
extern const struct cli_opt cli_quiet_opts[];	 /* -q */
extern const struct cli_opt cli_progress_opts[]; /* -p */
extern const struct cli_opt cli_output_opts[];	 /* --output */

#define CLI_IGNORE_FEATURE_HELP \
	"read an image as if it did not claim this incompatible feature (a number, 0 to 63), which nobody knows; may be " \
	"given more than once. It is only read then; repair, and check -r all, take the claim out"

/* What cli_cache_mode() takes, for help texts. */
#define CLI_CACHE_WORDS "none, writeback, writethrough, directsync or unsafe"

#define CLI_DIRS_MAX 64
#define CLI_OBJECTS_MAX 64

/* The command line of one command. */
struct cli_args {
	const struct cli_command *cmd;
	int argc;
	char **argv; /* argv[0]: the command's name */
	char *shorts;
	struct option *longs;
	const char *arg; /* argument of the option that cli_next() returned */
	int status;	 /* what to exit with after CLI_STOP */
	/* What the common options said: */
	bool image_opts, force_share, quiet, progress, json, no_backing;
	enum plt_policy policy;
	uint64_t ignore_features; /* --ignore-feature, one bit each */
	const char *objects[CLI_OBJECTS_MAX]; /* --object, in order: one may need those before it */
	unsigned nobjects;
	const char *allow_dirs[CLI_DIRS_MAX + 1];
	unsigned nallow_dirs;
	struct cli_rescue *rescue; /* rescue.c; NULL: none of its options was given */
};

enum { CLI_END = -1, CLI_STOP = -2 };
/*
 * The next option that is the command's own: its value, with a->arg.  Common options are taken
 * inside.  CLI_END: the rest, from optind on, are operands.  CLI_STOP: return a->status (help was
 * given, or an error has been printed).
 */
int cli_next(struct cli_args *a);

/* "-o" texts that add up: a NULL-terminated list.  False (error printed): no valid list. */
struct cli_list {
	const char **v;
	unsigned n;
};
bool cli_list_add(struct cli_list *l, const char *text);
void cli_list_release(struct cli_list *l);
/* "help" or "?" is among the options. */
bool cli_list_wants_help(const struct cli_list *l);
/* -o help: prints what FORMAT knows; the exit status. */
int cli_format_help(const char *format, bool with_file);

/* "-l": fills in the snapshot of @o, which points into ->copy; free() that.  False: error printed. */
struct cli_snapshot {
	char *copy;
};
bool cli_snapshot_parse(struct cli_snapshot *s, const char *text, struct plt_open_options *o);

/* A size argument with qemu-img's words; false: error printed. */
bool cli_size(const char *what, const char *text, uint64_t *ret);
bool cli_size_between(const char *what, const char *text, uint64_t min, uint64_t max, uint64_t *ret);
/* One of the library's formats, by its own name. */
bool cli_format_exists(const char *format);
/* Is @mode a cache mode?  *ret: its name for the library. */
bool cli_cache_mode(const char *mode, const char **ret);

/* ---- opening: open.c ------------------------------------------------------------------------- */

int cli_context(const struct cli_args *a, struct plt_ctx **ret); /* errors are printed */
/* The same with other options of the context than the defaults. */
int cli_context_with(const struct cli_args *a, struct plt_ctx_options *opts, struct plt_ctx **ret);
/* Adds what the common options say to opts->flags.  Errors are printed, as by all below. */
int cli_open(const struct cli_args *a, struct plt_ctx *ctx, const char *name,
	     struct plt_open_options *opts, struct plt_disk **ret);
/* Fill in .flags and refuse what excludes each other, for calls that open by themselves. */
int cli_open_flags(const struct cli_args *a, struct plt_open_options *opts);

/* ---- rescue: rescue.c ------------------------------------------------------------------------ */

/* Is it one of its options?  Takes it, as take_common() does. */
bool cli_rescue_take(struct cli_args *a, int c);
bool cli_rescue_is_on(const struct cli_args *a);
/* Of what was opened and closed with --rescue: is something lost, inferred or still wrong? */
bool cli_rescue_doubts(const struct cli_args *a);
const char *cli_donor(const struct cli_args *a); /* NULL: none */
bool cli_looks_deep(const struct cli_args *a); /* --deep */
/* For whoever opens disks without cli_open(). */
int cli_rescue_flags(const struct cli_args *a, struct plt_open_options *opts);
/* What of a disk that was read (NULL allowed) is lost, before it is closed; and close it. */
void cli_rescue_tell(const struct cli_args *a, struct plt_disk *disk);
void cli_close(const struct cli_args *a, struct plt_disk *disk);
void cli_report_finding(const struct cli_args *a, const struct plt_check_finding *f);
bool cli_trusts_likely(const struct cli_args *a); /* --trust */
const char *cli_plan_file(const struct cli_args *a); /* --plan; NULL: not given */
bool cli_plan_has_place(const struct cli_args *a);   /* where one is to be written: may it be?  If not, that is said */
/* What the plan of a repair leaves: into the report; whether there is any doubt. */
bool cli_reports(const struct cli_args *a); /* --report */
struct cli_doubts {
	uint64_t lost, inferred; /* bytes, of the disk and of snapshots */
};
bool cli_report_plan(const struct cli_args *a, struct plt_repair *rep, const char *name, const char *format,
		     struct cli_doubts *ret);
/* After the command: the report is written; the exit status. */
int cli_rescue_end(struct cli_args *a, int status);

/* ---- messages: text.c ------------------------------------------------------------------------ */

extern const char *cli_program; /* basename of argv[0] */
extern const char *cli_verb;    /* the command's name, once it is known */
/* The one of @a (NULL: none yet) and @b that may have been meant by @given; never, when called as one of QEMU's programs. */
const char *cli_nearer(const char *given, const char *a, const char *b);

/* A name that an image holds, on stdout for a person: control characters are "?". */
void cli_put_name(const char *name);
/*
 * @text from an image, as stdout may have it: a terminal gets no control characters, anything else the bytes (scripts
 * compare them, and qemu-img prints them).  Valid until eight more were asked for.
 */
const char *cli_shown(const char *text);
void cli_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void cli_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* An error of usage: adds the hint at --help.  Returns 1. */
int cli_usage_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* "1.5 GiB", three significant digits as QEMU prints them. */
#define CLI_SIZE_MAX 32
void cli_human_size(uint64_t bytes, char ret[CLI_SIZE_MAX]);
void cli_print_snapshots(const struct plt_snapshot *v, unsigned n);
/* The value of a "format-specific" object, indented by @level steps of four. */
void cli_print_specific(const json_t *v, int level);

/* ---- JSON: json.c ---------------------------------------------------------------------------- */

void cli_print_json(const json_t *v); /* QEMU's layout and order of keys, and a newline */
/* A text that may hold any bytes (a file name). */
json_t *cli_json_text(const char *s);
json_t *cli_json_info(const struct plt_info *info);
json_t *cli_json_limits(const struct plt_info *info);

/* ---- findings: findings.c ------------------------------------------------------------------- */

struct cli_findings {
	bool orphans;     /* what nothing reaches may be what is left of a map */
	bool json;
	json_t *beyond; /* findings that qemu-img does not have; NULL in human form */
	uint64_t omitted;
};
/* For plt_check(): @arg is a struct cli_findings. */
void cli_found(void *arg, const struct plt_check_finding *f);
void cli_findings_flush(void); /* before anything else is printed */

/* ---- progress: progress.c -------------------------------------------------------------------- */

struct cli_progress {
	int mode;
	double skip, last; /* percent */
	uint64_t begin_ns, shown_ns;
	bool shown;
	bool any; /* there has been something to do */
};

/* @skip: percent between two lines of the plain form. */
void cli_progress_begin(struct cli_progress *p, const struct cli_args *a, double skip);
int cli_progress_tick(void *p, uint64_t done, uint64_t total); /* a plt_progress_fn */
void cli_progress_done(struct cli_progress *p);		       /* 100 % */
void cli_progress_end(struct cli_progress *p);		       /* the line is finished */
/* After the work has cleaned up: die of the signal that cancelled it, if one did. */
void cli_die_if_cancelled(void);

/* ---- work on an image that is one call: work.c ----------------------------------------------- */

struct cli_work {
	const char *name;
	const char *cache; /* as given; NULL: not */
	struct plt_open_options open;
	struct cli_progress progress;
	/* 0, or an error that is printed; the progress is ticked by cli_progress_tick(&w->progress) */
	int (*fn)(struct plt_ctx *ctx, struct cli_work *w, struct plt_error *err);
};
#define CLI_WORK_INIT(f) { .open = PLT_OPEN_OPTIONS_INIT, .fn = (f) }
int cli_work(struct cli_args *a, struct cli_work *w); /* the exit status, 0 or 1 */

/* ---- what a plan would change: edits.c -------------------------------------------------------- */

struct cli_edits {
	uint64_t edits, bytes;
};
void cli_edits(struct plt_repair *rep, struct cli_edits *ret);
void cli_print_edits(struct plt_repair *rep, const struct cli_edits *sum); /* "Plan: 2 edits, ..." */
/* False: no (then it is said that nothing has changed), or there is nobody to ask; @anybody: who pipes answers is somebody. */
bool cli_ask(const char *question, bool anybody);
void cli_print_repaired(const char *journal); /* "Repaired.", and the command that takes it back */

/* ---- help: help.c ---------------------------------------------------------------------------- */

void cli_print_version(void);
void cli_print_help(void);
void cli_print_command_help(const struct cli_command *cmd);
void cli_print_man(void);
int cli_complete(int argc, char **argv); /* the hidden interface of the bash completion */
extern const char *const cli_cache_modes[], *const cli_output_formats[];

/* ---- commands -------------------------------------------------------------------------------- */

extern const struct cli_command cli_amend, cli_bench, cli_bitmap, cli_chain, cli_check, cli_commit, cli_compare,
	cli_convert, cli_create, cli_dd, cli_df, cli_hash, cli_info, cli_io, cli_map, cli_measure, cli_rebase, cli_repair,
	cli_resize, cli_scan,
	cli_snapshot, cli_sparsify, cli_undo;

#endif
