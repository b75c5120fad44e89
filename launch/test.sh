#!/usr/bin/env bash
# Runs the tests, in the virtual environment of launch/local.sh.
#
#   bash launch/test.sh [pytest arguments...]
#   bash launch/test.sh tests/test_launch.py -k usage
#   bash launch/test.sh -m slow            only the slow tests, skipped by default
#   EXTRAS=parity bash launch/test.sh      including comparisons with PyTorch, diffusers
#
# Paths are relative to the repository. For VENV, EXTRAS and PYTHON see launch/env.sh.
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"

prepare_venv test
exec "$python" -m pytest "$@"
