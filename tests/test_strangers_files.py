"""Fuzz tests: each reader of files that users may get from strangers reads the file, or refuses it in one line."""

import io
import json
import os
import resource
import shutil
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tiny
from etils import epath
from flax.serialization import msgpack_serialize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reversion_jax import config
from reversion_jax.data import exemplars
from reversion_jax.drawing import samples
from reversion_jax.inversion.prompts import INVERSE, RELATION, parse
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.runs import folder, history, owner
from reversion_jax.weights import embeddings, own_settings, stored, torch_file
from reversion_jax.weights import folder as weights_folder
from reversion_jax.weights.variant import single_files_prediction

pytestmark = pytest.mark.filterwarnings("ignore::reversion_jax.runtime.errors.Caution")
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

TEXTS = st.text(max_size=40) | st.lists(
    st.sampled_from(["cat", "{}", "a photo of", ",", ".", "{subject}", "{object}", "<R>", "on", "{", "}", " "]),
    max_size=8,
).map(" ".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def reads(read, *given):
    """Returns the reader's result, or None if the reader refuses its input. Asserts that the error is one line."""
    try:
        return read(*given)
    except (ValueError, OSError) as error:
        refused = str(error)
    assert refused
    assert "\n" not in refused.strip()
    return None


def files_of_strangers(place: Path, model: Path) -> dict[str, tuple[Path, Callable[[], object]]]:
    """Writes an intact file of every kind that users may get, and a copy of `model`. Returns {name: (path, reader)}."""
    rows = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    run = epath.Path(place / "run")
    folder.write_settings(run, config.settle(config.Settings(relation="hug"), {}), {"version": "0"})
    folder.write_rows(run, rows, 3)
    history.append(run / "metrics.jsonl", [{"step": step, "loss": 1.0} for step in range(5)])
    (place / "pictures").mkdir()
    exemplars.write_folder(place / "pictures", np.zeros((1, 8, 8, 3), np.uint8), [["a {} b"]])
    shutil.copytree(model, place / "model")
    words = embeddings.write({"<R>": rows}, "x", place)
    half = {"<R>": ("BF16", rows.astype(ml_dtypes.bfloat16)), "b": ("F8_E4M3", rows.astype(ml_dtypes.float8_e4m3fn))}
    written = {
        "half.safetensors": tiny.safetensors(half),
        "flax.msgpack": msgpack_serialize({"layer": {"kernel": rows}}),
        "own/reversion_jax.json": b'{"steps": 400, "verbs": "miniature_verbs", "preview_prompts": ["cat <R> stone"]}',
        "one.yaml": b"model:\n  target: x\n  params:\n    parameterization: v\n    linear_start: 0.00085\n",
        "run/owner.json": json.dumps({"host": "x", "machine": "y", "pid": 1, "beat": 0.5, "token": "z"}).encode(),
    }
    for name, content in written.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(content)

    def tensors(open_file: Callable, path: Path) -> Callable[[], object]:
        return lambda: [tensor.read() for tensor in open_file(path).values()]

    def of_model() -> object:
        return weights_folder.load_config(place / "model"), weights_folder._read_schedule(place / "model")

    def tokenizer() -> object:
        return Tokenizer.load(place / "model" / "tokenizer", vocab_size=600, length=12)("cat on stone")

    readers: dict[str, Callable[[], object]] = {
        "x.safetensors": lambda: embeddings.read(words[0]),
        "learned_embeds.bin": lambda: embeddings.read(words[-1]),
        "half.safetensors": tensors(stored.open_safetensors, place / "half.safetensors"),
        "flax.msgpack": tensors(stored.open_msgpack, place / "flax.msgpack"),
        "own/reversion_jax.json": lambda: own_settings._read.__wrapped__(str(place / "own")),
        "one.yaml": lambda: single_files_prediction(place / "one.safetensors", ()),
        "pictures/text.json": lambda: exemplars.read_captions(place / "pictures"),
        "pictures/0.png": lambda: exemplars.read_folder(place / "pictures", 8),
        "run/owner.json": lambda: owner._read(run / "owner.json"),
        "run/config.json": lambda: folder.read(run),
        "run/rows.safetensors": lambda: folder.read_rows(run / "rows.safetensors"),
        "run/metrics.jsonl": lambda: history.read(run / "metrics.jsonl"),
        "model/model_index.json": of_model,
        "model/scheduler/scheduler_config.json": of_model,
        "model/text_encoder/config.json": of_model,
        "model/unet/config.json": of_model,
        "model/vae/config.json": of_model,
        "model/tokenizer/tokenizer_config.json": tokenizer,
        "model/tokenizer/vocab.json": tokenizer,
        "model/tokenizer/merges.txt": tokenizer,
    }
    return {name: (place / name, read) for name, read in readers.items()}


def mutated(content: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """Returns `content` after edits (position, number of bytes to remove, bytes to insert)."""
    for at, count, put in edits:
        at %= len(content) + 1
        content = content[:at] + put + content[at + count :]
    return content


@quick
@given(TEXTS | st.dictionaries(st.sampled_from(["text", "subject", "object", "x"]), TEXTS))
def test_any_template_is_parsed_or_refused_with_an_error_of_one_line(template):
    prompt = reads(parse, template)
    if prompt is None:
        return
    assert prompt.direct().count(RELATION) >= 1
    inverse = reads(prompt.inverse)
    assert (inverse is None) == bool(prompt.fault)
    if inverse:
        assert f"{INVERSE} {RELATION}" in inverse
        assert prompt.swapped().swapped() == prompt


@quick
@given(JSON | st.dictionaries(st.just("0.png"), st.lists(TEXTS | JSON, max_size=3), min_size=1))
def test_any_captions_are_read_or_refused_with_an_error_of_one_line(tmp_path, values):
    (tmp_path / "0.png").write_bytes(b"")
    (tmp_path / "text.json").write_text(json.dumps(values))
    found = reads(exemplars.read_captions, tmp_path)
    assert found is None or list(found) == ["0.png"]
    reads(exemplars.read_folder, tmp_path, 8)  # 0.png is empty, so the folder is always refused


@quick
@given(content=st.binary(max_size=300))
def test_every_reader_reads_or_refuses_arbitrary_bytes(tmp_path, content):
    for name in ("x.safetensors", "x.bin", "text.json", "metrics.jsonl", "config.json", "rows.safetensors", "x.png"):
        (tmp_path / name).write_bytes(content)
    for read in (
        embeddings.read,
        torch_file.read,
        stored.open_safetensors,
        stored.open_msgpack,
        exemplars.read_picture,
    ):
        for name in ("x.safetensors", "x.bin", "x.png"):
            reads(read, tmp_path / name)
    reads(exemplars.read_captions, tmp_path)
    reads(history.read, tmp_path / "metrics.jsonl")
    reads(folder.read, tmp_path)
    reads(folder.read_rows, tmp_path / "rows.safetensors")


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Returns `content` with its end cut off, or with some bytes replaced by random bytes or by words of JSON."""
    if rng.random() < 0.1:
        return content[: rng.integers(len(content) + 1)]
    reach = len(content) + 1 if rng.random() < 0.5 else min(len(content), 400) + 1  # headers come first
    pieces = (b"null", b"-1", b"NaN", b"1e999", b"[]", b"{}", b'""', b"true", b"\xff", b"\n", b"[" * 3000, b"9" * 30)
    edits = [
        (
            int(rng.integers(reach)),
            int(rng.integers(20)),
            pieces[rng.integers(len(pieces))] if rng.random() < 0.5 else rng.bytes(int(rng.integers(10))),
        )
        for _ in range(int(rng.integers(1, 5)))
    ]
    return mutated(content, edits)


def damaged_pickle(archive: bytes, rng: np.random.Generator) -> bytes:
    """Returns a PyTorch file with a damaged pickle. The zip checksums are correct, so that only the pickle is bad."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as whole, zipfile.ZipFile(made, "w") as changed:
        for name in whole.namelist():
            content = whole.read(name)
            changed.writestr(name, damage(content, rng) if name.endswith("pkl") else content)
    return made.getvalue()


def check_read(name: str, path: Path, read: Callable[[], object], whole: bytes, rng: np.random.Generator) -> bool:
    """Damages the file, calls `read`, and restores the file. Returns whether `read` accepted the damaged file."""
    is_pickle = name.endswith(".bin") and rng.random() < 0.5
    path.write_bytes(damaged_pickle(whole, rng) if is_pickle else damage(whole, rng))
    try:
        found = reads(read)
    except BaseException:
        print(f"{name}: {path.read_bytes()!r}")
        raise
    finally:
        path.write_bytes(whole)
    if name in ("x.safetensors", "learned_embeds.bin"):
        for rows in (found or {}).values():
            assert rows.dtype == np.float32
            assert rows.ndim == 2
            assert np.isfinite(rows).all()
    return found is not None


def test_damaged_files_of_every_kind_are_read_or_refused_with_an_error_of_one_line(tmp_path, recorded):
    rng = np.random.default_rng(0)
    for name, (path, read) in files_of_strangers(tmp_path, recorded.folder).items():
        whole = path.read_bytes()
        assert read() is not None
        for _ in range(30):
            check_read(name, path, read, whole, rng)


@quick
@given(text=TEXTS)
def test_any_prompt_is_tokenised_and_checked(recorded, text):
    tokenizer = Tokenizer.load(recorded.model.tokenizer_folder, {"<R>": 1, "on": 2}, vocab_size=600, length=12)
    assert tokenizer(text.encode(errors="replace").decode()).shape == (1, 12)
    samples.complaints([text.encode(errors="replace").decode()], "", tokenizer)


@pytest.mark.long
def test_an_hour_of_damaged_files_neither_hangs_nor_fills_the_memory(tmp_path, recorded):
    """Reads damaged files for FUZZ_MINUTES (60) minutes. No reader may run code, hang, fill memory or leave a file."""
    minutes, rng = float(os.environ.get("FUZZ_MINUTES", "60")), np.random.default_rng()
    readers = files_of_strangers(tmp_path, recorded.folder)
    wholes = {name: path.read_bytes() for name, (path, _) in readers.items()}
    tried, taken, slowest = Counter(), Counter(), 0.0
    there, memory, ends = sorted(tmp_path.rglob("*")), 0, time.monotonic() + 60 * minutes
    while time.monotonic() < ends:
        for name, (path, read) in readers.items():
            began = time.monotonic()
            # A tokenizer's files take a hundred times as long to read as other files.
            for _ in range(1 if "tokenizer" in name else 100):
                tried[name] += 1
                taken[name] += check_read(name, path, read, wholes[name], rng)
            slowest = max(slowest, time.monotonic() - began)
        memory = memory or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    print(f"{tried.total()} files, {taken.total()} taken; slowest hundred {slowest:.1f} s; {grown:.0f} MiB more")
    print({name: (tried[name], taken[name]) for name in tried})
    assert sorted(tmp_path.rglob("*")) == there
    assert slowest < 60
    assert grown < 500
