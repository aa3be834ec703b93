"""Tests the hash that distinguishes models."""

import re
import shutil

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

from reversion_jax.weights.fingerprint import fingerprint
from reversion_jax.weights.layout import FLAX_FILES, WEIGHT_FILES
from reversion_jax.weights.resolve import MINIATURE_FOLDER


@pytest.fixture
def copy(recorded, tmp_path):
    return shutil.copytree(recorded.folder, tmp_path / "model")


def rewrite(path, change):
    """Applies `change` to every array of a safetensors file."""
    save_file({name: change(array) for name, array in load_file(path).items()}, path, {"format": "pt"})


def test_a_copy_of_a_model_has_the_same_hash(recorded, copy):
    found = fingerprint(recorded.folder)
    assert re.fullmatch("[0-9a-f]{16}", found)
    assert fingerprint(copy) == found
    # The hash ignores files that hold no weights or that are not read.
    (copy / "README.md").write_text("a copy")
    (copy / "vae" / FLAX_FILES["vae"]).write_bytes(b"unread, as safetensors are there")
    assert fingerprint(copy) == found


@pytest.mark.parametrize("part", ["text_encoder", "vae"])
@pytest.mark.parametrize("place", [0, 0.3, 0.7, 1])
def test_a_single_changed_bit_changes_the_hash(recorded, copy, part, place):
    path = tiny.weight_file(copy, part)
    assert path.stat().st_size <= 1 << 22  # at most 4 MiB: the whole file is hashed
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    content[header + int(place * (len(content) - header - 1))] ^= 1
    path.write_bytes(content)
    assert fingerprint(copy) != fingerprint(recorded.folder)


def test_the_hash_depends_on_every_network(recorded, copy):
    whole = {fingerprint(recorded.folder), fingerprint(MINIATURE_FOLDER)}
    for part in WEIGHT_FILES:
        rewrite(tiny.weight_file(copy, part), lambda array: array + 1)
        whole.add(fingerprint(copy))
    assert len(whole) == 5


def test_the_hash_of_a_single_file_depends_on_its_weights(recorded, tmp_path):
    path = shutil.copy(tiny.weight_file(recorded.folder, "unet"), tmp_path / "model.safetensors")
    again = shutil.copy(path, tmp_path / "copy.safetensors")
    assert fingerprint(again) == fingerprint(path) != fingerprint(recorded.folder)
    rewrite(again, lambda array: array * 2)
    assert fingerprint(again) != fingerprint(path)


@pytest.mark.parametrize("megabytes", [4, 9, 40])
def test_a_small_change_of_all_weights_of_a_large_file_changes_the_hash(tmp_path, megabytes):
    """Only parts of a large file are hashed. A change of all numbers, or of the length, still changes the hash."""
    path, same = tmp_path / "model.safetensors", tmp_path / "same.safetensors"
    weights = np.random.default_rng(0).normal(size=(megabytes << 18,)).astype(np.float32)
    save_file({"weight": weights}, path)
    shutil.copy(path, same)
    assert path.stat().st_size > 1 << 22
    before = fingerprint(path)
    assert fingerprint(same) == before
    rewrite(path, lambda array: array * np.float32(1 + 1e-6))
    assert fingerprint(path) != before
    rewrite(same, lambda array: np.append(array, np.float32(0)))
    assert fingerprint(same) != before
