#!/usr/bin/env bash
# Races two versions against each other: an environment for each, then `trtgate ab`. From the environment:
#   OLD, NEW  one package with its version each, such as tensorrt==10.13.0.35
#   COMMON    what both need besides, packages separated by spaces or lines, such as "pycuda cuda-python nvidia-ml-py"
#   ENVS      folder of the two environments
#   RECORDS   folder that ab.json and ab.md are written to
#   PLANS     folder of the plan cache; empty: the default
#   ENGINES   engines to race, separated by spaces or lines; empty: the default
#   AB        more arguments for `trtgate ab`, separated by spaces or lines
#   PYTHON    of trtgate's own environment, .venv/bin/python by default
set -euo pipefail
python=${PYTHON:-.venv/bin/python}
# All lines of each.
read -d "" -ra more <<<"${AB:-}" || true
if [[ -n ${PLANS:-} ]]; then more+=("--plan-cache=$PLANS"); fi
read -d "" -ra engines <<<"${ENGINES:-}" || true
for engine in "${engines[@]}"; do more+=("--engine=$engine"); done
read -d "" -ra common <<<"${COMMON:-}" || true
for package in "${common[@]}"; do
    if [[ ! $package =~ ^[A-Za-z0-9][A-Za-z0-9._=\<\>!~*-]*$ ]]; then
        echo "COMMON: $package is no package; give names, separated by spaces" >&2
        exit 2
    fi
done
for side in OLD NEW; do
    package=${!side}
    if [[ ! $package =~ ^[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.+]+$ ]]; then
        echo "$side=$package is no package with its version; give NAME==VERSION" >&2
        exit 2
    fi
    venv=$ENVS/${side,,}
    if [[ -e $venv && ! -e $venv/pyvenv.cfg ]]; then
        echo "ENVS: $venv is there and no environment; name another folder" >&2
        exit 2
    fi
done
for side in OLD NEW; do
    venv=$ENVS/${side,,}
    # What another upgrade left there would be a part of this one.
    "$python" -m venv "$venv" --clear
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements-worker.txt "${common[@]}" "${!side}"
done
mkdir -p "$RECORDS"
"$python" -m trtgate ab --old "$ENVS/old/bin/python" --new "$ENVS/new/bin/python" \
    --json "$RECORDS/ab.json" --markdown "$RECORDS/ab.md" "${more[@]}"
