"""Measures the time of a GPU's kernels by kind."""

import collections
import gzip
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Regular expressions for the names of kernels. A kernel belongs to the first kind whose expression matches.
KINDS = {
    "attention": r"fmha|flash|sdpa|attention",
    "convolutions": r"conv|cudnn|implicit",
    "products": r"gemm|cublas|cutlass|nvjet|dot|matmul",
}


def kernels(run: Callable[[], Any], steps: int) -> dict[str, float]:
    """Returns {kind: ms per step that its kernels take} from JAX's profiler, or {} if there are no kernels."""
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=True):
            run()
        (trace,) = Path(folder).rglob("perfetto_trace.json.gz")
        events = json.loads(gzip.decompress(trace.read_bytes()))
    events = events["traceEvents"] if isinstance(events, dict) else events
    devices = {e["pid"] for e in events if e.get("name") == "process_name" and "/device:" in str(e.get("args"))}
    # In a trace, each stream of a GPU is a thread. Threads that summarise modules and steps have no kernels.
    sums = r"XLA (Modules|Ops)|Steps|Framework|Source|TensorFlow"
    threads = {
        (e["pid"], e["tid"])
        for e in events
        if e.get("name") == "thread_name" and e["pid"] in devices and not re.search(sums, str(e.get("args")))
    }
    spent: collections.Counter[str] = collections.Counter()
    for event in events:
        if event.get("ph") == "X" and (event["pid"], event["tid"]) in threads:
            name = str(event["name"]).lower()
            kind = next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), "all else")
            spent[kind] += event["dur"]
    return {kind: micros / 1e3 / steps for kind, micros in spent.most_common()}
