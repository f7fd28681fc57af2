/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_TESTS_FAULT_SCENARIOS_H
#define PLT_TESTS_FAULT_SCENARIOS_H

/*
 * What a guest may do to an image so that each way of changing its metadata is taken at least
 * once. Played over a write log for the power cuts, and over failing stores for the errors.
 */
#include "tests/fault/rig.h"

struct scenario {
	const char *name;
	struct rig_layout layout;
	void (*prepare)(
		struct rig *r);	   /* on the bare stores; leaves it closed.  NULL: a new image */
	int (*run)(struct rig *r); /* on the open disk, as far as it succeeds; the caller closes */
	unsigned states;	   /* most states to be looked at; 0: the suite's own bound */
};

extern const struct scenario scenarios_qcow2[];  /* scenarios-qcow2.c */
extern const unsigned scenarios_qcow2_count;
extern const struct scenario scenarios_manage[]; /* scenarios-manage.c */
extern const unsigned scenarios_manage_count;
extern const struct scenario scenarios_vhd[];    /* scenarios-vhd.c */
extern const unsigned scenarios_vhd_count;
#define SCENARIOS (scenarios_qcow2_count + scenarios_manage_count + scenarios_vhd_count)
const struct scenario *scenario_at(unsigned i); /* of all */
const struct scenario *scenario_find(const char *name);

/* For those who write scenarios: leave the run at the first failure. */
#define TRY(call)                                                                                  \
	do {                                                                                       \
		int try_ = (call);                                                                 \
		if (try_ < 0)                                                                      \
			return try_;                                                               \
	} while (0)

#define KIB 1024u

/* Of qcow2, for .prepare: three quarters are written; clusters are shared with a snapshot. */
void scenario_prepare_full(struct rig *r);
void scenario_prepare_snapshot(struct rig *r);

/* Prepare, record a run with rules switched off, close.  Ready for rig_cut_power(). */
struct rig *scenario_record(const struct scenario *s, uint64_t seed, uint64_t rules_off);

#endif
