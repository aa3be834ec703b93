"""Reading and writing diffusers folders; test_recorded.py and test_parity.py compare outputs."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file, save_file

from reversion_jax.weights import folder, names


@pytest.fixture
def copy(recorded, tmp_path):
    return shutil.copytree(recorded.folder, tmp_path / "model")


def rewrite(path, part, change):
    """Rewrites a part's weights by change: dict -> dict."""
    save_file(change(load_file(tiny.weight_file(path, part))), tiny.weight_file(path, part), {"format": "pt"})


def test_save_and_load_are_inverse(recorded, tmp_path):
    folder.save(tmp_path, recorded.model, np.float32)
    again = folder.load(tmp_path)
    assert again[:2] == recorded.model[:2]
    tiny.assert_same_params(again.params, recorded.model.params)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        assert (tmp_path / "tokenizer" / name).read_bytes() == (recorded.folder / "tokenizer" / name).read_bytes()
    # Files are those the weights came from, byte for byte in content.
    for part in folder.WEIGHT_FILES:
        before, after = load_file(tiny.weight_file(recorded.folder, part)), load_file(tiny.weight_file(tmp_path, part))
        assert before.keys() == after.keys()
        for name in before:
            np.testing.assert_array_equal(before[name], after[name])


def test_saving_over_itself(copy):
    folder.save(copy, folder.load(copy), np.float32)
    folder.load(copy)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_files_become_float32(dtype, recorded, copy):
    for part in folder.WEIGHT_FILES:
        rewrite(copy, part, lambda weights: {k: v.astype(dtype) for k, v in weights.items()})
    wanted = jax.tree.map(lambda x: np.asarray(x).astype(dtype).astype(np.float32), recorded.model.params)
    tiny.assert_same_params(folder.load(copy).params, wanted)


def test_half_precision_variant_serves_where_it_is_alone(recorded, copy):
    path = tiny.weight_file(copy, "unet")
    path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    tiny.assert_same_params(folder.load(copy).params, recorded.model.params)


@pytest.mark.parametrize(
    ("index", "shard"),
    [
        ("diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model-0000{}-of-00002.safetensors"),
        (
            "diffusion_pytorch_model.safetensors.index.fp16.json",
            "diffusion_pytorch_model.fp16-0000{}-of-00002.safetensors",
        ),
    ],
)
def test_sharded_weights(index, shard, recorded, copy):
    path = tiny.weight_file(copy, "unet")
    weights = load_file(path)
    path.unlink()
    shards = {name: shard.format(i % 2 + 1) for i, name in enumerate(weights)}
    for file in set(shards.values()):
        save_file({name: weights[name] for name in weights if shards[name] == file}, path.with_name(file))
    path.with_name(index).write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    tiny.assert_same_params(folder.load(copy).params, recorded.model.params)
    path.with_name(shards["conv_in.weight"]).unlink()
    with pytest.raises(ValueError, match="cannot read"):
        folder.load(copy)


def test_bfloat16_on_the_device(recorded, copy, tmp_path):
    model = folder.load(copy, dtype=jnp.bfloat16)
    table = model.params["text_encoder"]["text_model"]["embeddings"].pop("token_embedding")["embedding"]
    wanted = recorded.model.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
    assert table.dtype == jnp.float32
    np.testing.assert_array_equal(table, wanted)
    tiny.assert_same_params(model.params["vae"], recorded.model.params["vae"])
    for part in ("text_encoder", "unet"):
        assert {leaf.dtype for leaf in jax.tree.leaves(model.params[part])} == {jnp.bfloat16.dtype}
    kernel = recorded.model.params["unet"]["conv_in"]["kernel"]
    np.testing.assert_array_equal(model.params["unet"]["conv_in"]["kernel"], kernel.astype(jnp.bfloat16))


def test_arrays_are_on_the_device(recorded):
    params = recorded.model.params
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
    for before, after in zip(jax.tree.leaves(params), jax.tree.leaves(jax.device_put(params)), strict=True):
        assert before.unsafe_buffer_pointer() == after.unsafe_buffer_pointer()


OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.mark.parametrize("convolutions", [False, True])
def test_old_names_of_the_vaes_attention(convolutions, recorded, copy):
    def age(weights):
        aged = {}
        for name, array in weights.items():
            for new, old in OLD_NAMES.items():
                if f".{new}." in name:
                    name = name.replace(f".{new}.", f".{old}.")
                    array = array[:, :, None, None] if convolutions and array.ndim == 2 else array
            aged[name] = array
        assert len(aged.keys() - weights.keys()) == 16
        return aged

    rewrite(copy, "vae", age)
    tiny.assert_same_params(folder.load(copy).params, recorded.model.params)


def test_text_encoder_without_its_prefix(recorded, copy):
    rewrite(copy, "text_encoder", lambda w: {k.removeprefix("text_model."): v for k, v in w.items()})
    tiny.assert_same_params(folder.load(copy).params, recorded.model.params)


