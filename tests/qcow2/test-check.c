/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/* qcow2/check*.c: each kind of damage is found under its name, with qemu-img's counts. */
#include <stdatomic.h>
#include <stdio.h>

#include "base/checked.h"
#include "tests/qcow2/make.h"

/* A sound image with three mapped guest clusters; *l2 and data[] say where things are. */
static struct plt_store *sound(const char *options, uint64_t *l2, uint64_t data[3])
{
	struct plt_store *st = make_image(options, 64 << 20);

	for (unsigned i = 0; i < 3; i++)
		data[i] = map_cluster(st, i);
	*l2 = get64(st, L1) & QCOW2_L1_OFFSET;
	return st;
}

enum how {
	NOTHING, LEAK, MISSING, OUTSIDE, UNALIGNED, RESERVED, NOT_COPIED, NOT_COPIED_L1, L1_RESERVED, L1_UNALIGNED,
	SHARED, SHARED_COUNTED, INTO_L1, INTO_L1_COUNTED, RT_RESERVED, RT_UNALIGNED, RT_OUTSIDE, RT_NONE, CMP_COPIED,
	CMP_OUTSIDE, ZERO_UNALIGNED, SIZE_SMALL, SIZE_ZERO, CUT_L2, CUT_DATA, TWO_L1, SNAP_BEYOND, DIRTY,
	STATE_APART, SIZE_APART,
};

static const struct {
	enum how how;
	unsigned corruptions, leaks, errors, beyond;
	const char *id, *text;
} cases[] = {
	{ NOTHING, 0, 0, 0, 0, NULL, NULL },
	{ LEAK, 0, 1, 0, 0, "Q-LEAK", "Leaked cluster 8 refcount=1 reference=0" },
	{ MISSING, 2, 0, 0, 0, "Q-REF-LOW", "ERROR cluster 5 refcount=0 reference=1" },
	{ OUTSIDE, 2, 1, 0, 0, "Q-ENT-OUTSIDE", "exceeding the end of the file by one cluster or more: offset 0x100000000 size 0x10000" },
	{ UNALIGNED, 2, 0, 0, 0, "Q-ENT-ALIGN", "ERROR offset=50200: Data cluster is not properly aligned; L2 entry corrupted." },
	{ RESERVED, 1, 0, 0, 0, "Q-ENT-RESERVED", "ERROR found l2 entry with reserved bits set: 8000000000050010" },
	{ NOT_COPIED, 1, 0, 0, 0, "Q-COPIED", "ERROR OFLAG_COPIED data cluster: l2_entry=50000 refcount=1" },
	{ NOT_COPIED_L1, 1, 0, 0, 0, "Q-COPIED-L1", "ERROR OFLAG_COPIED L2 cluster: l1_index=0 l1_entry=40000 refcount=1" },
	{ L1_RESERVED, 1, 0, 0, 0, "Q-L1-RESERVED", "ERROR found L1 entry with reserved bits set: 8000000000040001" },
	{ L1_UNALIGNED, 1, 2, 0, 0, "Q-L1-ALIGN", "ERROR l2_offset=40200: Table is not cluster aligned; L1 entry corrupted" },
	{ SHARED, 1, 1, 0, 0, "Q-REF-LOW", "ERROR cluster 5 refcount=1 reference=2" },
	{ SHARED_COUNTED, 0, 1, 0, 2, "Q-OVL-SHARED", "shared by 2 guest clusters" },
	{ INTO_L1, 1, 1, 0, 0, "Q-REF-LOW", "ERROR cluster 3 refcount=1 reference=2" },
	{ INTO_L1_COUNTED, 0, 1, 0, 1, "Q-OVL-DATA", "is in use as metadata" },
	{ RT_RESERVED, 1, 1, 0, 0, "Q-REF-TABLE", "ERROR refcount table entry 0 has reserved bits set" },
	{ RT_UNALIGNED, 1, 0, 8, 0, "Q-REF-TABLE", "ERROR refcount block 0 is not cluster aligned; refcount table entry corrupted" },
	{ RT_OUTSIDE, 1, 0, 0, 0, "Q-REF-OUTSIDE", "ERROR refcount block 1 is outside image" },
	{ RT_NONE, 11, 0, 0, 0, "Q-REF-LOW", "ERROR cluster 0 refcount=0 reference=1" },
	{ CMP_COPIED, 1, 0, 0, 0, "Q-CMP-COPIED", "ERROR: coffset=0x50000: copied flag must never be set for compressed clusters" },
	{ CMP_OUTSIDE, 1, 1, 0, 0, "Q-CMP-OUTSIDE", "exceeding the end of the file" },
	{ ZERO_UNALIGNED, 2, 0, 0, 0, "Q-ENT-ALIGN-ZERO", "Preallocated cluster is not properly aligned" },
	{ SIZE_SMALL, 0, 0, 0, 1, "Q-HDR-SIZE", "ERROR 2 clusters are mapped behind the end of the disk (65536 bytes)" },
	{ SIZE_ZERO, 0, 0, 0, 1, "Q-HDR-SIZE", "ERROR 3 clusters are mapped behind the end of the disk (0 bytes)" },
	{ CUT_L2, 3, 0, 0, 1, "Q-TRUNC", "inside an L2 table" },
	{ CUT_DATA, 0, 0, 0, 1, "Q-TRUNC-LAST", "ERROR the last cluster is cut short" },
	{ TWO_L1, 1, 0, 0, 0, "Q-REF-LOW", "ERROR cluster 4 refcount=1 reference=2" },
	{ SNAP_BEYOND, 0, 0, 0, 1, "Q-SNAP", "Snapshot table lies beyond the end of the file" },
	{ DIRTY, 0, 0, 0, 0, "Q-HDR-DIRTY", "not closed cleanly" },
	{ STATE_APART, 0, 0, 0, 0, "Q-VMSTATE", "1 clusters hold the state of a VM that no snapshot names" },
	{ SIZE_APART, 0, 0, 0, 1, "Q-HDR-SIZE", "ERROR 1 clusters are mapped behind the end of the disk" },
};

