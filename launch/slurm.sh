#!/usr/bin/env bash
# Trains on the GPUs of several nodes, one process a GPU; a sample for each of them:
#     sbatch --nodes 2 --gpus-per-node 4 launch/slurm.sh configs/hug.py runs/hug
# Not yet run by us. The folder must be shared by the nodes, with .venv in it (pip install -e '.[cuda]').
#SBATCH --job-name=reversion
#SBATCH --ntasks-per-gpu=1
#SBATCH --gpu-bind=none
#SBATCH --signal=TERM@120
# Two minutes before the end of its time the run writes a checkpoint; submitted again, it goes on from there. No
# binding, because JAX gives each process the GPU of its number on the node, for which it has to see them all.
set -euo pipefail
config=$1 workdir=$2
shift 2

srun .venv/bin/python -m reversion_jax.train --distributed --config "$config" --workdir "$workdir" "$@"
