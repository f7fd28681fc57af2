/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_GUESTFS_LVM_TEXT_H
#define PLT_GUESTFS_LVM_TEXT_H

/*
 * The text in which LVM keeps a volume group: sections in braces, and values.  Whoever has one asks it for values by
 * name.  The text is hostile: depth and number of what it contains are bounded.
 */
#include <stdbool.h>
#include <stdint.h>

#define PLT_LVM_TEXT_MAX (4u << 20)

/* A value, or a section with what it contains: [this + 1, end). */
struct plt_lvm_node {
	const char *name, *value; /* value NULL: a section.  Of a list its text with the brackets */
	uint32_t end;
};

struct plt_lvm_text {
	struct plt_lvm_node *v;
	uint32_t n;
	char *p;
};

/* Of @text, which is changed and must outlive *ret.  -EUCLEAN: it is none; -ENOMEM. */
int plt_lvm_text_parse(char *text, struct plt_lvm_text *ret);
void plt_lvm_text_release(struct plt_lvm_text *t);

/* In the section @in; NULL: at the top.  With @name NULL the first section. */
const struct plt_lvm_node *plt_lvm_find(const struct plt_lvm_text *t, const struct plt_lvm_node *in, const char *name,
					bool section);
bool plt_lvm_number(const struct plt_lvm_text *t, const struct plt_lvm_node *in, const char *name, uint64_t *ret);
bool plt_lvm_string_is(const struct plt_lvm_text *t, const struct plt_lvm_node *in, const char *name, const char *want);

/* A volume's id: 32 bytes on disk, in the text with dashes. */
#define PLT_LVM_ID 32
void plt_lvm_id_text(const uint8_t *id, char ret[PLT_LVM_ID + 7]);

#endif
