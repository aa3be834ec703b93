#!/usr/bin/env bash
# Trains on the GPUs of several nodes, with one process per GPU. A step must have at least one sample for each GPU.
#     sbatch --nodes 2 --gpus-per-node 4 launch/slurm.sh configs/hug.py runs/hug
# We have not run this script. All nodes must share this folder, with a .venv in it (pip install -e '.[cuda]').
#SBATCH --job-name=reversion
#SBATCH --ntasks-per-gpu=1
#SBATCH --gpu-bind=none
#SBATCH --signal=TERM@120
# Two minutes before its time ends, the run receives SIGTERM and writes a checkpoint. Submit the job again to continue
# from there. GPUs are not bound to processes: JAX chooses each process's GPU by the process's number on the node, and
# for that it must see all GPUs.
set -euo pipefail
config=$1 workdir=$2
shift 2

srun .venv/bin/python -m reversion_jax.train --distributed --config "$config" --workdir "$workdir" "$@"
