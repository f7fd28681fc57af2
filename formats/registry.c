/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The one table of drivers, in probe order.  This file alone names them; an explicit table survives
 * static linking and shows every format on one screen.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "formats/driver.h"

extern const struct plt_driver luks_driver, qcow_driver, qcow2_driver, raw_driver;

const struct plt_driver *const plt_drivers[] = {
	&qcow2_driver,
	&qcow_driver,
	&luks_driver,
	&raw_driver,
	NULL,
};

const struct plt_driver *plt_driver_find(const char *name)
{
	for (unsigned i = 0; plt_drivers[i]; i++)
		if (!strcmp(plt_drivers[i]->name, name) ||
		    (plt_drivers[i]->alias && !strcmp(plt_drivers[i]->alias, name)))
			return plt_drivers[i];
	return NULL;
}

/* What QEMU has beyond the table above. */
static const char *const elsewhere[] = {
	"bochs", "cloop", "dmg", "luks", "parallels", "qcow", "qed", "vdi", "vhdx", "vmdk", "vpc", "vvfat",
};

bool plt_format_is_known(const char *name)
{
	for (size_t i = 0; i < PLT_ARRAY_SIZE(elsewhere); i++)
		if (!strcmp(name, elsewhere[i]))
			return true;
	return plt_driver_find(name);
}

int plt_format_unknown(const char *name, struct plt_error *err)
{
	char list[256];
	size_t n = 0;

	if (!plt_format_is_known(name))
		return plt_error_set(err, EINVAL, "Unknown file format '%s'", name);
	for (unsigned i = 0; plt_drivers[i] && n < sizeof(list); i++)
		n += (size_t)snprintf(list + n, sizeof(list) - n, " %s", plt_drivers[i]->name);
	return plt_error_set(err, EINVAL, "Unknown file format '%s'\nThis release supports:%s", name, list);
}
