# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

unit_tests += tests/block/test-codec
tests_block_test_codec_SOURCES = tests/block/test-codec.c
tsan_tests += tests/block/test-codec

unit_tests += tests/block/test-data
tests_block_test_data_SOURCES = tests/block/test-data.c
