# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

libplatter_core_la_SOURCES += \
	crypt/cipher.c \
	crypt/cipher.h \
	crypt/hash.c \
	crypt/hash.h \
	crypt/legacy.c \
	crypt/luks.h \
	crypt/luks_amend.c \
	crypt/luks_header.c \
	crypt/luks_keys.c \
	crypt/luks_mend.c \
	crypt/luks_ondisk.h \
	crypt/luks_split.c \
	crypt/luks_split.h \
	crypt/secret.c \
	crypt/secret.h \
	$(NULL)
