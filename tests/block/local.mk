# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

unit_tests += tests/block/test-codec
tests_block_test_codec_SOURCES = tests/block/test-codec.c
tsan_tests += tests/block/test-codec

unit_tests += tests/block/test-data
tests_block_test_data_SOURCES = tests/block/test-data.c

unit_tests += tests/block/test-races
tests_block_test_races_SOURCES = tests/block/test-races.c tests/block/lab.c tests/block/lab.h

unit_tests += tests/block/test-cache
tests_block_test_cache_SOURCES = \
	tests/block/cachebed.c \
	tests/block/cachebed.h \
	tests/block/lab.c \
	tests/block/lab.h \
	tests/block/test-cache-failing.c \
	tests/block/test-cache-qcow2.c \
	tests/block/test-cache.c \
	$(NULL)

unit_tests += tests/block/test-needs
tests_block_test_needs_SOURCES = \
	tests/block/exclusive.c \
	tests/block/exclusive.h \
	tests/block/lab.c \
	tests/block/lab.h \
	tests/block/test-needs.c \
	$(NULL)

unit_tests += tests/block/test-stress
tests_block_test_stress_SOURCES = tests/block/test-stress.c tests/block/lab.c tests/block/lab.h
tsan_tests += tests/block/test-stress

unit_tests += tests/block/test-queue
tests_block_test_queue_SOURCES = tests/block/test-queue.c
tsan_tests += tests/block/test-queue

unit_tests += tests/block/test-resize
tests_block_test_resize_SOURCES = tests/block/test-resize.c tests/block/lab.c tests/block/lab.h
tsan_tests += tests/block/test-resize

unit_tests += tests/block/test-rescue
tests_block_test_rescue_SOURCES = tests/block/test-rescue.c tests/block/lab.c tests/block/lab.h

unit_tests += tests/block/test-skip
tests_block_test_skip_SOURCES = tests/block/test-skip.c
tsan_tests += tests/block/test-skip

unit_tests += tests/block/test-waiting
tests_block_test_waiting_SOURCES = \
	tests/block/exclusive.c \
	tests/block/exclusive.h \
	tests/block/lab.c \
	tests/block/lab.h \
	tests/block/test-waiting.c \
	$(NULL)
