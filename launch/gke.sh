#!/usr/bin/env bash
# Trains on a TPU slice of a GKE cluster that xpk knows (pip install xpk), with the last commit of this repository:
#     launch/gke.sh my-cluster hug v5litepod-256 configs/hug.py gs://my-bucket/hug \
#         --config.exemplars=gs://my-bucket/exemplars/hug --config.batch_size=256 --config.accumulation=1
# Not yet run by us; xpk 1.16 accepts it as a dry run. Project and zone are gcloud's. Machines share no disk: results and
# exemplars lie in a bucket. A machine that is taken away lets the run write a checkpoint first (SIGTERM), and the job
# starts again from it.
set -euo pipefail
cluster=$1 name=$2 tpu_type=$3 config=$4 workdir=$5
shift 5

sources=$(mktemp -d)
trap 'rm -r "$sources"' EXIT
git archive HEAD | tar x -C "$sources"
# By exec the signal reaches Python itself.
train=$(printf '%q ' exec python -m reversion_jax.train --distributed --config "$config" --workdir "$workdir" "$@")
xpk workload create --cluster "$cluster" --workload "$name" --tpu-type "$tpu_type" \
  --base-docker-image python:3.12 --script-dir "$sources" --max-restarts 50 --termination-grace-period-seconds 120 \
  --command "pip install -q '.[gcs,tpu]' && $train"
