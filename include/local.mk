# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

include_HEADERS = include/platter.h
