#!/usr/bin/env bash
# Trains on a TPU slice of a GKE cluster that was set up with xpk (pip install xpk). Uses this repository's last commit.
#     launch/gke.sh my-cluster hug v5litepod-256 configs/hug.py gs://my-bucket/hug \
#         --config.exemplars=gs://my-bucket/exemplars/hug --config.batch_size=256 --config.accumulation=1
# We have not run this script; xpk 1.16 accepts it as a dry run. Project and zone are taken from gcloud's settings. The
# machines share no disk, so results and exemplars must be in a bucket. Before a machine is taken away, the run receives
# SIGTERM and writes a checkpoint, from which the job then starts again.
set -euo pipefail
cluster=$1 name=$2 tpu_type=$3 config=$4 workdir=$5
shift 5

sources=$(mktemp -d)
trap 'rm -r "$sources"' EXIT
git archive HEAD | tar x -C "$sources"
# exec lets the signal reach Python itself.
train=$(printf '%q ' exec python -m reversion_jax.train --distributed --config "$config" --workdir "$workdir" "$@")
xpk workload create --cluster "$cluster" --workload "$name" --tpu-type "$tpu_type" \
  --base-docker-image python:3.12 --script-dir "$sources" --max-restarts 50 --termination-grace-period-seconds 120 \
  --command "pip install -q '.[gcs,tpu]' && $train"
