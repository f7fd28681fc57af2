/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * What `info` says beyond the sizes.  Of an ordinary image nothing, as qemu-img; something only where
 * there is a choice that others make otherwise: two sizes, a parent, a damaged footer.
 */
#include "base/zero.h"
#include "vhd/vhd.h"

static void size_trouble(const struct vhd_state *v, json_t *data)
{
	uint64_t chs = vhd_chs_sectors(&v->footer) * VHD_SECTOR;
	uint64_t current = plt_be64_get(v->footer.current_size);

	if (chs == current || chs == VHD_MAX_CHS * VHD_SECTOR)
		return;
	json_object_set_new(data, "size-from", json_string(v->by_chs ? "chs" : "current-size"));
	json_object_set_new(data, "current-size", json_integer((json_int_t)current));
	json_object_set_new(data, "chs-size", json_integer((json_int_t)chs));
	json_object_set_new(data, "geometry", json_sprintf("%u/%u/%u", plt_be16_get(v->footer.cylinders),
							   v->footer.heads, v->footer.sectors));
	json_object_set_new(data, "size-note", json_string(v->by_chs ?
		"this creator shows its guests what the geometry says; others show the current size" :
		"what goes by the geometry (Virtual PC; QEMU, of creators that it does not know) shows the chs-size"));
}

/* Only what is printable of four bytes that may be anything. */
static json_t *creator(const struct vhd_footer *f)
{
	char text[5];

	for (unsigned i = 0; i < 4; i++)
		text[i] = f->creator[i] >= ' ' && f->creator[i] < 0x7f ? (char)f->creator[i] : ' ';
	text[4] = 0;
	for (unsigned i = 4; i && text[i - 1] == ' '; i--)
		text[i - 1] = 0;
	return json_string(text);
}

json_t *vhd_info(struct plt_image *img)
{
	const struct vhd_state *v = vhd_of(img);
	json_t *data = json_object();
	char id[VHD_ID_TEXT];

	size_trouble(v, data);
	if (v->type == VHD_DIFFERENCING) {
		json_object_set_new(data, "subformat", json_string("differencing"));
		json_object_set_new(data, "parent-id", json_string(vhd_id_text(v->header.parent_id, id)));
	}
	if (v->type != VHD_FIXED && v->ends.head.state != VHD_COPY_GOOD)
		json_object_set_new(data, "footer", json_string("the copy at the start is damaged"));
	else if (v->type != VHD_FIXED && v->ends.tail.state != VHD_COPY_GOOD)
		json_object_set_new(data, "footer", json_string("missing or damaged; the copy at the start is used"));
	if (v->footer.saved_state)
		json_object_set_new(data, "saved-state", json_true());
	if (v->footer.hidden)
		json_object_set_new(data, "hidden", json_true());
	if (v->encrypted)
		json_object_set_new(data, "encrypted-by", json_string("XenServer"));
	if (!json_object_size(data)) {
		json_decref(data);
		return NULL;
	}
	json_object_set_new(data, "creator", creator(&v->footer));
	return json_pack("{s:s,s:o}", "type", "vpc", "data", data);
}

void vhd_identity(struct plt_image *img, struct plt_identity *ret)
{
	const struct vhd_state *v = vhd_of(img);
	uint32_t t;

	_Static_assert(VHD_ID_TEXT <= PLT_ID_TEXT, "");
	*ret = (struct plt_identity){ .parent_time = -1, .hidden = v->footer.hidden };
	if (!plt_is_zero(v->footer.id, 16))
		vhd_id_text(v->footer.id, ret->own);
	if (v->type != VHD_DIFFERENCING)
		return;
	if (!plt_is_zero(v->header.parent_id, 16))
		vhd_id_text(v->header.parent_id, ret->parent);
	t = plt_be32_get(v->header.parent_timestamp);
	if (t)
		ret->parent_time = (int64_t)t + VHD_EPOCH;
}