/*
 * A cluster is mapped in the place of L1 entry 2, of an L1 table of @l1_size entries; the disk needs one.  A
 * table that grows for a VM's state has 2, 3, 5... entries.
 */
static void map_behind(struct plt_store *st, uint32_t l1_size)
{
	uint64_t end = plt_align_up(size_of(st), CL);

	ck_assert_int_eq(plt_store_truncate(st, end + 2 * CL, NULL), 0);
	put16(st, REFBLOCK + end / CL * 2, 1);
	put16(st, REFBLOCK + end / CL * 2 + 2, 1);
	put32(st, 36, l1_size);
	put64(st, L1 + 16, end | QCOW2_COPIED);
	put64(st, end + 77 * 8, (end + CL) | QCOW2_COPIED);
}

static void damage(struct plt_store *st, enum how how, uint64_t l2, const uint64_t data[3])
{
	switch (how) {
	case LEAK: put16(st, REFBLOCK + 8 * 2, 1); ck_assert_int_eq(plt_store_truncate(st, 9 * CL, NULL), 0); break;
	case MISSING: put16(st, REFBLOCK + data[0] / CL * 2, 0); break; /* COPIED disagrees too */
	case OUTSIDE: put64(st, l2, UINT64_C(0x100000000) | QCOW2_COPIED); break; /* COPIED, count 0 */
	case UNALIGNED: put64(st, l2, (data[0] + 512) | QCOW2_COPIED); break; /* reaches into the next cluster */
	case RESERVED: put64(st, l2, data[0] | 16 | QCOW2_COPIED); break;
	case NOT_COPIED: put64(st, l2, data[0]); break;
	case NOT_COPIED_L1: put64(st, L1, l2); break;
	case L1_RESERVED: put64(st, L1, l2 | 1 | QCOW2_COPIED); break;
	case L1_UNALIGNED: put64(st, L1, (l2 + 512) | QCOW2_COPIED); break;
	case SHARED: put64(st, l2 + 8, data[0] | QCOW2_COPIED); break;
	case SHARED_COUNTED:
		put64(st, l2 + 8, data[0]);
		put64(st, l2, data[0]);
		put16(st, REFBLOCK + data[0] / CL * 2, 2);
		break;
	case INTO_L1: put64(st, l2, L1 | QCOW2_COPIED); break;
	case INTO_L1_COUNTED: put64(st, l2, L1); put16(st, REFBLOCK + 3 * 2, 2); break;
	case RT_RESERVED: put64(st, REFTABLE, REFBLOCK | 8); break;
	case RT_UNALIGNED: put64(st, REFTABLE, REFBLOCK | 512); break;
	case RT_OUTSIDE: put64(st, REFTABLE + 8, UINT64_C(1) << 40); break;
	case RT_NONE: put64(st, REFTABLE, 0); put16(st, REFBLOCK + 2 * 2, 0); break;
	case CMP_COPIED: put64(st, l2, data[0] | QCOW2_COMPRESSED | QCOW2_COPIED); break;
	case CMP_OUTSIDE: put64(st, l2, UINT64_C(0x10000000) | QCOW2_COMPRESSED); break;
	case ZERO_UNALIGNED: put64(st, l2, (data[0] + 512) | 1 | QCOW2_COPIED); break;
	case SIZE_SMALL: put64(st, 24, 65536); break;
	case SIZE_ZERO: put64(st, 24, 0); break;
	case CUT_L2: ck_assert_int_eq(plt_store_truncate(st, l2 + 1000, NULL), 0); break;
	case CUT_DATA: ck_assert_int_eq(plt_store_truncate(st, data[2] + 1000, NULL), 0); break;
	case TWO_L1: put32(st, 36, 2); put64(st, L1 + 8, l2 | QCOW2_COPIED); break;
	case SNAP_BEYOND: put32(st, 60, 3); put64(st, 64, UINT64_C(1) << 30); break;
	case DIRTY: put64(st, 72, QCOW2_INCOMPAT_DIRTY); break;
	case STATE_APART: map_behind(st, 3); break;
	case SIZE_APART: map_behind(st, 4); break;
	default: break;
	}
}

