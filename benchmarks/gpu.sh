#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Build, test and time on a machine with a GPU, without network, in one call of under ten minutes.
#
#   benchmarks/gpu.sh FOLDER [STEP ...]
#
# Steps, in this order unless named: tests, fisher, memcheck, kernels, racecheck, sweep; the build always goes
# first. A step that fails, or runs out of its time, stops none of the others. FOLDER gets, flat:
# summary.json (each step's status, seconds and last lines), log.txt (all they said), and the results
# fisher.json, sweep.json and kernels.json. Python is $PYTHON, else python3; it must have torch, setuptools,
# pybind11, ninja, pytest, hypothesis and pytest-benchmark. Peers that it lacks are left out, and said to be.
set -u
[ $# -ge 1 ] || { sed -n '3,14s/^# \{0,1\}//p' "$0"; exit 2; }
mkdir -p "$1" && folder=$(cd "$1" && pwd) || exit 2
shift
[ $# -ge 1 ] || set -- tests fisher memcheck kernels racecheck sweep
cd "$(dirname "$0")/.." || exit 2

python=${PYTHON:-python3}
limit=${LIMIT:-570} # seconds for everything
log=$folder/log.txt
steps=$(mktemp -d)
trap 'rm -rf "$steps"' EXIT
: >"$log"

# step NAME SECONDS COMMAND...: run it, for no longer than that and than what is left of the whole.
step() {
  local name=$1 most=$2 left=$((limit - SECONDS)) status start=$SECONDS
  shift 2
  [ "$most" -lt "$left" ] || most=$left
  printf '\n== %s: %s\n' "$name" "$*" >>"$log"
  if [ "$most" -lt 10 ]; then
    status=skipped
    echo "no time left" >"$steps/$name.out"
  else
    timeout --kill-after=5 "$most" "$@" >"$steps/$name.out" 2>&1
    status=$? # 124 or 137: its time was over
  fi
  cat "$steps/$name.out" >>"$log"
  echo "$name $status $((SECONDS - start)) $most" >>"$steps/order"
  echo "== $name: status $status after $((SECONDS - start)) s"
  summarise
}

# Written after each step, so that something is there whenever the machine stops.
summarise() {
  "$python" - "$steps" "$folder/summary.json" <<'PYTHON'
import json, pathlib, subprocess, sys

steps, out = map(pathlib.Path, sys.argv[1:])
rows = []
for line in (steps / "order").read_text().splitlines():
    name, status, seconds, most = line.split()
    said = (steps / f"{name}.out").read_text(errors="replace").splitlines()
    rows.append({
        "step": name,
        "passed": status == "0",
        "status": int(status) if status.isdigit() else status,
        "seconds": int(seconds),
        "limit_seconds": int(most),
        "tail": said[-30:],
    })
query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.max.sm,memory.total", "--format=csv"]
try:
    gpu = subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.splitlines()
except (OSError, subprocess.TimeoutExpired) as error:
    gpu = [str(error)]
content = {"passed": all(row["passed"] for row in rows), "gpu": gpu, "steps": rows}
out.write_text(json.dumps(content, indent=2) + "\n")
PYTHON
}

sanitizer() {
  # every tensor in memory of its own: within torch's pool an overrun would meet no fence
  if command -v compute-sanitizer >/dev/null; then
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 step "$1" 150 compute-sanitizer --tool "$1" --error-exitcode 99 \
      "$python" -m pytest -x -q -m cuda -p no:cacheprovider tests/ops
  else
    step "$1" 20 sh -c 'echo "compute-sanitizer is not installed"; exit 127'
  fi
}

# for the device that is here alone: half the time to compile
archs=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())' 2>/dev/null)
install=("$python" -m pip install --quiet --no-build-isolation --no-deps --editable .)
UNLEARNKIT_CUDA=1 UNLEARNKIT_CUDA_ARCHS=${UNLEARNKIT_CUDA_ARCHS:-${archs:-90}} step build 240 "${install[@]}"
if ! grep -q '^build 0 ' "$steps/order"; then
  step build-without-cuda 120 env UNLEARNKIT_CUDA=0 "${install[@]}"
fi
step device 60 "$python" -c 'import unlearnkit, torch; unlearnkit.show_config(); torch.zeros(1).cuda()'

for name in "$@"; do
  case $name in
    tests) step tests 150 "$python" -m pytest -q -m cuda -p no:cacheprovider ;;
    memcheck | racecheck) sanitizer "$name" ;;
    fisher) step fisher 200 "$python" benchmarks/fisher.py --device cuda --rounds 3 --calls 3 --out "$folder/fisher.json" ;;
    sweep) step sweep 150 "$python" benchmarks/fisher.py --device cuda --sweep --rounds 3 --calls 3 --out "$folder/sweep.json" ;;
    kernels)
      step kernels 90 "$python" -m pytest -q -m cuda -p no:cacheprovider benchmarks/test_kernels.py \
        --benchmark-json="$folder/kernels.json"
      ;;
    *) echo "unknown step $name" >&2 ;;
  esac
done
grep -q '"passed": true,' "$folder/summary.json" && ! grep -q '"passed": false' "$folder/summary.json"
