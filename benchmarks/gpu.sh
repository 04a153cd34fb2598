#!/bin/bash
# All that a GPU machine is asked, in calls of less than ten minutes each.
#
#     benchmarks/gpu.sh [--budget SECONDS] [--results FOLDER] [--copy-to FOLDER] [--rehearse]
#
# Checks the machine, builds without a registry, runs the tests that need a GPU, then the parts of benchmarks/gpu.py in
# the order of their worth. FOLDER (build/gpu) gets the figures, a log of each step and `state`, where a second call
# finds what is done and what is left. Each step has a limit; one that the budget (570 s) cut off goes on where it was,
# one that failed or came to its limit is tried once more, goes on where it was, too, and then is left. `--copy-to` keeps
# a copy of the folder after each step.
# `--rehearse` does it on a CPU on the tests' stand-in, with tiny sizes and the environment as it is: nothing is built.
# Exit status: 0 all done; 3 call again; 1 something failed for good.
set -u
cd "$(dirname "$0")/.."
budget=570 results=build/gpu copy_to= rehearse=
while [ $# -gt 0 ]; do
    case "$1" in
        --budget) budget=$2; shift 2 ;;
        --results) results=$2; shift 2 ;;
        --copy-to) copy_to=$2; shift 2 ;;
        --rehearse) rehearse=--rehearse; shift ;;
        *) echo "gpu.sh: $1: not a flag" >&2; exit 2 ;;
    esac
done
python=$(command -v "${PYTHON:-python3}") || { echo "gpu.sh: no ${PYTHON:-python3}" >&2; exit 1; }
case "$python" in /*) ;; *) python=$PWD/$python ;; esac
deadline=$((SECONDS + budget))
mkdir -p "$results"
state=$results/state
touch "$state"
export PYTHONPATH=$PWD/.offline/site${PYTHONPATH:+:$PYTHONPATH}

machine() {
    "$python" - "$rehearse" <<'END'
import json, os, sys
import torch
facts = {"python": sys.version.split()[0], "torch": torch.__version__, "torch_cuda": torch.version.cuda,
         "cores": len(os.sched_getaffinity(0)), "rehearsal": bool(sys.argv[1])}
if not sys.argv[1]:
    if not torch.cuda.is_available():
        sys.exit(f"no GPU that this PyTorch can use: {facts}")
    free, total = torch.cuda.mem_get_info()
    facts |= {"gpu": torch.cuda.get_device_name(), "free_bytes": free, "total_bytes": total,
              "capability": torch.cuda.get_device_capability()}
    if free < 12 * 2**30:
        sys.exit(f"less than 12 GiB of GPU memory are free: {facts}")
print(json.dumps(facts))
END
    local code=$?
    if [ -z "$rehearse" ]; then nvidia-smi --query-gpu=name,driver_version,memory.free --format=csv; fi
    return $code
}

build() {
    if [ -z "$rehearse" ]; then
        "$python" -m pip install --no-index --no-build-isolation --no-deps --no-cache-dir . || return 1
    fi
    # Not from the checkout, which has no built extension.
    (cd "$results" && "$python" -c 'import envpool, fastdqn.api, fastdqn.replay, tyro')
}

tests() {
    if [ -n "$rehearse" ]; then
        "$python" -m pytest -x -q -p tests.engine.cuda_standin tests/engine/test_cuda.py -k "mirrored or restored"
    else
        "$python" -m pytest -q tests/engine/test_cuda.py
    fi
}

part() { "$python" benchmarks/gpu.py --part "$1" --out "$results/gpu-$1.json" $rehearse; }

# How often a word stands behind a step's name in the state.
times() { grep -c "^$1 $2" "$state"; }

# step NAME LIMIT COMMAND...: under its limit or what is left of the budget, unless it is done or failed twice.
step() {
    local name=$1 limit=$2 left began code
    shift 2
    [ "$(times "$name" done)" = 0 ] && [ "$(times "$name" failed)" -lt 2 ] || return 0
    left=$((deadline - SECONDS))
    if [ $left -lt 20 ]; then return 0; fi
    began=$SECONDS
    # A shell of its own, in the foreground, so that the limit ends its children, too.
    timeout --kill-after=5 $((limit < left ? limit : left)) bash -c "$shell_parts; $*" >>"$results/$name.log" 2>&1
    code=$?
    if [ $code = 0 ]; then echo "$name done $((SECONDS - began)) s"
    elif [ $limit -gt $left ] && { [ $code = 124 ] || [ $code = 137 ]; }; then echo "$name cut-off $((SECONDS - began)) s"
    else echo "$name failed $((SECONDS - began)) s, status $code"; fi | tee -a "$state"
    if [ -n "$copy_to" ]; then mkdir -p "$copy_to" && cp -r "$results/." "$copy_to/"; fi
    return 0
}

shell_parts=$(declare -p python results rehearse; declare -f machine build tests part)
step machine 60 machine
if [ "$(times machine done)" = 0 ]; then tail -n 3 "$results/machine.log" >&2; exit 1; fi
step build 240 build
if [ "$(times build done)" = 0 ]; then tail -n 3 "$results/build.log" >&2; exit 1; fi
step first 180 part first
step tests 420 tests
step profile 150 part profile
step end-to-end 560 part end-to-end
step micro 420 part micro
step learn 560 part learn
status=0
for name in first tests profile end-to-end micro learn; do
    [ "$(times $name done)" = 0 ] || continue
    if [ "$(times $name failed)" -lt 2 ]; then status=3; elif [ $status = 0 ]; then status=1; fi
done
exit $status