START_TEST(damage_is_found)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st;
	uint64_t l2, data[3];
	struct found f;

	st = sound("", &l2, data);
	ck_assert_uint_eq(l2, 4 * CL);
	damage(st, cases[_i].how, l2, data);
	ck_assert_msg(examine(st, &f, &err) == 0, "case %d: %s", _i, err.text);
	if (cases[_i].how == TWO_L1) { /* the three data clusters, counted twice, as well; and what is behind the end */
		ck_assert_uint_eq(f.corruptions, 4);
		ck_assert(has_text(&f, cases[_i].text));
		plt_store_unref(st);
		return;
	}
	ck_assert_msg(f.corruptions == cases[_i].corruptions && f.leaks == cases[_i].leaks &&
		      f.errors == cases[_i].errors && f.beyond == cases[_i].beyond,
		      "case %d: %u corruptions, %u leaks, %u errors, %u beyond; %s | %s | %s", _i, f.corruptions, f.leaks,
		      f.errors, f.beyond, f.texts[0], f.texts[1], f.texts[2]);
	if (cases[_i].id) {
		ck_assert_msg(has_id(&f, cases[_i].id), "case %d: %s %s", _i, f.ids[0], f.texts[0]);
		ck_assert_msg(has_text(&f, cases[_i].text), "case %d: %s | %s", _i, f.texts[0], f.texts[1]);
	} else {
		ck_assert_uint_eq(f.n, 0);
		ck_assert_uint_eq(f.totals.allocated_clusters, 3);
		ck_assert_uint_eq(f.totals.total_clusters, 1024);
		ck_assert_uint_eq(f.totals.image_end_offset, 8 * CL);
	}
	plt_store_unref(st);
}
END_TEST

/*
 * Two snapshots whose L1 tables lie in one place: their entries count twice.  If the one lies in the other,
 * neither is followed.
 */
