/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */

/*
 * The one table of drivers, in probe order.  This file alone names them; an explicit table survives
 * static linking and shows every format on one screen.
 */
#include <string.h>

#include "formats/driver.h"

extern const struct plt_driver qcow2_driver, raw_driver, vhd_driver;

const struct plt_driver *const plt_drivers[] = {
	&qcow2_driver,
	&vhd_driver,
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
