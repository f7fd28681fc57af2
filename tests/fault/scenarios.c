/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * All scenarios, by number and by name, and the recording of one.
 */
#include "tests/fault/scenarios.h"

#include <string.h>

#include "tests/unit.h"

const struct scenario *scenario_at(unsigned i)
{
	if (i < scenarios_qcow2_count)
		return &scenarios_qcow2[i];
	i -= scenarios_qcow2_count;
	if (i < scenarios_manage_count)
		return &scenarios_manage[i];
	return &scenarios_vhd[i - scenarios_manage_count];
}

const struct scenario *scenario_find(const char *name)
{
	for (unsigned i = 0; i < SCENARIOS; i++)
		if (!strcmp(scenario_at(i)->name, name))
			return scenario_at(i);
	ck_abort_msg("no scenario '%s'", name);
	return NULL;
}

struct rig *scenario_record(const struct scenario *s, uint64_t seed, uint64_t rules_off)
{
	struct rig *r = rig_new(&s->layout, seed);

	if (s->prepare)
		s->prepare(r);
	rig_record(r, rules_off);
	rig_must(r, s->run(r));
	rig_close(r);
	return r;
}
