#!/usr/bin/env bash
# Trains on the nodes of a SLURM job, one process per node, which uses all GPUs that SLURM
# gives to the job there, and stops if JAX sees another number. Submit from the repository.
#
#   EXTRAS=cuda12 sbatch --nodes=2 --gpus-per-node=8 --cpus-per-task=32 \
#     --time=24:00:00 launch/slurm.sh CONFIG WORKDIR [overrides...]
#
# The repository and WORKDIR must be on a disk that all nodes share. Two minutes before the
# time limit the run saves and exits; a requeued job resumes from there. For a run longer
# than the limit, submit the same line several times with --dependency=singleton.
# If a process fails or dies, the others end within half a minute.
#SBATCH --job-name=diffusion_jax
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}" # SLURM runs a copy of this script
if [[ ! -f launch/env.sh ]]; then
  echo "slurm.sh: submit from the root of the repository, not from $PWD" >&2
  exit 2
fi
source launch/env.sh

if (($# < 2)) || [[ $1 == -* || $2 == -* ]]; then
  die "give both: sbatch launch/slurm.sh CONFIG WORKDIR [overrides...]"
fi
check_config "$1"
prepare_venv
exec srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  "$python" -m diffusion_jax.main --config="$1" --workdir="$2" --distributed "${@:3}"
