#!/usr/bin/env bash
# Everything that needs a GPU, on a machine without network: build, op tests, compute-sanitizer,
# benchmarks. In steps, each remembered in $STATE once it is done, so an interrupted run goes on.
#
#   benchmarks/gpu.sh             the steps that are not done, for at most $LIMIT_S seconds
#   benchmarks/gpu.sh bench ...   only these steps, even if done
#   benchmarks/gpu.sh --list      the steps and their state
#
# Exit status: 0 all done; 1 a step failed (its log is named); 75 out of time, run it again.
# Needs torch with CUDA, nvcc, a C++ compiler, ninja, setuptools, pybind11; pytest for the op tests.

set -u
cd "$(dirname "$0")/.." || exit 1

PYTHON=${PYTHON:-python3}
STATE=${STATE:-build/gpu}
RESULTS=${RESULTS:-benchmarks/results}
LIMIT_S=${LIMIT_S:-530}
TEST_SELECTION=(-m gpu)
# Small, and every kernel once. Only torchext's kernels are instrumented.
SANITIZER_SELECTION=(tests/test_ops.py -m gpu -k "test_error_rule and cuda and not triton")
SANITIZER_OPTIONS=(--target-processes all --kernel-name kns=torchext --error-exitcode 9)

STEPS=(check build)
for file in tests/test_*.py; do STEPS+=("test-$(basename "$file" .py)"); done
STEPS+=(memcheck racecheck initcheck synccheck bench report)

LEFT_OUT=77 # a step's status where this machine lacks what it needs
site=$(realpath -m "$STATE")/site # where the build goes if the environment can't be written to
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}

# Runs a command for no longer than what is left of $LIMIT_S.
limited() {
  local left=$((LIMIT_S - SECONDS))
  ((left > 0)) || return 124
  timeout --kill-after=10 "$left" "$@"
}

has_pytest() {
  "$PYTHON" -c "import pytest" 2>/dev/null && return
  echo "pytest is not installed (pip install pytest)"
  return 1
}

# Status 5: nothing selected.
tests() {
  has_pytest || return "$LEFT_OUT"
  limited "$@"
  local status=$?
  ((status == 5)) || return "$status"
}

sanitize() { # the tool
  if ! command -v compute-sanitizer >/dev/null; then
    echo "compute-sanitizer is not in PATH (it comes with the CUDA toolkit)"
    return "$LEFT_OUT"
  fi
  # torch's cache would hide what lies beyond a tensor's end.
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 tests compute-sanitizer --tool "$1" "${SANITIZER_OPTIONS[@]}" \
    "$PYTHON" -m pytest -q -x "${SANITIZER_SELECTION[@]}"
}

run_step() {
  case $1 in
    check)
      "$PYTHON" -c "
import sys, torch
print(sys.version, torch.__version__, torch.version.cuda)
assert torch.cuda.is_available(), 'torch finds no GPU'
print(torch.cuda.get_device_properties(0))
import pybind11, setuptools
" && command -v ninja && { nvcc --version || "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" --version; }
      ;;
    build)
      local install=("$PYTHON" -m pip install --no-build-isolation --no-deps --no-index)
      export TORCHEXT_CUDA=1
      limited "${install[@]}" . || {
        echo "the environment can't be installed into: installing to $site"
        rm -rf "$site" && limited "${install[@]}" --target "$site" .
      } || return
      "$PYTHON" -m torchext info
      ;;
    test-*) tests "$PYTHON" -m pytest -q "tests/${1#test-}.py" "${TEST_SELECTION[@]}" ;;
    memcheck | racecheck | initcheck | synccheck) sanitize "$1" ;;
    # Saved after each case; --resume goes on where an earlier call ran out of time.
    bench) limited "$PYTHON" -m torchext bench --device cuda --json "$RESULTS" --resume ;;
    report) limited "$PYTHON" -m benchmarks.report ;;
  esac
}

if [[ ${1-} == --list ]]; then
  for step in "${STEPS[@]}"; do
    if [[ -e $STATE/$step.done ]]; then echo "$step: done"; else echo "$step"; fi
  done
  exit 0
fi

mkdir -p "$STATE" "$RESULTS"
failed=0
wanted=("$@")
(($#)) || wanted=("${STEPS[@]}")
for step in "${wanted[@]}"; do
  [[ $# -eq 0 && -e $STATE/$step.done ]] && continue
  if [[ " ${STEPS[*]} " != *" $step "* ]]; then
    echo "gpu.sh: no step is called $step: see --list" >&2
    exit 2
  fi
  rm -f "$STATE/$step.done"
  echo "== $step"
  run_step "$step" 2>&1 | tee "$STATE/$step.log"
  status=${PIPESTATUS[0]}
  if ((status == 0)); then
    touch "$STATE/$step.done"
  elif ((status == LEFT_OUT)); then
    echo "== $step is left out"
  elif ((status == 124 || status == 137)); then
    echo "== out of time in step $step: run benchmarks/gpu.sh again to go on"
    exit 75
  else
    echo "== $step failed (status $status): see $STATE/$step.log"
    failed=1
    [[ $step == check || $step == build ]] && exit 1
  fi
done
exit "$failed"
