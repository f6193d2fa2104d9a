#!/usr/bin/env bash
# Builds the CUDA kernels for the emulator (csrc/emulator) into this tree, beside what it has, and
# runs every test of them.
#
#     scripts/test_emulated.sh     in an environment that has torchext[test]
set -euo pipefail
cd "$(dirname "$0")/.."
TORCHEXT_EMULATOR=1 TORCHEXT_CUDA=0 python setup.py build_ext --inplace
pip install -q --no-deps nvidia-cutlass || true # CuTe's layouts, to compare with
export PYTHONPATH=$PWD # not an installed torchext, which has no emulator
python -c 'from torchext import emulator; assert not emulator.why_not(), emulator.why_not()'
pytest -n auto -k emulator tests
