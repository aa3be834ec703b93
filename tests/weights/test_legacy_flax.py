"""Tests folders with weights in Flax's format, which earlier versions of diffusers and transformers wrote."""

import json
import shutil

import jax
import numpy as np
import pytest
import tiny
from flax import serialization

from reversion_jax.weights import folder
from reversion_jax.weights.layout import FLAX_FILES

CLASSES = {"unet": "FlaxUNet2DConditionModel", "vae": "FlaxAutoencoderKL"}


@pytest.fixture
def flax_folder(recorded, tmp_path):
    path = shutil.copytree(recorded.folder, tmp_path / "model")
    for part, name in FLAX_FILES.items():
        tiny.weight_file(path, part).unlink()
        write(path / part / name, recorded.model.params[part])
    for part, name in CLASSES.items():
        config = json.loads((path / part / "config.json").read_text())
        config |= {"_class_name": name}
        if part == "unet":
            config |= {"split_head_dim": True, "use_memory_efficient_attention": True, "num_attention_heads": None}
        (path / part / "config.json").write_text(json.dumps(config))
    return path


def write(path, tree):
    path.write_bytes(serialization.msgpack_serialize(jax.tree.map(np.asarray, tree)))


def test_a_folder_of_flax_weights_is_read(recorded, flax_folder):
    model = folder.load(flax_folder)
    assert model[:2] == recorded.model[:2]
    tiny.assert_same_params(model.params, recorded.model.params)


def test_flax_weights_in_bfloat16_are_read_as_float32(recorded, flax_folder):
    half = jax.tree.map(lambda x: np.asarray(x).astype("bfloat16"), recorded.model.params)
    for part, name in FLAX_FILES.items():
        write(flax_folder / part / name, half[part])
    tiny.assert_same_params(folder.load(flax_folder).params, jax.tree.map(lambda x: x.astype(np.float32), half))


def test_safetensors_are_preferred_to_flax_weights(recorded, flax_folder):
    for part in FLAX_FILES:
        shutil.copy(tiny.weight_file(recorded.folder, part), tiny.weight_file(flax_folder, part))
        (flax_folder / part / FLAX_FILES[part]).write_bytes(b"unread")
    tiny.assert_same_params(folder.load(flax_folder).params, recorded.model.params)


def test_an_error_about_flax_weights_names_all_weights_that_do_not_fit(recorded, flax_folder):
    params = recorded.model.params["unet"]
    bent = {**params, "conv_in": {"kernel": params["conv_in"]["kernel"][:2]}}
    write(flax_folder / "unet" / FLAX_FILES["unet"], bent)
    with pytest.raises(ValueError, match="do not fit") as raised:
        folder.load(flax_folder)
    assert raised.value.args[0].splitlines()[1:] == [
        "  unet: missing conv_in/bias",
        "  unet: misshaped conv_in/kernel: (2, 3, 4, 32), expected (3, 3, 4, 32)",
    ]


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-100],
        lambda whole: whole[: len(whole) // 2],
        lambda whole: b"",
        lambda whole: b"version https://git-lfs.github.com/spec/v1\n",
        lambda whole: serialization.msgpack_serialize({"kernel": "text"}),
        lambda whole: serialization.msgpack_serialize({"kernel": 1j}),
        lambda whole: b"\x81\xa6kernel\xc7\x05\x01\x93\x91\x02\xa1?\xc4",
    ],
)
def test_a_damaged_flax_file_is_refused(damage, flax_folder):
    path = flax_folder / "vae" / FLAX_FILES["vae"]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"cannot read .* fetch it again") as raised:
        folder.load(flax_folder)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