START_TEST(snapshots_share_an_l1)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st;
	uint64_t l2, data[3], end;
	struct found f;

	st = sound("", &l2, data);
	end = plt_align_up(size_of(st), CL); /* L1 of the snapshots (two clusters), their table */
	ck_assert_int_eq(plt_store_truncate(st, end + 3 * CL, NULL), 0);
	put64(st, end, l2);
	put64(st, L1, l2);
	for (unsigned i = 0; i < 3; i++) {
		put64(st, l2 + i * 8, data[i]);
		put16(st, REFBLOCK + data[i] / CL * 2, 3);
	}
	put16(st, REFBLOCK + l2 / CL * 2, 3);
	put16(st, REFBLOCK + end / CL * 2, 2);
	put16(st, REFBLOCK + end / CL * 2 + 2, 2);
	put16(st, REFBLOCK + end / CL * 2 + 4, 1);
	for (unsigned i = 0; i < 2; i++) {
		uint64_t e = end + 2 * CL + i * 64;

		put64(st, e, end);
		put32(st, e + 8, CL / 8 + 1);
		put16(st, e + 12, 1); /* id */
		put16(st, e + 14, 1); /* name */
		put32(st, e + 36, 16);
		put64(st, e + 48, 64 << 20);
		put16(st, e + 56, (uint16_t)(('1' + i) << 8 | ('a' + i)));
	}
	put32(st, 60, 2);
	put64(st, 64, end + 2 * CL);
	ck_assert_msg(examine(st, &f, &err) == 0, "%s", err.text);
	ck_assert_msg(!f.corruptions && !f.leaks && !f.errors, "%s", f.texts[0]);
	ck_assert_uint_eq(f.beyond, 1); /* the table is another's too */
	put64(st, end + 2 * CL + 64, end + CL);
	ck_assert_msg(examine(st, &f, &err) == 0, "%s", err.text);
	ck_assert(has_text(&f, "ERROR snapshot 2 (b): its L1 table at offset"));
	ck_assert(has_text(&f, "overlaps another snapshot's; it is not followed"));
	plt_store_unref(st);
}
END_TEST

/* Thousands of references to one host cluster: counted exactly, far beyond what a cell holds. */
START_TEST(many_references)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st;
	uint64_t l2, data[3];
	struct found f;

	st = sound("", &l2, data);
	for (unsigned i = 3; i < 1003; i++)
		put64(st, l2 + i * 8, (data[2] + i * 60) | QCOW2_COMPRESSED);
	put64(st, l2 + 16, data[2] | QCOW2_COMPRESSED);
	put16(st, REFBLOCK + data[2] / CL * 2, 1001);
	ck_assert_msg(examine(st, &f, &err) == 0, "%s", err.text);
	ck_assert_msg(!f.corruptions && !f.leaks, "%s", f.texts[0]);
	ck_assert_uint_eq(f.totals.compressed_clusters, 1001);
	put16(st, REFBLOCK + data[2] / CL * 2, 1000);
	ck_assert_int_eq(examine(st, &f, &err), 0);
	ck_assert_uint_eq(f.corruptions, 1);
	ck_assert(has_text(&f, "ERROR cluster 7 refcount=1000 reference=1001"));
	plt_store_unref(st);
}
END_TEST

/* More references than a narrow count can say. */
START_TEST(overflow)
{
	struct plt_error err = PLT_ERROR_INIT;
	struct plt_store *st = make_image("refcount_bits=1,preallocation=metadata", 3 * CL);
	uint64_t l2 = get64(st, L1) & QCOW2_L1_OFFSET;
	struct found f;

	ck_assert_int_eq(examine(st, &f, &err), 0);
	ck_assert_uint_eq(f.n, 0);
	put64(st, l2 + 8, get64(st, l2));
	ck_assert_int_eq(examine(st, &f, &err), 0);
	ck_assert(has_id(&f, "Q-REF-OVERFLOW"));
	ck_assert_uint_eq(f.corruptions, 1);
	ck_assert_uint_eq(f.leaks, 1);
	plt_store_unref(st);
}
END_TEST

/* How many tables are read. */
static int count_tables(void *arg, enum plt_fault_op op, int tag, uint64_t off, uint64_t len)
{
	(void)off;
	if (op == PLT_FAULT_READ && tag == PLT_IO_L2)
		atomic_fetch_add((_Atomic uint64_t *)arg, len / 4096);
	return 0;
}

/* One round of repair of what lies in @st; the tables that it reads. */
static uint64_t mend_round(struct plt_store *st, struct found *f)
{
	struct plt_mend mend = { .what = PLT_MEND_ALL };
	struct plt_store *counting, *overlay;
	_Atomic uint64_t tables = 0;

	ck_assert_int_eq(plt_fault_new(st, &counting), 0);
	plt_fault_set_judge(counting, &(struct plt_fault_judge){ .before = count_tables, .arg = &tables });
	ck_assert_int_eq(plt_overlay_new(counting, true, &overlay), 0);
	ck_assert_int_eq(mend_store(overlay, &mend, f, NULL), 0);
	plt_mend_release(&mend);
	plt_store_unref(overlay);
	plt_store_unref(counting);
	return tables;
}

