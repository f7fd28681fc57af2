# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Sourced after tests/lib.sh by the proofs against peers.  A comparison here has two witnesses: what
# another program makes of an image, and where we wrote it, a model kept beside it.
#
#	WRITER      tests/fixtures/writer: writes through the library (see there)
#	SEED        where random work begins; printed, so that it can be repeated with PLT_SEED
#	next_seed   another one, in $seed
#	agree IMAGE DESCRIPTION [MODEL]
#	            one point: both programs read the same from it (and that is what MODEL holds), show
#	            the same map, and find it in order

WRITER=$builddir/tests/fixtures/writer
[ -x "$WRITER" ] || { echo "Bail out! $WRITER has not been built"; tap_done=1; exit 1; }

SEED=${PLT_SEED:-$((RANDOM << 15 | RANDOM))}
echo "# PLT_SEED=$SEED"
seed=$SEED
next_seed() { seed=$((seed + 1)); }

is_qemu_7() {
	command -v qemu-img >/dev/null && qemu-img --version | grep -q '^qemu-img version 7\.2'
}

# map_of PROGRAM [OPTION...] IMAGE: one line an extent: its end, and what it is.  Whether the file has
# holes where the format has data is left out: each program has its own rule when to ask, and what
# platter answers is held against the content instead.
map_of() {
	"$1" map --output=json "${@:2}" | tr -d '[]{}",' | awk '
		{
			delete is
			for (i = 1; i < NF; i += 2)
				is[$i] = $(i + 1)
			if (is["data:"] == "true")
				is["zero:"] = "-"
			what = is["depth:"] " " is["present:"] " " is["zero:"] " " is["data:"]
			shift = "offset:" in is ? is["offset:"] - is["start:"] : "-"
			if (NR > 1 && (what != last || shift != place))
				print end, last, place
			last = what
			place = shift
			end = is["start:"] + is["length:"]
		}
		END { print end, last, place }'
}

# check_of PROGRAM [OPTION...] IMAGE: the status and the counts.
check_of() {
	local status text

	text=$("$1" check --output=json "${@:2}" 2>/dev/null)
	status=$?
	printf '%s %s' "$status" "$(printf '%s' "$text" | tr -d ' \n' | tr ',{}' '\n' |
		grep -E '^"(corruptions|leaks|check-errors|image-end-offset|total-clusters|allocated-clusters|fragmented-clusters|compressed-clusters)":' |
		sort | tr '\n' ' ')"
}

# disagreement IMAGE [MODEL]: what agree() would say; nothing if all is well.
disagreement() {
	local q p out format

	format=$(qemu-img info -U --output=json "$1" | sed -n 's/^    "format": "\(.*\)",*$/\1/p')
	if ! out=$(qemu-img convert -f "$format" -O raw "$1" q.raw 2>&1); then
		echo "qemu-img convert: $out"
		return
	fi
	if ! out=$("$PLATTER" convert -f "$format" -O raw "$1" p.raw 2>&1); then
		echo "platter convert: $out"
		return
	fi
	cmp p.raw q.raw 2>&1 || echo '(platter, qemu-img)'
	if [ -n "${2:-}" ]; then
		cmp q.raw "$2" 2>&1 || echo '(qemu-img, the model)'
		out=$(qemu-img compare -f "$format" -F raw "$1" "$2" 2>&1) || echo "qemu-img compare: $out"
		out=$("$PLATTER" compare -f "$format" -F raw "$1" "$2" 2>&1) || echo "platter compare: $out"
	fi
	map_of qemu-img -f "$format" "$1" >q.map 2>&1
	map_of "$PLATTER" -f "$format" "$1" >p.map 2>&1
	"$WRITER" -r -f "$format" -m q.raw "$1" status 2>&1
	diff q.map p.map >map.diff 2>&1 || { echo 'map: < qemu-img, > platter'; head -n 8 map.diff; }
	if [ "$format" = qcow2 ]; then
		q=$(check_of qemu-img -f qcow2 "$1")
		p=$(check_of "$PLATTER" -f qcow2 "$1")
		case $q in 0\ *) ;; *) echo "qemu-img check: $(qemu-img check -f qcow2 "$1" 2>&1 | head -n 5)" ;; esac
		[ "$q" = "$p" ] || echo "check: qemu-img $q; platter $p"
	fi
}

agree() {
	local out

	out=$(disagreement "$1" "${3:-}")
	if [ -z "$out" ]; then
		pass "$2"
	else
		fail "$2" "seed $seed" "$out"
		[ -z "${STOP_AT_FIRST:-}" ] || { tap_done=1; KEEP_SCRATCH=1; exit 1; }
	fi
}

# model_of IMAGE MODEL: what the guest sees of it, from qemu-img.
model_of() {
	qemu-img convert -O raw "$1" "$2"
}

# by_them IMAGE COMMANDS: qemu-io takes the steps that the file names.
by_them() {
	qemu-io -f qcow2 "$1" <"$2" >io.log 2>&1
	! grep -iE '^(qemu-io: |.*(failed|error|invalid|not aligned|nrecognized|command not found))' io.log
}
