# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# What the bench scripts share: where the data is, and interleaved runs of us and the peer.  A row is
# printed as
#
#	JOB                       ours    peer   ratio   to reach
#
# with medians of five in seconds; the ratio is peer / ours, so more is better.  The machine may be
# noisy: only ratios of one run mean anything.
#
#	BENCH_DIR   where images go (default: /dev/shm if it has room, else a folder in /tmp)
#	BENCH_RUNS  5
#	PLATTER     the program (default: ./platter)

set -u
PLATTER=$(readlink -f "${PLATTER:-./platter}")
BENCH_BIN=$(readlink -f "${BENCH_BIN:-./bench}")
BENCH_RUNS=${BENCH_RUNS:-5}
if [ -z "${BENCH_DIR:-}" ]; then
	BENCH_DIR=/tmp/platter-bench
	if [ "$(df --output=avail -k /dev/shm 2>/dev/null | tail -1)" -gt 16777216 ] 2>/dev/null; then
		BENCH_DIR=/dev/shm/platter-bench
	fi
fi
mkdir -p "$BENCH_DIR"
cd "$BENCH_DIR" || exit 1

need() {
	command -v "$1" >/dev/null || { echo "skipped: $1 is not installed"; exit 0; }
}
need qemu-img
[ -x "$BENCH_BIN/gen" ] || { echo "make bench builds $BENCH_BIN/gen first"; exit 1; }

# The standard disk: 4 GiB, half incompressible, 30 % text-like, 20 % zero.
standard() {
	[ -f std.raw ] || "$BENCH_BIN/gen" std.raw "${BENCH_GIB:-4}"
}

# 1 TiB with 1 GiB in it, qcow2 and raw.
sparse() {
	[ -f sparse.raw ] || "$BENCH_BIN/gen" sparse.raw 1 1024
}

# 120,000 clusters scattered over 1 TiB, a few bytes in each.
scattered() {
	[ -f scattered.qcow2 ] || "$BENCH_BIN/blkbench" scatter scattered.qcow2 1024 120000
}

now() { date +%s%N; }

# seconds COMMAND: how long it took; what it says on stderr goes to bench.log
seconds() {
	local t0 t1
	t0=$(now)
	bash -c "$1" >/dev/null 2>>bench.log || { echo "failed: $1 (see $BENCH_DIR/bench.log)" >&2; echo failed; return; }
	t1=$(now)
	echo "$(((t1 - t0) / 1000))e-6"
}

median() { sort -g | awk '{ v[NR] = $1 } END { printf "%.4f", v[int((NR + 1) / 2)] }'; }

# row NAME OURS PEER TARGET [BEFORE]: BEFORE runs, untimed, in front of each
row() {
	local name=$1 ours=$2 peer=$3 target=$4 before=${5:-:} a='' b='' i
	for ((i = 0; i < BENCH_RUNS; i++)); do
		bash -c "$before" >/dev/null 2>>bench.log
		a+="$(seconds "$ours") "
		bash -c "$before" >/dev/null 2>>bench.log
		b+="$(seconds "$peer") "
	done
	a=$(printf '%s\n' $a | median)
	b=$(printf '%s\n' $b | median)
	awk -v n="$name" -v a="$a" -v b="$b" -v t="$target" \
		'BEGIN { r = 0; if (a > 0) r = b / a; printf "%-52s %9.3f %9.3f %7.2f   %s\n", n, a, b, r, t }'
}

# rate NAME OURS PEER TARGET: commands that print a rate (more is better); medians, ratio ours / peer
rate() {
	local name=$1 ours=$2 peer=$3 target=$4 a='' b='' i
	for ((i = 0; i < BENCH_RUNS; i++)); do
		a+="$(bash -c "$ours" 2>>bench.log) "
		b+="$(bash -c "$peer" 2>>bench.log) "
	done
	a=$(printf '%s\n' $a | median)
	b=$(printf '%s\n' $b | median)
	awk -v n="$name" -v a="$a" -v b="$b" -v t="$target" \
		'BEGIN { r = 0; if (b > 0) r = a / b; printf "%-52s %9.0f %9.0f %7.2f   %s\n", n, a, b, r, t }'
}

# size NAME OURS PEER TARGET: bytes allocated of two files
size() {
	local a b
	a=$(du -k "$2" | cut -f1) b=$(du -k "$3" | cut -f1)
	awk -v n="$1" -v a="$a" -v b="$b" -v t="$4" \
		'BEGIN { printf "%-52s %9d %9d %7.2f   %s\n", n " (KiB)", a, b, a / b, t }'
}
