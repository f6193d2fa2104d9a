#!/usr/bin/env bash
# Builds the CPU library with AddressSanitizer and UndefinedBehaviorSanitizer, beside the normal one,
# and runs the quick tests, and a selection of the op tests, on it.
#
#     scripts/test_sanitized.sh [python]     one that has torch, pytest and what builds torchext
#
# TESTS: what to run instead.
set -euo pipefail
python=$(command -v "${1:-python3}")
cd "$(dirname "$0")/.."

export TORCHEXT_CUDA=0
# -O1: optimized, the checked kernels would take many minutes to compile.
export TORCHEXT_CXXFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined \
-fno-omit-frame-pointer -g1 -O1"
"$python" setup.py -q build --build-base build/sanitized --build-lib build/sanitized/lib

# Python itself is not instrumented: the runtime has to be there before it, and before it the C++
# library whose __cxa_throw it wraps. Python's own leaks at exit are not ours.
compiler=${CXX:-c++}
export LD_PRELOAD="$($compiler -print-file-name=libasan.so) $($compiler -print-file-name=libstdc++.so)"
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1

root=$PWD
cd build/sanitized/lib  # where the package is: Python looks in the folder it is started in first
run() { "$python" -m pytest -q -p no:cacheprovider "$@"; }
if [[ -n ${TESTS:-} ]]; then
    run $TESTS
    exit
fi
run "$root/tests/test_tiny.py"
