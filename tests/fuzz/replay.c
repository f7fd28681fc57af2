/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * A main() for fuzz targets in builds without libFuzzer: feeds the target each file named on the
 * command line, and each file of a folder named there, in the order of their names.  A target that
 * returns has passed; one that must not return aborts or is stopped by a sanitizer.  Having run
 * nothing is a failure, so that a lost corpus is noticed.  Finding new inputs is left to libFuzzer.
 */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static unsigned runs;

static int replay_file(const char *path)
{
	FILE *f = fopen(path, "rb");
	uint8_t *buf = NULL;
	struct stat sb;
	int ret = -1;

	if (!f || fstat(fileno(f), &sb) < 0) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		goto out;
	}
	/* Exactly as long as the file, so that a sanitizer sees the first byte read beyond it. */
	buf = malloc(sb.st_size ? (size_t)sb.st_size : 1);
	if (!buf || fread(buf, 1, (size_t)sb.st_size, f) != (size_t)sb.st_size) {
		fprintf(stderr, "%s: cannot read it whole\n", path);
		goto out;
	}
	fprintf(stderr, "replay %s\n", path);
	(void)LLVMFuzzerTestOneInput(buf, (size_t)sb.st_size); /* libFuzzer's: carries no verdict */
	runs++;
	ret = 0;
out:
	free(buf);
	if (f)
		fclose(f);
	return ret;
}

static int replay_dir(const char *path)
{
	struct dirent **names;
	int n = scandir(path, &names, NULL, alphasort);
	int ret = n < 0 ? -1 : 0;

	if (n < 0)
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
	for (int i = 0; i < n; i++) {
		char *file = NULL;

		if (names[i]->d_name[0] != '.') {
			if (asprintf(&file, "%s/%s", path, names[i]->d_name) < 0) {
				file = NULL;
				ret = -1;
			} else if (replay_file(file) < 0) {
				ret = -1;
			}
		}
		free(file);
		free(names[i]);
	}
	if (n >= 0)
		free(names);
	return ret;
}

int main(int argc, char **argv)
{
	struct stat sb;
	int ret = 0;

	for (int i = 1; i < argc; i++) {
		if (stat(argv[i], &sb) < 0) {
			fprintf(stderr, "%s: %s\n", argv[i], strerror(errno));
			ret = 1;
		} else if ((S_ISDIR(sb.st_mode) ? replay_dir(argv[i]) : replay_file(argv[i])) < 0) {
			ret = 1;
		}
	}
	if (!runs) {
		fprintf(stderr, "usage: %s FILE|FOLDER...; nothing was run\n", argv[0]);
		ret = 1;
	}
	return ret;
}
