"""Trains and exports in a local folder and in an emulated bucket. test_files.py runs this script in its own process.

The script prints one line of JSON with a report on the local folder and a report on the bucket.
"""

import json
import os
import socket
import sys

with socket.socket() as probe:
    probe.bind(("localhost", 0))
    PORT = probe.getsockname()[1]
os.environ |= {
    "STORAGE_EMULATOR_HOST": f"http://localhost:{PORT}",  # read by gcsfs
    "TENSORSTORE_GCS_HTTP_URL": f"http://localhost:{PORT}",  # read by TensorStore, which writes the arrays for Orbax
    "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # otherwise gcsfs would ask Google for the kind of bucket
    "EPATH_USE_TF": "false",
}

from etils import epath
from gcp_storage_emulator.server import create_server
from ml_collections import ConfigDict

from reversion_jax.runs import export, folder, history
from reversion_jax.training import loop
from reversion_jax.weights import embeddings

server = create_server("localhost", PORT, in_memory=True, default_bucket="bucket")
server.start()
config = ConfigDict(json.loads(sys.argv[1]))
found = []
for workdir, stops in ((epath.Path(sys.argv[2]), [4]), (epath.Path("gs://bucket/runs/hug"), [2, 4])):
    for config.steps in stops:
        rows = loop.train(config, workdir)
    left = sorted(path.name for path in workdir.iterdir())
    kept = sorted(path.name for path in (workdir / "rows").iterdir())
    read = [(run.step, run.rows.tolist()) for run in (folder.read(workdir, step) for step in (None, 2))]
    export.export(workdir, workdir / "embeddings")
    exported = embeddings.read(workdir / "embeddings" / "hug.safetensors")["<R>"]
    report = {"rows": rows.tolist(), "exported": exported[0].tolist(), "left": left, "kept": kept, "read": read}
    found.append(report | {"history": history.read(workdir / history.NAME)})
server.stop()
print(json.dumps(found))
