/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * AES-256-XTS on all cores, five ways in turn, so that they meet the same machine:
 *
 *	cryptbench LUKS-IMAGE SECRET ROUNDS
 *
 *   speed     OpenSSL, units of 16 KiB, as `openssl speed -multi` measures
 *   sectors   OpenSSL's EVP interface, a new initial vector every 512 bytes, as LUKS wants it
 *   cipher    crypt/cipher.c
 *   reads     of 1 MiB of the image, through the block layer
 *   writes    the same; they change what is in the image
 *
 * Prints the median of each in MB/s.
 */
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "crypt/cipher.h"
#include "platter.h"

#define BUF (1 << 20)
#define SECONDS 0.25
#define MAX 64

enum way { WAY_SPEED, WAY_SECTORS, WAY_CIPHER, WAY_READ, WAY_WRITE, WAYS };
static const char *const names[] = { "speed", "sectors", "cipher", "reads", "writes" };

static struct plt_cipher *cipher;
static struct plt_disk *disk;
static uint8_t key[64];
static enum way way;
static volatile bool stop;

struct thread {
	pthread_t id;
	unsigned index;
	double bytes;
};

static void *run(void *arg)
{
	struct thread *t = arg;
	EVP_CIPHER *c = EVP_CIPHER_fetch(NULL, "AES-256-XTS", NULL);
	EVP_CIPHER_CTX *x = EVP_CIPHER_CTX_new();
	uint8_t *buf = aligned_alloc(4096, BUF), iv[16] = { 0 };
	uint64_t size = plt_disk_size(disk), off = size / 16 * t->index / BUF * BUF;
	struct plt_error err;
	int n;

	memset(buf, (int)t->index, BUF);
	EVP_DecryptInit_ex2(x, c, key, iv, NULL);
	while (!stop) {
		switch (way) {
		case WAY_SPEED:
			for (size_t i = 0; i < BUF; i += 16384)
				EVP_DecryptUpdate(x, buf + i, &n, buf + i, 16384);
			break;
		case WAY_SECTORS:
			for (size_t i = 0; i < BUF; i += 512) {
				memcpy(iv, &i, sizeof(i));
				EVP_CipherInit_ex2(x, NULL, NULL, iv, -1, NULL);
				EVP_DecryptUpdate(x, buf + i, &n, buf + i, 512);
			}
			break;
		case WAY_CIPHER:
			plt_cipher_decrypt(cipher, off / 512, buf, buf, BUF);
			break;
		default:
			if ((way == WAY_READ ? plt_read(disk, off, buf, BUF, &err) : plt_write(disk, off, buf, BUF, &err)) < 0) {
				fprintf(stderr, "cryptbench: %s\n", err.text);
				exit(1);
			}
			off = off + 2 * BUF <= size ? off + BUF : 0;
		}
		t->bytes += BUF;
	}
	free(buf);
	EVP_CIPHER_CTX_free(x);
	EVP_CIPHER_free(c);
	return NULL;
}

static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static double measure(unsigned threads)
{
	struct thread t[MAX];
	double begin = seconds(), bytes = 0;

	stop = false;
	for (unsigned i = 0; i < threads; i++) {
		t[i] = (struct thread){ .index = i };
		pthread_create(&t[i].id, NULL, run, &t[i]);
	}
	usleep((useconds_t)(SECONDS * 1e6));
	stop = true;
	for (unsigned i = 0; i < threads; i++) {
		pthread_join(t[i].id, NULL);
		bytes += t[i].bytes;
	}
	return bytes / 1e6 / (seconds() - begin);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	struct plt_open_options o = PLT_OPEN_OPTIONS_INIT;
	struct plt_cipher_spec spec = { PLT_AES_256, PLT_MODE_XTS, PLT_IV_PLAIN64, 0 };
	struct plt_error err = PLT_ERROR_INIT;
	const char *opts[] = { "key-secret=s", NULL };
	long cores = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned threads = cores < 1 ? 1 : cores > MAX ? MAX : (unsigned)cores, rounds;
	double v[WAYS][MAX];
	struct plt_ctx *ctx;
	char object[256];

	if (argc != 4)
		return 2;
	rounds = (unsigned)atoi(argv[3]);
	rounds = rounds < 1 ? 1 : rounds > MAX ? MAX : rounds;
	for (unsigned i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t)(i * 7);
	snprintf(object, sizeof(object), "secret,id=s,data=%s", argv[2]);
	o.format = "luks";
	o.flags = PLT_OPEN_WRITE;
	o.options = opts;
	if (plt_ctx_new(NULL, &ctx, &err) < 0 || plt_ctx_add_object(ctx, object, &err) < 0 ||
	    plt_disk_open(ctx, argv[1], &o, &disk, &err) < 0 || plt_cipher_new(&spec, key, 64, &cipher, &err) < 0) {
		fprintf(stderr, "cryptbench: %s\n", err.text);
		return 1;
	}
	for (unsigned r = 0; r < rounds; r++)
		for (way = 0; way < WAYS; way++)
			v[way][r] = measure(threads);
	for (way = 0; way < WAYS; way++) {
		qsort(v[way], rounds, sizeof(double), by_value);
		printf("%s %.0f\n", names[way], v[way][rounds / 2]);
	}
	plt_cipher_free(cipher);
	plt_disk_close(disk, NULL);
	plt_ctx_free(ctx);
	return 0;
}
