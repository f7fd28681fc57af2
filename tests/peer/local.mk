# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

script_tests += \
	tests/peer/amend-keys.sh \
	tests/peer/bitmaps.sh \
	tests/peer/cells.sh \
	tests/peer/chain.sh \
	tests/peer/chains.sh \
	tests/peer/clients.sh \
	tests/peer/commit.sh \
	tests/peer/errors.sh \
	tests/peer/features.sh \
	tests/peer/kernel.sh \
	tests/peer/locks.sh \
	tests/peer/luks.sh \
	tests/peer/options.sh \
	tests/peer/qcow1.sh \
	tests/peer/rebase.sh \
	tests/peer/repair.sh \
	tests/peer/resize.sh \
	tests/peer/roundtrip.sh \
	tests/peer/snapshot-ops.sh \
	tests/peer/snapshots.sh \
	tests/peer/vhd.sh \
	tests/peer/vmstate.sh \
	$(NULL)

EXTRA_DIST += tests/peer/calls.sh tests/peer/crypt.sh tests/peer/peer.sh tests/peer/vhdi.py
