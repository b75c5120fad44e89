#!/usr/bin/env bash
# Checks and measures one GPU in at most ten minutes, most of them compilation. Results
# are JSON lines in OUTPUT, appended as they come, so that a script that is killed keeps
# what it has measured.
#
#   bash benchmarks/accelerator.sh [OUTPUT]          default: accelerator.jsonl
#   TINY=1 bash benchmarks/accelerator.sh [OUTPUT]   the same with tiny sizes, on any device
#
# It needs JAX 0.10.2 or newer for the GPU (Python 3.11 or newer), flax (which brings
# orbax), optax, chex, pillow and ml_collections; grain, scikit-learn, tensorboard and
# tensorflow-datasets may be missing. On a machine without a network bring what is
# missing as wheels:
#
#   pip download --no-deps -d wheels ml_collections     where there is a network
#   pip install --no-index --no-deps --target site wheels/*.whl
#   PYTHONPATH=$PWD/site bash benchmarks/accelerator.sh
#
# PyTorch is measured too if it is installed and sees the GPU. PYTHON sets the
# interpreter, default python3.
set -u
output=$(realpath -m "${1:-accelerator.jsonl}")
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
python=${PYTHON:-python3}
failed=0

section() { # SECONDS MODULE ARGUMENTS...: one section, ended when its time is up
    local limit=$1
    shift
    echo "== $* (at most $limit s)"
    timeout --signal=INT --kill-after=5 "$limit" "$python" -m "$@" --output "$output"
    local code=$?
    if ((code)); then
        echo "== exit code $code (124: its time was up); what was measured is kept"
        failed=1
    fi
}

against=()
if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' \
    2>/dev/null || [[ ${TINY:-} && $("$python" -c 'import torch' 2>&1) == "" ]]; then
    against=(--against torch)
fi

if [[ ${TINY:-} ]]; then
    config=configs/cifar10.py:tiny small=8 large=16 images=8 ddim=10 chain=20
    quick=(--rounds 2 --seconds 0.2)
else
    config=configs/cifar10.py small=128 large=512 images=256 ddim=50 chain=1000
    quick=(--rounds 3 --seconds 1)
fi
train=(benchmarks.train_step --config "$config" "${quick[@]}")
sample=(benchmarks.sampling --config "$config" --batch_size "$images")

# The limits add up to 600 s, in the order of importance.
section 210 "${train[@]}" --batch_size "$small" "$large" --dtype bfloat16 \
    "${against[@]}" --modes compile
section 90 "${sample[@]}" --dtype bfloat16 --tasks "ddim:$ddim" "ancestral:$chain" \
    --rounds 1 --seconds 0
section 150 benchmarks.equality --config "$config"
section 110 "${train[@]}" --batch_size "$small" "$large" --dtype float32
[[ ${TINY:-} ]] || section 40 benchmarks.attention
echo "Results: $output"
exit "$failed"
