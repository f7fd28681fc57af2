# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

script_tests += \
	tests/tree/dist.sh \
	tests/tree/layers.sh \
	tests/tree/spdx.sh \
	tests/tree/symbols.sh \
	$(NULL)
