#!/usr/bin/env bash
# Gates this machine's stack: is it fit, its sessions, and their comparison with a baseline. The exit status is the
# verdict's: 7 also for a machine that is not fit, 2 where what is required is missing. Everything comes from the
# environment, nothing is pasted into a command:
#   RECORDS   folder that the sessions, verdict.json and verdict.md are written to; must be new
#   SESSIONS  how many; 5 decide, 1 shows large changes only
#   BASELINE  folder of the baseline's sessions; empty: record only
#   HISTORY   folder in which this machine's sessions of all nights are kept, to be drawn over time; empty: none
#   REQUIRE   engine or backend that must be there; empty: none
#   PLANS     folder of the plan cache; empty: the default
#   BENCH     more arguments for pytest, separated by spaces or lines
#   PYTHON    of the environment, .venv/bin/python by default
set -euo pipefail
python=${PYTHON:-.venv/bin/python}
# All lines of it: a workflow that calls may give several.
read -d "" -ra bench <<<"${BENCH:-}" || true
if [[ -n ${PLANS:-} ]]; then bench+=("--plan-cache=$PLANS"); fi
require=()
if [[ -n ${REQUIRE:-} ]]; then require=(--require "$REQUIRE"); fi
if [[ -e $RECORDS ]]; then
    echo "RECORDS=$RECORDS exists; name a new folder" >&2
    exit 2
fi
if [[ -n ${BASELINE:-} && ! -d $BASELINE ]]; then
    echo "BASELINE=$BASELINE does not exist; promote sessions to it, or leave it empty to record only" >&2
    exit 2
fi
"$python" -m trtgate doctor "${require[@]}"
status=0
"$python" -m trtgate sessions "${SESSIONS:-1}" --save gate -- --require-trained "--benchmark-storage=file://$RECORDS" "${require[@]}" "${bench[@]}" || status=$?
if [[ $status -ne 0 && $status -ne 6 ]]; then exit "$status"; fi
if [[ -n ${BASELINE:-} ]]; then
    compared=0
    "$python" -m trtgate compare "$BASELINE" "$RECORDS" --json "$RECORDS/verdict.json" --markdown "$RECORDS/verdict.md" || compared=$?
    if [[ $compared -ne 0 ]]; then status=$compared; fi
fi
# What was decided stands, whatever becomes of the history.
remember() {
    mkdir -p "$HISTORY" || return
    for session in "$RECORDS"/*/*_gate.json; do
        kept=$HISTORY/$(date -u +%Y%m%d%H%M%S)$(basename "$session")
        # Whole or not at all: half a session would be told of every night.
        if ! { cp "$session" "$kept.part" && mv "$kept.part" "$kept"; }; then
            rm -f "$kept.part"
            return 1
        fi
    done
    find "$HISTORY" -name '*_gate.json' | sort | head -n -100 | xargs -r -d '\n' rm
}
if [[ -n ${HISTORY:-} ]]; then
    remember || echo "HISTORY=$HISTORY cannot be written; make room there, or name another folder" >&2
    # A trend decides nothing, and there is none on the first night.
    "$python" -m trtgate report "$HISTORY" --trend --json "$RECORDS/trend.json" --html "$RECORDS/trend.html" || true
fi
exit "$status"
