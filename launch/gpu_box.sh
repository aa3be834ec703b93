#!/usr/bin/env bash
# Trains on the GPUs of one machine, in one process. Uses as many GPUs as can share the samples of a step evenly.
#     launch/gpu_box.sh configs/hug.py runs/hug --config.seed=1
# We have not run this script. Before the first use: python3 -m venv .venv && .venv/bin/pip install -e '.[cuda]'
set -euo pipefail
config=$1 workdir=$2
shift 2

exec .venv/bin/python -m reversion_jax.train --config "$config" --workdir "$workdir" "$@"
