"""Runs benchmarks/accelerator.py at tiny sizes, and tests how the script evaluates its measurements."""

import gzip
import json
import subprocess
import sys

import pytest
import tiny
from places import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
accelerator = pytest.importorskip("accelerator")
kernels = pytest.importorskip("kernels")


def event(name: str, tid: int, micros: float, pid: int = 7) -> dict:
    return {"ph": "X", "pid": pid, "tid": tid, "name": name, "dur": micros}


def test_kernel_times_are_summed_by_kind_over_the_device_streams(monkeypatch, tmp_path):
    """The sums leave out the line "XLA Ops", which repeats the kernels of the streams, and the events of the host."""
    of = lambda kind, **where: {"ph": "M", "name": kind, **where}
    events = [
        of("process_name", pid=7, args={"name": "/device:GPU:0"}),
        of("process_name", pid=8, args={"name": "/host:CPU"}),
        of("thread_name", pid=7, tid=1, args={"name": "Stream #14(Compute)"}),
        of("thread_name", pid=7, tid=2, args={"name": "XLA Ops"}),
        event("cutlass_80_tensorop_bf16_gemm", 1, 4000),
        event("cudnn_generated_fort_native_sdpa_sm90_flash_fprop", 1, 2000),
        event("sm90_xmma_fprop_implicit_gemm", 1, 1000),
        event("loop_add_fusion", 1, 600),
        event("loop_add_fusion", 2, 600),
        event("gemm", 1, 600, pid=8),
    ]

    class Traced:
        def __init__(self, folder, **_):
            self.file = tmp_path / "trace"

        def __enter__(self):
            pass

        def __exit__(self, *_):
            (tmp_path / "perfetto_trace.json.gz").write_bytes(gzip.compress(json.dumps(events).encode()))

    import jax

    monkeypatch.setattr(jax.profiler, "trace", Traced)
    monkeypatch.setattr(kernels.tempfile, "TemporaryDirectory", lambda: _Folder(tmp_path))
    found = kernels.kernels(lambda: None, steps=2)
    assert found == {"products": 2.0, "attention": 1.0, "convolutions": 0.5, "all else": 0.3}


class _Folder:
    def __init__(self, path):
        self.path = path

    def __enter__(self):
        return str(self.path)

    def __exit__(self, *_):
        pass


def test_the_table_has_results_and_says_what_was_not_measured():
    told = {"device": "NVIDIA H100", "jax": "0.11.2", "auto": "bfloat16", "torch": True}
    results = {
        "step": {"step_ms": 49.7, "kernels_ms": {"products": 10.7}},
        "pictures": "not measured: no time was left",
    }
    text = accelerator.table(told, results)
    assert "| step | step 49.70 ms, products 10.7 ms |" in text
    assert "| pictures | not measured: no time was left |" in text


@pytest.mark.long
def test_the_whole_benchmark_runs_at_tiny_sizes(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "accelerator.py"), "--tiny", "--out", str(tmp_path)]
    done = subprocess.run(command, env=tiny.environment(), cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "accelerator.json").read_text())["results"]
    wanted = {"step, float32, 8 at once", "command, nothing cached", "command, programs kept", "pictures"}
    assert wanted <= set(results)
    assert not [found for found in results.values() if isinstance(found, str)], results
    assert results["step, float32, 8 at once"]["step_ms"] > 0
    assert (tmp_path / "accelerator.md").read_text().startswith("cpu, jax ")
