#!/usr/bin/env bash
# One machine with a CUDA GPU, for nine minutes at most: the emulator's and the trainer's tests there, then rows of Table 1.
#
#   benchmarks/gpu.sh wheels DIR          where there is a network: all that is needed but torch, as wheels in DIR
#   benchmarks/gpu.sh [OPTION …]          where the GPU is: needs a python3 with torch, and no network
#       --wheels DIR     what the first command filled; without it, the packages must be there
#       --data SPEC      CIFAR-10, e.g. npz:cifar10.npz; without it only the tests run
#       --out DIR        tests.log, throughput.log, tables/: training goes on there when run again; gpu-results by default
#       --minutes M      9 by default: training stops in time, and can be gone on with
#       --tiny           digits and one epoch: shows on any machine that it runs to the end
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1:-}" = wheels ]; then
    folder=${2:?the folder to fill}
    # torch and what belongs to it are the GPU machine's own
    grep -Ev '^(#|torch==|torchvision==|triton==|nvidia|sympy==|networkx==|mpmath==|cuda)' constraints.txt > "$folder.txt"
    python3 -m pip wheel --quiet --no-deps --wheel-dir "$folder" --requirement "$folder.txt"
    rm "$folder.txt"
    exit
fi

wheels='' data='' out=gpu-results minutes=9 tiny=''
while [ $# -gt 0 ]; do
    case $1 in
        --wheels) wheels=$2; shift ;;
        --data) data=$2; shift ;;
        --out) out=$2; shift ;;
        --minutes) minutes=$2; shift ;;
        --tiny) tiny=yes ;;
        *) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done
end=$(($(date +%s) + minutes * 60 - 20))
mkdir -p "$out"
out=$(cd "$out" && pwd)

python=${PYTHON:-python3}
if [ -n "$wheels" ]; then
    "$python" -m venv --system-site-packages "$out/venv"
    python=$out/venv/bin/python
    "$python" -m pip install --quiet --no-index --no-deps "$wheels"/*.whl
fi
export PYTHONPATH=$PWD
"$python" -c 'import torch; print("torch", torch.__version__, "on", torch.cuda.get_device_name() if torch.cuda.is_available() else "a machine without CUDA")'

# A command gets what is left of the time, and is interrupted in time to write its state.
within() {
    local left=$((end - $(date +%s)))
    if [ "$left" -lt 15 ]; then
        echo "no time left for: $*"
        return
    fi
    timeout --signal=INT --kill-after=15 "$left" "$@" || echo "ended with $?: $*"
}

within "$python" -m pytest -q -n0 -p no:cacheprovider \
    tests/hardware/test_emulator.py tests/hardware/test_device.py tests/kdsnn/test_train_device.py tests/kdsnn/test_train_neurons.py \
    2>&1 | tee "$out/tests.log" | tail -5

tables() {
    within "$python" -m benchmarks kdsnn_tables --config benchmarks/gpu.toml --out "$out/tables" "$@"
}
if [ -n "$tiny" ]; then
    tables --rows 3 --epochs 1 --teacher-epochs 1
elif [ -n "$data" ]; then
    tables --rows 1-2 --data "cifar10=$data"
else
    echo "no --data: nothing was trained"
fi
within "$python" -m benchmarks training_throughput ${tiny:+--quick} 2>&1 | tee "$out/throughput.log" | tail -40
