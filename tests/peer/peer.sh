# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Sourced after tests/lib.sh by the proofs against peers.  A comparison here has two witnesses: what
# another program makes of an image, and where we wrote it, a model kept beside it.
#
#	hold COMMAND...  starts a program that keeps its image open, and waits until it has it (it says
#	            "qemu-io>" or "ready"); let_go ends it
#	WRITER      tests/fixtures/writer: writes through the library (see there)
#	SEED        where random work begins; printed, so that it can be repeated with PLT_SEED
#	next_seed   another one, in $seed
#	agree IMAGE DESCRIPTION [MODEL]
#	            one point, of a qcow2 image: both programs read the same from it (and that is what
#	            MODEL holds), show the same map, and find it in order

WRITER=$builddir/tests/fixtures/writer
[ -x "$WRITER" ] || exit 99 # not built

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
	"$1" map --output=json "${@:2}" | awk -F '[][{}":, ]+' '
		{
			delete is
			for (i = 2; i < NF; i += 2)
				is[$i] = $(i + 1)
			if (is["data"] == "true")
				is["zero"] = "-"
			what = is["depth"] " " is["present"] " " is["zero"] " " is["data"]
			shift = "offset" in is ? is["offset"] - is["start"] : "-"
			if (NR > 1 && (what != last || shift != place))
				print end, last, place
			last = what
			place = shift
			end = is["start"] + is["length"]
		}
		END { print end, last, place }'
}

# check_of PROGRAM [OPTION...] IMAGE: the status and the counts.
check_of() {
	local status text key out

	text=$("$1" check --output=json "${@:2}" 2>/dev/null)
	status=$?
	for key in corruptions leaks check-errors image-end-offset total-clusters allocated-clusters \
		fragmented-clusters compressed-clusters; do
		[[ $text =~ \"$key\":\ ([0-9]+) ]] && out="${out:-} $key ${BASH_REMATCH[1]}"
	done
	printf '%s%s' "$status" "${out:-}"
}

# disagreement IMAGE [MODEL]: what agree() would say; nothing if all is well.
disagreement() {
	local q p out

	if ! out=$(qemu-img convert -f qcow2 -O raw "$1" q.raw 2>&1); then
		echo "qemu-img convert: $out"
		return
	fi
	if ! out=$("$PLATTER" convert -f qcow2 -O raw "$1" p.raw 2>&1); then
		echo "platter convert: $out"
		return
	fi
	cmp p.raw q.raw 2>&1 || echo '(platter, qemu-img)'
	if [ -n "${2:-}" ]; then
		cmp q.raw "$2" 2>&1 || echo '(qemu-img, the model)'
		out=$(qemu-img compare -f qcow2 -F raw "$1" "$2" 2>&1) || echo "qemu-img compare: $out"
		out=$("$PLATTER" compare -f qcow2 -F raw "$1" "$2" 2>&1) || echo "platter compare: $out"
	fi
	map_of qemu-img -f qcow2 "$1" >q.map 2>&1
	map_of "$PLATTER" -f qcow2 "$1" >p.map 2>&1
	"$WRITER" -r -f qcow2 -m q.raw "$1" status 2>&1
	diff q.map p.map >map.diff 2>&1 || { echo 'map: < qemu-img, > platter'; head -n 8 map.diff; }
	q=$(check_of qemu-img -f qcow2 "$1")
	p=$(check_of "$PLATTER" -f qcow2 "$1")
	case $q in 0\ *) ;; *) echo "qemu-img check: $(qemu-img check -f qcow2 "$1" 2>&1 | head -n 5)" ;; esac
	[ "$q" = "$p" ] || echo "check: qemu-img $q; platter $p"
}

agree() {
	local out

	out=$(disagreement "$1" "${3:-}")
	if [ -z "$out" ]; then
		pass "$2"
	else
		fail "$2" "seed $seed" "$out"
	fi
}

# model_of IMAGE MODEL: what the guest sees of it, from qemu-img.
model_of() {
	qemu-img convert -O raw "$1" "$2"
}

# by_them IMAGE COMMANDS: qemu-io takes the steps that the file names.
by_them() {
	qemu-io -t unsafe -f qcow2 "$1" <"$2" >io.log 2>&1
	! grep -iE '^(qemu-io: |.*(failed|error|invalid|not aligned|nrecognized|command not found))' io.log
}

# It has a pipe for its stdin, whose end it waits for.  No look at the image: that would take locks too.
hold() {
	local i

	rm -f hold.pipe hold.log
	mkfifo hold.pipe
	"$@" <hold.pipe >hold.log 2>&1 &
	holder=$!
	exec 8>hold.pipe
	for ((i = 0; i < 1000; i++)); do
		grep -qE '^(qemu-io>|ready)' hold.log && return
		kill -0 "$holder" 2>/dev/null || break
		sleep 0.01
	done
	fail "$* has not begun" "$(cat hold.log)"
}

let_go() {
	exec 8>&-
	wait "$holder"
}

# dirty IMAGE BITMAP: the dirty ranges, "start+length" each.  Wants qemu-nbd and nbdinfo.
dirty() {
	local socket=$SCRATCH/nbd.sock server i out

	rm -f "$socket"
	qemu-nbd -r -f qcow2 -B "$2" -k "$socket" "$1" &
	server=$!
	for ((i = 0; i < 500; i++)); do
		out=$(nbdinfo --map="qemu:dirty-bitmap:$2" "nbd+unix:///?socket=$socket" 2>/dev/null) && break
		kill -0 $server 2>/dev/null || break
		sleep 0.02
	done
	# It would end after its client, in its own time.
	kill -KILL $server 2>/dev/null
	wait $server 2>/dev/null
	[ -n "$out" ] || out='0 0 1 qemu-nbd has not answered'
	awk '$3 == 1 { printf "%s%.0f+%.0f", n++ ? " " : "", $1, $2 } END { print "" }' <<<"$out"
}
