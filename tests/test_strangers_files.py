"""Readers of strangers' files, given what nobody thought of: they read it, or say in one line what is wrong."""

import io
import json
import os
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from reversion_jax.data import exemplars
from reversion_jax.drawing import samples
from reversion_jax.inversion.prompts import INVERSE, RELATION, parse
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.runs import folder, history
from reversion_jax.weights import embeddings, stored, torch_file

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
    """What a reader makes of it, or None if it refuses it in one line."""
    try:
        return read(*given)
    except (ValueError, OSError) as error:
        refused = str(error)
    assert refused
    assert "\n" not in refused.strip()
    return None


def embedding(kind: str, folder: Path) -> bytes:
    """A whole embedding file."""
    rows = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    if kind == ".safetensors":
        return save({"<R>": rows})
    return embeddings.write({"<R>": rows}, "x", folder)[-1].read_bytes()


def mutated(content: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """A file with some of its bytes replaced by others."""
    for at, count, put in edits:
        at %= len(content) + 1
        content = content[:at] + put + content[at + count :]
    return content


EDITS = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 40), st.binary(max_size=12)), min_size=1, max_size=4)


@quick
@given(TEXTS | st.dictionaries(st.sampled_from(["text", "subject", "object", "x"]), TEXTS))
def test_templates(template):
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
def test_captions(tmp_path, values):
    (tmp_path / "0.png").write_bytes(b"")
    (tmp_path / "text.json").write_text(json.dumps(values))
    found = reads(exemplars.read_captions, tmp_path)
    assert found is None or list(found) == ["0.png"]
    reads(exemplars.read_folder, tmp_path, 8)  # the picture is none


@quick
@given(content=st.binary(max_size=300))
def test_any_bytes(tmp_path, content):
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


@pytest.mark.parametrize("kind", [".safetensors", ".bin"])
@quick
@given(edits=EDITS)
def test_embeddings_that_are_damaged(tmp_path, kind, edits):
    path = tmp_path / f"x{kind}"
    path.write_bytes(mutated(embedding(kind, tmp_path), edits))
    for rows in (reads(embeddings.read, path) or {}).values():
        assert rows.dtype == np.float32
        assert rows.ndim == 2
        assert np.isfinite(rows).all()


@quick
@given(text=TEXTS)
def test_prompts(recorded, text):
    tokenizer = Tokenizer.load(recorded.model.tokenizer_folder, {"<R>": 1, "on": 2}, vocab_size=600, length=12)
    assert tokenizer(text.encode(errors="replace").decode()).shape == (1, 12)
    samples.complaints([text.encode(errors="replace").decode()], "", tokenizer)


@pytest.mark.long
def test_an_hour_of_damage(tmp_path):
    """FUZZ_MINUTES long: millions of damaged files of words, none of which runs, hangs or fills the memory."""
    import resource

    minutes, rng = float(os.environ.get("FUZZ_MINUTES", "60")), np.random.default_rng()
    wholes = {kind: embedding(kind, tmp_path) for kind in (".safetensors", ".bin")}
    with zipfile.ZipFile(io.BytesIO(wholes[".bin"])) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (tmp_path / "run").mkdir()
    before, ends, count, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.time() + 60 * minutes, 0, 0
    while time.time() < ends:
        kind = (".safetensors", ".bin", "pickle")[count % 3]
        edits = [
            (int(rng.integers(0, 3000)), int(rng.integers(0, 20)), rng.bytes(int(rng.integers(0, 10))))
            for _ in range(int(rng.integers(1, 5)))
        ]
        path = tmp_path / "run" / f"x{kind if kind != 'pickle' else '.bin'}"
        if kind == "pickle":  # damage that the zip's own checksums would find
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in members.items():
                    archive.writestr(name, mutated(content, edits) if name.endswith("pkl") else content)
        else:
            path.write_bytes(mutated(wholes[kind], edits))
        found = reads(embeddings.read, path)
        count, refused = count + 1, refused + (found is None)
        assert all(np.isfinite(rows).all() for rows in (found or {}).values())
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{count} files, {refused} refused, {grown / 1024:.0f} MiB more")
    assert {path.name for path in (tmp_path / "run").iterdir()} <= {"x.safetensors", "x.bin"}
    assert grown < 500 * 1024
