/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * JSON reports, in QEMU's layout and order of keys.  Invariant: only what is known is in a report;
 * a key that qemu-img leaves out for an image is left out here.
 */
#include <stdio.h>
#include <string.h>

#include "base/jsontext.h"
#include "cli/cli.h"

void cli_print_json(const json_t *v)
{
	plt_json_write(stdout, v, true, 0);
	putchar('\n');
}

json_t *cli_json_text(const char *s)
{
	return json_string_nocheck(s);
}

static json_t *snapshots(const struct plt_snapshot *v, unsigned n)
{
	json_t *list = json_array(), *o;

	for (unsigned i = 0; i < n; i++) {
		o = json_object();
		json_object_set_new(o, "id", cli_json_text(v[i].id));
		json_object_set_new(o, "name", cli_json_text(v[i].name));
		json_object_set_new(o, "vm-state-size",
				    json_integer((json_int_t)v[i].vm_state_size));
		json_object_set_new(o, "date-sec", json_integer(v[i].date_sec));
		json_object_set_new(o, "date-nsec", json_integer(v[i].date_nsec));
		json_object_set_new(o, "vm-clock-sec",
				    json_integer((json_int_t)(v[i].vm_clock_nsec / 1000000000)));
		json_object_set_new(o, "vm-clock-nsec",
				    json_integer((json_int_t)(v[i].vm_clock_nsec % 1000000000)));
		if (v[i].icount != -1)
			json_object_set_new(o, "icount", json_integer(v[i].icount));
		json_array_append_new(list, o);
	}
	return list;
}

json_t *cli_json_limits(const struct plt_info *info)
{
	const struct {
		const char *key;
		uint32_t value;
	} v[] = {
		{ "request-alignment", info->request_alignment },
		{ "discard-alignment", info->discard_alignment },
		{ "write-zeroes-alignment", info->write_zeroes_alignment },
		{ "max-iov", info->max_iov },
		{ "min-mem-alignment", info->mem_alignment },
		{ "opt-mem-alignment", info->opt_mem_alignment },
	};
	json_t *o = json_object();

	for (size_t i = 0; i < sizeof(v) / sizeof(v[0]); i++)
		if (v[i].value)
			json_object_set_new(o, v[i].key, json_integer(v[i].value));
	return o;
}

json_t *cli_json_info(const struct plt_info *info)
{
	json_t *o = json_object();

	json_object_set_new(o, "filename", cli_json_text(info->filename));
	json_object_set_new(o, "format", cli_json_text(info->format));
	json_object_set_new(o, "virtual-size", json_integer((json_int_t)info->virtual_size));
	if (info->actual_size >= 0)
		json_object_set_new(o, "actual-size", json_integer(info->actual_size));
	if (info->cluster_size)
		json_object_set_new(o, "cluster-size", json_integer(info->cluster_size));
	if (info->encrypted)
		json_object_set_new(o, "encrypted", json_true());
	if (info->compressed)
		json_object_set_new(o, "compressed", json_true());
	json_object_set_new(o, "dirty-flag", json_boolean(info->dirty));
	if (info->backing_filename)
		json_object_set_new(o, "backing-filename", cli_json_text(info->backing_filename));
	if (info->full_backing_filename)
		json_object_set_new(o, "full-backing-filename",
				    cli_json_text(info->full_backing_filename));
	if (info->backing_format)
		json_object_set_new(o, "backing-filename-format",
				    cli_json_text(info->backing_format));
	if (info->nsnapshots)
		json_object_set_new(o, "snapshots", snapshots(info->snapshots, info->nsnapshots));
	if (info->specific_json) {
		json_t *specific = json_loads(info->specific_json, 0, NULL);

		if (specific)
			json_object_set_new(o, "format-specific", specific);
	}
	return o;
}
