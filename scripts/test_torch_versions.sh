#!/usr/bin/env bash
# One binary for every torch: builds torchext once, and runs the quick tests under other versions.
#
#     scripts/test_torch_versions.sh [version or environment ...]     default: 2.10.0 and the newest
#
# A version ("2.10.0", "newest") gets a virtual environment under build/, kept for the next time; a
# directory is taken as an environment that has torch, pytest and hypothesis.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
[[ $# -gt 0 ]] || set -- 2.10.0 newest

environments=()
for wanted in "$@"; do
    if [[ -d $wanted ]]; then
        environments+=("$(cd "$wanted" && pwd)")
        continue
    fi
    environment=$root/build/torch-$wanted
    if [[ ! -x $environment/bin/pytest ]]; then
        python3 -m venv "$environment"
        torch=torch==$wanted
        "$environment/bin/pip" install -q "${torch/==newest/}" numpy pytest hypothesis
    fi
    environments+=("$environment")
done

# Built with the first one's headers, run under all.
rm -rf build/wheel
"${environments[0]}/bin/pip" wheel -q --no-deps --wheel-dir build/wheel .
for environment in "${environments[@]}"; do
    installed=$environment/torchext-under-test
    rm -rf "$installed"
    "$environment/bin/pip" install -q --no-deps --target "$installed" build/wheel/*.whl
    cd "$installed"
    echo "== torch $("$environment/bin/python" -c 'import torch; print(torch.__version__)')"
    PYTHONPATH=$installed "$environment/bin/python" -m pytest -q -p no:cacheprovider \
        --rootdir "$root" "$root/tests/test_tiny.py"
    cd "$root"
done
