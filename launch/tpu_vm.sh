#!/usr/bin/env bash
# Trains on all workers of a Cloud TPU, with one process per worker. Uses this repository's last commit.
#     launch/tpu_vm.sh my-tpu us-west4-a configs/hug.py gs://my-bucket/hug \
#         --config.exemplars=gs://my-bucket/exemplars/hug
# We have not run this script. The workers share no disk, so results and exemplars must be in a bucket. Create the TPU
# first, and delete it afterwards:
#     gcloud compute tpus tpu-vm create my-tpu --zone us-west4-a --accelerator-type v5litepod-8 \
#         --version v2-alpha-tpuv5-lite
# If the script is run again, training continues from the newest checkpoint. Stopping the script does not stop the
# workers. To stop them, use ssh as below with --command 'pkill -TERM -f reversion_jax.train'.
set -euo pipefail
tpu=$1 zone=$2 config=$3 workdir=$4
shift 4

archive=$(mktemp)
trap 'rm "$archive"' EXIT
git archive --format=tar.gz --output "$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$tpu:reversion.tar.gz" --zone "$zone" --worker all
# The machines have Python 3.10, but JAX for TPUs needs 3.12.
gcloud compute tpus tpu-vm ssh "$tpu" --zone "$zone" --worker all --command "
  set -e
  mkdir -p reversion && tar xzf reversion.tar.gz -C reversion && cd reversion
  pip install -q uv && export PATH=\$HOME/.local/bin:\$PATH
  test -d .venv || uv venv -q --python 3.12
  uv pip install -q -e '.[gcs,tpu]'"

train=$(printf '%q ' .venv/bin/python -m reversion_jax.train --distributed --config "$config" --workdir "$workdir" "$@")
gcloud compute tpus tpu-vm ssh "$tpu" --zone "$zone" --worker all --command "cd reversion && exec $train"
