# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

script_tests += \
	tests/cli/amend.sh \
	tests/cli/bench.sh \
	tests/cli/bitmap.sh \
	tests/cli/chain.sh \
	tests/cli/check-formats.sh \
	tests/cli/check.sh \
	tests/cli/commit.sh \
	tests/cli/compare.sh \
	tests/cli/convert.sh \
	tests/cli/create.sh \
	tests/cli/dd.sh \
	tests/cli/df.sh \
	tests/cli/hash.sh \
	tests/cli/help.sh \
	tests/cli/info.sh \
	tests/cli/io-faults.sh \
	tests/cli/io.sh \
	tests/cli/map.sh \
	tests/cli/measure.sh \
	tests/cli/names.sh \
	tests/cli/pieces.sh \
	tests/cli/progress.sh \
	tests/cli/rebase.sh \
	tests/cli/repair.sh \
	tests/cli/resize.sh \
	tests/cli/usage.sh \
	$(NULL)

EXTRA_DIST += \
	tests/cli/amend-refused.out \
	tests/cli/amend.out \
	tests/cli/bench.out \
	tests/cli/bitmap.out \
	tests/cli/check.out \
	tests/cli/commit.out \
	tests/cli/compare.out \
	tests/cli/convert-refused.out \
	tests/cli/convert.out \
	tests/cli/create-help.out \
	tests/cli/create-refused.out \
	tests/cli/create.out \
	tests/cli/dd-refused.out \
	tests/cli/dd.out \
	tests/cli/info-chain.out \
	tests/cli/info.out \
	tests/cli/io-aio.out \
	tests/cli/io-data.out \
	tests/cli/io-image.out \
	tests/cli/io-nodes.out \
	tests/cli/io-rest.out \
	tests/cli/map.out \
	tests/cli/measure-refused.out \
	tests/cli/measure.out \
	tests/cli/rebase.out \
	tests/cli/resize-refused.out \
	tests/cli/resize.out \
	tests/cli/transcript.sh \
	tests/cli/usage.out \
	$(NULL)
