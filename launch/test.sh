#!/usr/bin/env bash
# Runs the tests, in the virtual environment that launch/local.sh makes.
#
#   bash launch/test.sh [pytest arguments...]
#   bash launch/test.sh tests/test_launch.py -k usage
#   bash launch/test.sh -m slow            the slow ones, left out otherwise
#   EXTRAS=parity bash launch/test.sh      with PyTorch and diffusers, to compare with
#
# Paths are relative to the repository; VENV, EXTRAS and PYTHON: see launch/env.sh.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

prepare_venv test
exec "$python" -m pytest "$@"