/*
 * Where all counts are lost each mark differs from them: a round reads tables no oftener for that.  What cannot be is
 * looked for in all of them as soon as a cluster is named twice: the table that is wrong may be the first that named it.
 */
START_TEST(counts_are_lost)
{
	const uint64_t tables = 8, per = 512, cl = 4096;
	struct plt_store *st = make_image("cluster_size=4k,preallocation=metadata", tables * per * cl);
	uint64_t l1 = get64(st, 40), rt = get64(st, 48), first = get64(st, l1) & QCOW2_L1_OFFSET, own, other = 0;
	uint8_t zeros[4096] = { 0 };
	struct found f;
	uint64_t usual = mend_round(st, &f);

	ck_assert_uint_eq(f.n, 0);
	for (uint64_t block, i = 0; (block = get64(st, rt + i * 8)) != 0; i++)
		ck_assert_int_eq(plt_store_write(st, block, zeros, sizeof(zeros), PLT_IO_OTHER, NULL), 0);
	ck_assert_uint_eq(mend_round(st, &f), usual);
	ck_assert(has_id(&f, "Q-REF-LOW"));
	/* one bit of an entry of the first table was turned: it names a cluster of a later one */
	for (uint64_t i = 0; i < per && !other; i++) {
		own = get64(st, first + i * 8);
		for (uint64_t bit = cl; bit < tables * per * cl && !other; bit <<= 1)
			for (uint64_t k = 1; k < tables && !other; k++)
				for (uint64_t e = 0, l2 = get64(st, l1 + k * 8) & QCOW2_L1_OFFSET; e < per && !other; e++)
					if (l2 > first && get64(st, l2 + e * 8) == (own ^ bit)) {
						other = own ^ bit;
						put64(st, first + i * 8, other);
					}
	}
	ck_assert_uint_ne(other, 0);
	put64(st, own & QCOW2_L2_OFFSET, 1); /* (it holds something) */
	(void)mend_round(st, &f);
	ck_assert_msg(has_text(&f, "; 1 were a bit"), "%s | %s", f.texts[0], f.texts[1]);
	plt_store_unref(st);
}
END_TEST

/* Any bytes in the tables: it ends, and says something; memory errors are for the sanitizers. */
START_TEST(any_bytes)
{
	static const char *const options[] = { "", "extended_l2=on", "compat=v2", "cluster_size=4k,refcount_bits=2" };
	uint64_t seed = plt_unit_seed();

	for (unsigned i = 0; i < 1500; i++) {
		const char *o = options[i % 4];
		struct plt_error err = PLT_ERROR_INIT;
		char text[100];
		struct plt_store *st;
		struct found f;
		uint64_t size;

		snprintf(text, sizeof(text), "%s%spreallocation=metadata", o, *o ? "," : "");
		st = make_image(text, 1 << 20);
		size = size_of(st);
		for (unsigned n = 1 + (unsigned)(plt_unit_random(&seed) % 6); n--;) {
			/* In the structures more often than in the data. */
			uint64_t at = plt_unit_random(&seed) % (n & 1 ? size : size / 4) / 8 * 8;
			uint64_t v = plt_unit_random(&seed);

			if (at < 24)
				continue;
			if (v & 1)
				v = (v & (QCOW2_COPIED | QCOW2_COMPRESSED)) | (v >> 8) % size / 4096 * 4096;
			put64(st, at, v);
		}
		if (plt_unit_random(&seed) % 8 == 0)
			ck_assert_int_eq(plt_store_truncate(st, plt_unit_random(&seed) % size, NULL), 0);
		if (examine(st, &f, &err) < 0)
			ck_assert(err.text[0]);
		plt_store_unref(st);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("qcow2/check");
	TCase *t = tcase_create("check");

	tcase_add_loop_test(t, damage_is_found, 0, (int)(sizeof(cases) / sizeof(cases[0])));
	tcase_add_test(t, many_references);
	tcase_add_test(t, snapshots_share_an_l1);
	tcase_add_test(t, overflow);
	tcase_add_test(t, counts_are_lost);
	tcase_add_test(t, any_bytes);
	suite_add_tcase(s, t);
	return plt_unit_main(s);
}
