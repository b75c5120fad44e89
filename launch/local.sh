#!/usr/bin/env bash
# Trains on this machine; the first call creates the virtual environment.
#
#   bash launch/local.sh CONFIG [WORKDIR] [overrides...]
#   bash launch/local.sh configs/digits.py
#   bash launch/local.sh configs/digits.py:tiny /tmp/try --config.train.num_steps=5
#   EXTRAS=cuda12 bash launch/local.sh configs/cifar10.py runs/cifar10
#
# WORKDIR defaults to runs/NAME (runs/NAME_tiny for :tiny). The same call again resumes the
# run. Other arguments are passed on to diffusion_jax.main: --mode=sample, --help.
# Paths are relative to the repository. For VENV, EXTRAS and PYTHON see launch/env.sh.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

if (($# == 0)) || [[ $1 == -* ]]; then
  die "give a config: bash launch/local.sh CONFIG [WORKDIR] [overrides...]"
fi
config=$1
shift
if (($#)) && [[ $1 != -* ]]; then set -- "--workdir=$1" "${@:2}"; fi

check_config "$config"
prepare_venv
exec "$python" -m diffusion_jax.main --config="$config" "$@"
