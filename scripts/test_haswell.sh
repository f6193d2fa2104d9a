#!/usr/bin/env bash
# Runs the quick tests on emulated CPUs that lack AVX-512, and AVX2 too: an instruction that has
# slipped into the code for such a CPU ends them with SIGILL.
#
#     scripts/test_haswell.sh [python]     one that has torch, pytest and torchext; default: python3
#
# TESTS: what to run, default tests/test_tiny.py.
set -euo pipefail
python=$(command -v "${1:-python3}")
cd "$(dirname "$0")/.."

if ! command -v qemu-x86_64 > /dev/null; then
    apt-get update -qq && apt-get install -y -qq qemu-user > /dev/null
fi

run='import sys, pytest
from torchext import _load
isa = _load.cpu_library().torchext_cpu_isa().decode()
assert isa == sys.argv[1], f"runs {isa}, not {sys.argv[1]}"
sys.exit(pytest.main(sys.argv[2:]))'

for model in Haswell:avx2 Nehalem:generic; do
    echo "== ${model/:/, }"
    # The emulator's warnings name features of no use to us that it lacks.
    qemu-x86_64 -cpu "${model%:*}" "$python" -c "$run" "${model#*:}" -q -p no:cacheprovider \
        ${TESTS:-tests/test_tiny.py} 2> >(grep -v "TCG doesn't support" >&2)
done
