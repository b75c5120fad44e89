#!/usr/bin/env bash
# Trains on every worker of a Cloud TPU pod. Run it where gcloud is logged in.
#
#   TPU_NAME=my-pod ZONE=us-central2-b \
#     bash launch/tpu_pod.sh CONFIG WORKDIR [overrides...]
#
#   REPO=URL   repository to clone on workers that have no ~/diffusion_jax yet
#
# WORKDIR is an absolute path on a disk that all workers share.
# Workers need Python 3.11 or newer. The same call again resumes the run.
set -euo pipefail

die() {
  echo "tpu_pod.sh: $*" >&2
  exit 2
}
if (($# < 2)) || [[ $1 == -* || $2 == -* ]]; then
  die "give both: bash launch/tpu_pod.sh CONFIG WORKDIR [overrides...]"
fi
[[ $2 == /* ]] || die "WORKDIR $2 is not an absolute path (on a disk all workers share)"
: "${TPU_NAME:?set it to the name of the TPU}" "${ZONE:?set it to the zone of the TPU}"

command='cd ~/diffusion_jax'
if [[ -n ${REPO:-} ]]; then
  clone="git clone $(printf %q "$REPO") ~/diffusion_jax"
  command="{ test -d ~/diffusion_jax || $clone; } && $command"
fi
arguments=$(printf ' %q' "$1" "$2" --distributed "${@:3}")
command+=" && EXTRAS=tpu bash launch/local.sh$arguments"

exec gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="$ZONE" --worker=all \
  --command="$command"