def test_position_ids_are_no_parameter(recorded, copy):
    positions = np.arange(tiny.LENGTH)[None]
    rewrite(copy, "text_encoder", lambda w: {**w, "text_model.embeddings.position_ids": positions})
    tiny.assert_same_params(folder.load(copy).params, recorded.model.params)


def test_all_that_does_not_fit_is_in_one_error(copy):
    def spoil_unet(weights):
        weights["conv_in.weight"] = weights["conv_in.weight"][:, :3]
        del weights["conv_out.bias"]
        return weights

    rewrite(copy, "unet", spoil_unet)
    rewrite(copy, "vae", lambda w: {**w, "loss.logvar": np.zeros(1, np.float32)})
    rewrite(copy, "text_encoder", lambda w: {k: v for k, v in w.items() if "layers.1.mlp.fc1" not in k})
    with pytest.raises(ValueError, match="do not fit") as raised:
        folder.load(copy)
    assert raised.value.args[0].splitlines()[1:] == [
        "  text_encoder: missing text_model.encoder.layers.1.mlp.fc1.bias",
        "  text_encoder: missing text_model.encoder.layers.1.mlp.fc1.weight",
        "  unet: misshaped conv_in.weight: (32, 3, 3, 3), expected (32, 4, 3, 3)",
        "  unet: missing conv_out.bias",
        "  vae: unexpected loss.logvar",
    ]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("unet/config.json", "cannot read"),
        ("scheduler/scheduler_config.json", "cannot read"),
        ("vae/diffusion_pytorch_model.safetensors", "no diffusion_pytorch_model.safetensors"),
    ],
)
def test_missing_files(file, message, copy):
    (copy / file).unlink()
    with pytest.raises(ValueError, match=message):
        folder.load(copy)


@pytest.mark.parametrize("damage", [lambda x: x[:-100], lambda x: x[:100], lambda x: b"version https://git-lfs"])
def test_damaged_file(damage, copy):
    path = tiny.weight_file(copy, "vae")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"cannot read .* fetch it again") as raised:
        folder.load(copy)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_only_pickles(copy):
    path = tiny.weight_file(copy, "unet")
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"only diffusion_pytorch_model\.bin, a pickle.*save_pretrained") as raised:
        folder.load(copy)
    assert "\n" not in str(raised.value)


def test_quantised_weights(copy):
    rewrite(copy, "unet", lambda w: {k: v.astype(np.int8) if k == "conv_in.weight" else v for k, v in w.items()})
    with pytest.raises(ValueError, match="conv_in/kernel is stored as int8"):
        folder.load(copy)


def change_json(**values):
    return lambda file: file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    ("file", "change", "family"),
    [
        ("model_index.json", change_json(_class_name="StableDiffusionXLPipeline"), "XL"),
        ("text_encoder_2", lambda path: path.mkdir(), "XL"),
        ("unet/config.json", change_json(cross_attention_dim=2048, use_linear_projection=True), "XL"),
        ("unet/config.json", change_json(use_linear_projection=True), "2.x"),
        ("text_encoder/config.json", change_json(hidden_size=1024, hidden_act="gelu"), "2.x"),
    ],
)
def test_other_families_are_called_by_name(file, change, family, copy):
    change(copy / file)
    for read in (folder.load, folder.load_config):
        with pytest.raises(ValueError, match=f"is a Stable Diffusion {family} model: only") as raised:
            read(copy)
        assert "\n" not in str(raised.value)


def test_save_refuses_parameters_of_another_config(recorded, tmp_path):
    params = {**recorded.model.params, "vae": {}}
    with pytest.raises(ValueError, match="vae parameters"):
        folder.save(tmp_path / "out", recorded.model._replace(params=params))
    assert not (tmp_path / "out").exists()


def test_layouts_are_inverse():
    for path, shape in {"a/conv/kernel": (3, 3, 2, 5), "a/to_q/kernel": (2, 5), "a/norm/scale": (4,)}.items():
        array = tiny.noise(0, shape)
        np.testing.assert_array_equal(names.from_torch(path, names.to_torch(path, array)), array)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("down_blocks_0/attentions_1/norm/scale", ("down_blocks.0.attentions.1.norm.weight",)),
        ("time_embedding/linear_1/kernel", ("time_embedding.linear_1.weight",)),
        ("down_blocks_0/attn1/to_out_0/bias", ("down_blocks.0.attn1.to_out.0.bias",)),
        (
            "decoder/mid_block/attentions_0/proj_attn/kernel",
            (
                "decoder.mid_block.attentions.0.to_out.0.weight",
                "decoder.mid_block.attentions.0.proj_attn.weight",
            ),
        ),
        (
            "text_model/encoder/layers/0/layer_norm1/scale",
            ("text_model.encoder.layers.0.layer_norm1.weight", "encoder.layers.0.layer_norm1.weight"),
        ),
    ],
)
def test_names(path, wanted):
    assert names.torch_names(path) == wanted
