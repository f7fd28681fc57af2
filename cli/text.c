/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Text for people: messages and tables.  Invariant: layout and rounding are qemu-img's to the
 * column, for scripts read them.
 */
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/jsontext.h"
#include "base/shown.h"
#include "cli/cli.h"

const char *cli_program = "platter", *cli_verb;

static void __attribute__((format(printf, 2, 0)))
message(const char *kind, const char *fmt, va_list ap)
{
	fprintf(stderr, "%s: %s", cli_program, kind);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
}

/* A terminal obeys control characters, and a line ends where there is one. */
void cli_put_name(const char *name)
{
	char *text = strdup(name);

	if (text)
		plt_text_clean(text, false);
	fputs(text ? text : "?", stdout);
	free(text);
}

const char *cli_shown(const char *text)
{
	static char *kept[8];
	static unsigned next;
	static int terminal = -1;

	if (terminal < 0)
		terminal = isatty(STDOUT_FILENO);
	if (!terminal)
		return text;
	next = (next + 1) % PLT_ARRAY_SIZE(kept);
	free(kept[next]);
	kept[next] = strdup(text);
	if (!kept[next])
		return "?";
	plt_text_clean(kept[next], false);
	return kept[next];
}

void cli_error(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	message("", fmt, ap);
	va_end(ap);
}

void cli_warn(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	message("warning: ", fmt, ap);
	va_end(ap);
}

/* Who calls it qemu-img expects that one's words. */
static bool is_platter(void)
{
	return strcmp(cli_program, "qemu-img") && strcmp(cli_program, "qemu-io");
}

int cli_usage_error(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	message("", fmt, ap);
	va_end(ap);
	if (cli_verb && is_platter())
		fprintf(stderr, "Try '%s %s --help' for more information\n", cli_program, cli_verb);
	else
		fprintf(stderr, "Try '%s --help' for more information\n", cli_program);
	return 1;
}

/* How many letters have to be put in, left out or replaced to make @b of @a; short words. */
static unsigned distance(const char *a, const char *b)
{
	unsigned row[32];
	size_t n = strlen(b);

	if (n >= PLT_ARRAY_SIZE(row))
		return UINT_MAX;
	for (unsigned j = 0; j <= n; j++)
		row[j] = j;
	for (unsigned i = 1; a[i - 1]; i++) {
		unsigned diagonal = row[0];

		row[0] = i;
		for (unsigned j = 1; j <= n; j++) {
			unsigned replaced = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			row[j] = PLT_MIN(replaced, PLT_MIN(row[j], row[j - 1]) + 1);
		}
	}
	return row[n];
}

const char *cli_nearer(const char *given, const char *a, const char *b)
{
	unsigned d = strlen(given) < 32 ? distance(given, b) : UINT_MAX;

	return is_platter() && d < 3 && d < strlen(given) && (!a || d < distance(given, a)) ? b : a;
}

void cli_human_size(uint64_t bytes, char ret[CLI_SIZE_MAX])
{
	static const char *const units[] = { "", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei" };
	unsigned unit = 0;
	double v = (double)bytes;

	/* 1000 and not 1024: four digits would need a power of ten with %.3g. */
	while (v >= 1000 && unit < 6) {
		v /= 1024;
		unit++;
	}
	snprintf(ret, CLI_SIZE_MAX, "%.3g %sB", v, units[unit]);
}

void cli_print_snapshots(const struct plt_snapshot *v, unsigned n)
{
	char size[CLI_SIZE_MAX], date[32], clock[64], icount[32];

	printf("%-10s%-17s%8s%20s%13s%11s\n", "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT");
	for (unsigned i = 0; i < n; i++) {
		uint64_t ms = v[i].vm_clock_nsec / 1000000, s = ms / 1000;
		time_t t = v[i].date_sec;
		struct tm tm;

		if (!localtime_r(&t, &tm) ||
		    !strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm))
			date[0] = '\0';
		snprintf(clock, sizeof(clock), "%02" PRIu64 ":%02u:%02u.%03u", s / 3600,
			 (unsigned)(s / 60 % 60), (unsigned)(s % 60), (unsigned)(ms % 1000));
		icount[0] = '\0';
		if (v[i].icount != -1)
			snprintf(icount, sizeof(icount), "%" PRId64, v[i].icount);
		cli_human_size(v[i].vm_state_size, size);
		printf("%-9s %-16s %8s%20s%13s%11s\n", cli_shown(v[i].id), cli_shown(v[i].name), size, date, clock,
		       icount);
	}
}

static bool is_composite(const json_t *v)
{
	return json_is_object(v) || json_is_array(v);
}

static void print_member(const char *label, const json_t *v, int level)
{
	printf("%*s%s:%c", 4 * level, "", label, is_composite(v) ? '\n' : ' ');
	cli_print_specific(v, level + 1);
	if (!is_composite(v))
		putchar('\n');
}

void cli_print_specific(const json_t *v, int level)
{
	switch (json_typeof(v)) {
	case JSON_OBJECT: {
		const char **order = plt_json_order(v);

		for (size_t i = 0; order && order[i]; i++) {
			char label[128];

			snprintf(label, sizeof(label), "%s", cli_shown(order[i]));
			for (char *p = label; *p; p++)
				if (*p == '-')
					*p = ' ';
			print_member(label, json_object_get(v, order[i]), level);
		}
		free(order);
		break;
	}
	case JSON_ARRAY:
		for (size_t i = 0; i < json_array_size(v); i++) {
			char label[32];

			snprintf(label, sizeof(label), "[%zu]", i);
			print_member(label, json_array_get(v, i), level);
		}
		break;
	case JSON_STRING:
		fputs(cli_shown(json_string_value(v)), stdout);
		break;
	case JSON_INTEGER:
		printf("%" JSON_INTEGER_FORMAT, json_integer_value(v));
		break;
	case JSON_REAL:
		printf("%.17g", json_real_value(v));
		break;
	case JSON_TRUE:
	case JSON_FALSE:
		fputs(json_is_true(v) ? "true" : "false", stdout);
		break;
	case JSON_NULL:
		break;
	}
}
