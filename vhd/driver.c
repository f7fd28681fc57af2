/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* The VHD driver's table: nothing but the list of what the other files do. */
#include <string.h>

#include "vhd/check.h"

/*
 * As QEMU by the first bytes alone, so a fixed VHD, which starts with what its guest wrote, is never
 * found by a guess; and its guest cannot make a raw disk be taken for one by writing a footer at its end.
 */
static int vhd_probe(const uint8_t *buf, size_t len, uint64_t size)
{
	(void)size;
	return len >= 8 && !memcmp(buf, VHD_COOKIE, 8) ? 100 : 0;
}

static uint32_t cluster_size(struct plt_image *img)
{
	return vhd_of(img)->block_size;
}

/* vhd-util is told a name; these are what its callers choose. */
static const char *const journals[] = { ".vjournal", ".journal", ".jrn", NULL };

const struct plt_driver vhd_driver = {
	.name = "vpc",
	.alias = "vhd",
	.flags = PLT_DRIVER_BACKING | PLT_DRIVER_MENDS | PLT_DRIVER_PARTS,
	.create_opts = vhd_create_opts,
	.open_opts = vhd_open_opts,
	.probe = vhd_probe,
	.open = vhd_open,
	.close = vhd_close,
	.find_backing = vhd_find_backing,
	.check_backing = vhd_check_backing,
	.any_parent = "parent-check=off",
	.adopt_parent = vhd_adopt_parent,
	.map = vhd_map,
	.place = vhd_place,
	.publish = vhd_publish,
	.withdraw = vhd_withdraw,
	.write_zeroes = vhd_write_zeroes,
	.discard = vhd_discard,
	.make_empty = vhd_make_empty,
	.set_backing = vhd_set_backing,
	.identity = vhd_identity,
	.release = vhd_release,
	.work = vhd_work,
	.first_write = vhd_first_write,
	.resize = vhd_resize,
	.create = vhd_create,
	.info = vhd_info,
	.cluster_size = cluster_size,
	.examine = vhd_examine,
	.recognise = vhd_recognise,
	.journals = journals,
	.replay = vhd_replay,
	.show_pieces = vhd_show_pieces,
	.map_pieces = vhd_map_pieces,
};
