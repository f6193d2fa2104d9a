#!/usr/bin/env bash
# Builds the CPU library with AddressSanitizer and UndefinedBehaviorSanitizer, beside the normal one,
# and runs the quick tests, those with odd sizes and those with odd values on it. About 8 minutes.
#
#     scripts/test_sanitized.sh [python]     one that has torch, pytest and what builds torchext
set -euo pipefail
python=$(command -v "${1:-python3}")
cd "$(dirname "$0")/.."
tests=$PWD/tests

export TORCHEXT_CUDA=0
# -O1: with all of -O3's unrolling the checks would take many minutes to compile. So would those of
# every pointer in use, of which AddressSanitizer sees what goes wrong.
export TORCHEXT_CXXFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=undefined \
-fno-sanitize=null,alignment,object-size,pointer-overflow -fno-omit-frame-pointer -g1 -O1"
"$python" setup.py -q build --build-base build/sanitized --build-lib build/sanitized/lib
cd build/sanitized/lib # Python looks in the current folder first: not for the normal package, then
export PYTHONPATH=$PWD

library() { ${CXX:-c++} -print-file-name="$1"; }
run() {
    # Python is not instrumented: the runtime has to be there before it, and libstdc++, whose
    # exceptions the runtime watches, as well. What Python leaks at its end is not ours.
    LD_PRELOAD="$(library libasan.so) $(library libstdc++.so)" \
        ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 "$python" "$@"
}
run "$tests/guard_pages.py"
run -m pytest -q -p no:cacheprovider "$tests/test_tiny.py"
# Triton's interpreter runs none of this library's code.
run -m pytest -q -p no:cacheprovider "$tests/test_specials.py" -k "not triton"
