/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * Progress of long work, and its interruption.  Three forms: a line with rate and time left on a
 * terminal, qemu-img's "(12.34/100%)" on stdout with -p where that is no terminal, and one line on
 * stderr for each SIGUSR1.  Invariant: nothing is shown on what is no terminal unless it was asked
 * for.  The first SIGINT or SIGTERM lets the library clean up, the second kills.
 */
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"

enum { MODE_SILENT, MODE_PLAIN, MODE_LINE_NOW, MODE_LINE_LATER };

static volatile sig_atomic_t asked, killed;

static void on_usr1(int sig)
{
	(void)sig;
	asked = 1;
}

static void on_kill(int sig)
{
	killed = sig;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void catch_signals(void)
{
	struct sigaction usr1 = { .sa_handler = on_usr1, .sa_flags = SA_RESTART };
	struct sigaction kill1 = { .sa_handler = on_kill, .sa_flags = SA_RESTART | SA_RESETHAND },
			 old;

	sigaction(SIGUSR1, &usr1, NULL);
	/* Who runs us with a signal ignored (nohup, a shell's "&") wants it ignored. */
	if (sigaction(SIGINT, NULL, &old) == 0 && old.sa_handler != SIG_IGN)
		sigaction(SIGINT, &kill1, NULL);
	if (sigaction(SIGTERM, NULL, &old) == 0 && old.sa_handler != SIG_IGN)
		sigaction(SIGTERM, &kill1, NULL);
}

void cli_progress_begin(struct cli_progress *p, const struct cli_args *a, double skip)
{
	*p = (struct cli_progress){ .skip = skip, .begin_ns = now_ns() };
	if (a->quiet)
		p->mode = MODE_SILENT;
	else if (a->progress && !isatty(STDOUT_FILENO))
		p->mode = MODE_PLAIN;
	else if (isatty(STDERR_FILENO))
		p->mode = a->progress ? MODE_LINE_NOW : MODE_LINE_LATER;
	catch_signals();
	if (p->mode == MODE_PLAIN) {
		printf("    (%3.2f/100%%)\r", 0.0);
		fflush(stdout);
	}
}

static void show_plain(struct cli_progress *p, double percent)
{
	if (percent < 100 && percent < p->last + p->skip)
		return;
	p->last = percent;
	printf("    (%3.2f/100%%)\r", percent);
	fflush(stdout);
}

static void show_line(struct cli_progress *p, uint64_t done, uint64_t total)
{
	char size[CLI_SIZE_MAX], of[CLI_SIZE_MAX], rate[CLI_SIZE_MAX];
	uint64_t now = now_ns();
	double seconds = (double)(now - p->begin_ns) / 1e9, left;

	if (p->mode == MODE_LINE_LATER && seconds < 1)
		return;
	if (p->shown && now - p->shown_ns < 100000000)
		return;
	p->shown = true;
	p->shown_ns = now;
	cli_human_size(done, size);
	cli_human_size(total, of);
	cli_human_size(seconds > 0 ? (uint64_t)((double)done / seconds) : 0, rate);
	fprintf(stderr, "\r%5.1f %%  %s of %s  %s/s",
		total ? 100.0 * (double)done / (double)total : 100.0, size, of, rate);
	left = done ? seconds * ((double)total / (double)done - 1) : 0;
	/* The first second says little about the rest. */
	if (done && seconds > 1 && left < 360000)
		fprintf(stderr, "  %u:%02u left", (unsigned)left / 60, (unsigned)left % 60);
	fputs("\033[K", stderr);
	fflush(stderr);
}

int cli_progress_tick(void *arg, uint64_t done, uint64_t total)
{
	struct cli_progress *p = arg;
	double percent = total ? 100.0 * (double)done / (double)total : 0; /* 0: still being found out */

	p->any |= total > 0;
	if (percent > 100)
		percent = 100;
	/* 100 % is for cli_progress_done(): the last byte is not the last of the work. */
	if (p->mode == MODE_PLAIN && percent < 100)
		show_plain(p, percent);
	else if (p->mode != MODE_PLAIN && asked)
		fprintf(stderr, "    (%3.2f/100%%)\n", percent);
	asked = 0;
	if (p->mode == MODE_LINE_NOW || p->mode == MODE_LINE_LATER)
		show_line(p, done, total);
	return killed != 0;
}

void cli_progress_done(struct cli_progress *p)
{
	if (p->mode == MODE_PLAIN)
		show_plain(p, 100);
}

void cli_progress_end(struct cli_progress *p)
{
	if (p->mode == MODE_PLAIN) {
		putchar('\n');
		fflush(stdout);
	} else if (p->shown) {
		fputs("\r\033[K", stderr);
	}
}

void cli_die_if_cancelled(void)
{
	int sig = killed;

	if (!sig)
		return;
	fflush(stdout);
	signal(sig, SIG_DFL);
	raise(sig);
}
