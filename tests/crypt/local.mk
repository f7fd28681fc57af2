# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

unit_tests += \
	tests/crypt/test-cipher \
	tests/crypt/test-luks \
	tests/crypt/test-secret \
	$(NULL)

tests_crypt_test_cipher_SOURCES = tests/crypt/test-cipher.c
tests_crypt_test_luks_SOURCES = tests/crypt/test-luks.c
tests_crypt_test_secret_SOURCES = tests/crypt/test-secret.c

tsan_tests += \
	tests/crypt/test-cipher \
	$(NULL)
