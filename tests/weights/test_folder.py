"""Tests reading and writing diffusers folders. test_recorded.py and test_parity.py compare the outputs of networks."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from reversion_jax.drawing import texts
from reversion_jax.runtime.errors import Caution
from reversion_jax.weights import compvis, floats, folder, names, vae_file
from reversion_jax.weights.save import save
from reversion_jax.weights.variant import Variant


@pytest.fixture
def copy(recorded, tmp_path):
    return shutil.copytree(recorded.folder, tmp_path / "model")


def rewrite(path, part, change):
    """Applies `change` to the dictionary of weights of one part, and writes the result."""
    save_file(change(load_file(tiny.weight_file(path, part))), tiny.weight_file(path, part), {"format": "pt"})


def test_a_saved_model_is_loaded_back_unchanged(recorded, tmp_path):
    save(tmp_path, recorded.model, np.float32)
    again = folder.load(tmp_path)
    assert again[:2] == recorded.model[:2]
    tiny.assert_same_params(again.params, recorded.model.params)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        assert (tmp_path / "tokenizer" / name).read_bytes() == (recorded.folder / "tokenizer" / name).read_bytes()
    # The written arrays equal the arrays of the original files.
    for part in folder.WEIGHT_FILES:
        before, after = load_file(tiny.weight_file(recorded.folder, part)), load_file(tiny.weight_file(tmp_path, part))
        assert before.keys() == after.keys()
        for name in before:
            np.testing.assert_array_equal(before[name], after[name])


def test_a_model_can_be_saved_over_its_own_folder(copy):
    save(copy, folder.load(copy), np.float32)
    folder.load(copy)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_weights_are_read_as_float32(dtype, recorded, copy):
    for part in folder.WEIGHT_FILES:
        rewrite(copy, part, lambda weights: {k: v.astype(dtype) for k, v in weights.items()})
    wanted = jax.tree.map(lambda x: np.asarray(x).astype(dtype).astype(np.float32), recorded.model.params)
    tiny.assert_same_params(folder.load(copy).params, wanted)


def test_the_fp16_variant_is_read_if_there_is_no_other_variant(recorded, copy):
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
def test_sharded_weights_are_read(index, shard, recorded, copy):
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


def test_in_bfloat16_the_token_table_and_the_vae_stay_float32(recorded, copy, tmp_path):
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


def test_a_cpu_uses_weights_that_were_read_without_another_copy(recorded):
    handed, taken = [], []

    def put(tree):
        placed = jax.device_put(tree, jax.devices("cpu")[0])
        handed.extend(array.ctypes.data for array in jax.tree.leaves(tree))
        taken.extend(array.unsafe_buffer_pointer() for array in jax.tree.leaves(placed))
        return placed

    folder.load(recorded.folder, put=put)
    assert taken == handed


def test_loaded_weights_are_on_the_device(recorded):
    params = recorded.model.params
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
    for before, after in zip(jax.tree.leaves(params), jax.tree.leaves(jax.device_put(params)), strict=True):
        assert before.unsafe_buffer_pointer() == after.unsafe_buffer_pointer()


OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.mark.parametrize("convolutions", [False, True])
def test_old_names_of_the_attention_of_the_vae_are_read(convolutions, recorded, copy):
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


def test_a_text_encoder_without_its_prefix_is_read(recorded, copy):
    rewrite(copy, "text_encoder", lambda w: {k.removeprefix("text_model."): v for k, v in w.items()})
    tiny.assert_same_params(folder.load(copy).params, recorded.model.params)


def test_position_ids_are_ignored(recorded, copy):
    positions = np.arange(tiny.LENGTH)[None]
    rewrite(copy, "text_encoder", lambda w: {**w, "text_model.embeddings.position_ids": positions})
    tiny.assert_same_params(folder.load(copy).params, recorded.model.params)


def test_one_error_names_all_weights_that_do_not_fit(copy):
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
    ]


def test_unused_tensors_are_counted_in_a_warning(recorded, copy):
    rewrite(copy, "vae", lambda w: {**w, "loss.logvar": np.zeros(1, np.float32), "b": np.zeros(1, np.float32)})
    with pytest.warns(Caution, match=r"2 tensors belong to none of the networks .* such as (loss.logvar|b)"):
        model = folder.load(copy)
    tiny.assert_same_params(model.params, recorded.model.params)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("unet/config.json", "cannot read"),
        ("scheduler/scheduler_config.json", "cannot read"),
        ("vae/diffusion_pytorch_model.safetensors", "no diffusion_pytorch_model.safetensors"),
    ],
)
def test_an_error_about_a_missing_file_names_the_file(file, message, copy):
    (copy / file).unlink()
    with pytest.raises(ValueError, match=message):
        folder.load(copy)


@pytest.mark.parametrize("damage", [lambda x: x[:-100], lambda x: x[:100], lambda x: b"version https://git-lfs"])
def test_a_damaged_weight_file_is_refused(damage, copy):
    path = tiny.weight_file(copy, "vae")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"cannot read .* fetch it again") as raised:
        folder.load(copy)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_with_only_pickles_is_refused(copy):
    path = tiny.weight_file(copy, "unet")
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"only diffusion_pytorch_model\.bin, a pickle.*save_pretrained") as raised:
        folder.load(copy)
    assert "\n" not in str(raised.value)


def test_weights_in_integers_are_refused(copy):
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
def test_an_error_about_another_model_family_names_the_family(file, change, family, copy):
    change(copy / file)
    for read in (folder.load, folder.load_config):
        with pytest.raises(ValueError, match=f"is a Stable Diffusion {family} model: only") as raised:
            read(copy)
        assert "\n" not in str(raised.value)


def test_save_refuses_parameters_that_do_not_fit_the_config(recorded, tmp_path):
    params = {**recorded.model.params, "vae": {}}
    with pytest.raises(ValueError, match="vae parameters"):
        save(tmp_path / "out", recorded.model._replace(params=params))
    assert not (tmp_path / "out").exists()


def test_converting_an_array_to_pytorchs_layout_and_back_gives_the_same_array():
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
def test_our_names_become_pytorchs_names(path, wanted):
    assert names.torch_names(path) == wanted


@pytest.mark.parametrize("part", folder.WEIGHT_FILES)
@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "float32"), (np.inf, "float16"), (-np.inf, "bfloat16")])
def test_weights_with_nan_or_infinity_are_refused(copy, part, value, dtype):
    def spoil(weights):
        weights = {name: array.astype(dtype) for name, array in weights.items()}
        weights[max(weights)].flat[-1] = value
        return weights

    rewrite(copy, part, spoil)
    with pytest.raises(ValueError, match=rf"model/{part}: .* holds NaN or infinity, so every picture would be black"):
        folder.load(copy)


def test_large_finite_weights_are_read(copy):
    rewrite(copy, "unet", lambda weights: {**weights, "conv_out.bias": np.full(4, 1e30, np.float32)})
    assert (np.asarray(folder.load(copy).params["unet"]["conv_out"]["bias"]) == np.float32(1e30)).all()


@pytest.mark.parametrize("name", ["F8_E4M3", "F8_E5M2"])
def test_weights_in_float8_are_read_as_float32(recorded, copy, name):
    dtype = floats.FLOATS[name]
    arrays = {key: (name, array.astype(dtype)) for key, array in load_file(tiny.weight_file(copy, "unet")).items()}
    tiny.weight_file(copy, "unet").write_bytes(tiny.safetensors(arrays))
    wanted = jax.tree.map(lambda x: np.asarray(x).astype(dtype).astype(np.float32), recorded.model.params["unet"])
    tiny.assert_same_params(folder.load(copy).params["unet"], wanted)


def test_a_wrong_schedule_is_corrected_with_a_warning(recorded, copy):
    path = copy / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"clip_sample": True, "steps_offset": 0}))
    with pytest.warns(Caution, match="steps_offset 0 as 1, clip_sample True as False, as diffusers' Stable Diffusion"):
        assert folder.load(copy).schedule == recorded.model.schedule


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_wrong_schedule_is_corrected_like_in_diffusers(copy):
    diffusers = pytest.importorskip("diffusers")
    diffusers.utils.logging.set_verbosity_error()
    path = copy / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"clip_sample": True, "steps_offset": 0}))
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(copy, local_files_only=True).scheduler.config
    with pytest.warns(Caution):
        ours = folder.load(copy).schedule
    assert (ours.clip_sample, ours.steps_offset) == (theirs["clip_sample"], theirs["steps_offset"]) == (False, 1)


def test_clip_skip_leaves_out_the_last_layers_like_in_diffusers(recorded, copy):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    theirs = transformers.CLIPTextModel.from_pretrained(copy / "text_encoder")
    ids = tiny.inputs(0)["ids"]
    with torch.no_grad():
        states = theirs(torch.from_numpy(ids).long(), output_hidden_states=True).hidden_states
        norm = next(module for name, module in theirs.named_modules() if name.endswith("final_layer_norm"))
        wanted = norm(states[-2]).numpy()  # the result of diffusers for clip_skip=1
    model = folder.load(copy, variant=Variant(clip_skip=1))
    found = texts.encode_text(model.params, model.config, ids, np.zeros((0, 32), np.float32))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(wanted - states[-1].numpy()).max() > 0.1
    for skip in (-1, 2):
        with pytest.raises(ValueError, match=f"clip_skip={skip}: the text encoder has 2 layers"):
            folder.load(copy, variant=Variant(clip_skip=skip))


def test_the_user_can_choose_the_prediction_type(copy):
    assert folder.load(copy).schedule.prediction_type == "epsilon"
    chosen = folder.load(copy, variant=Variant(prediction_type="v_prediction"))
    assert chosen.schedule.prediction_type == "v_prediction"


def test_running_averages_are_refused_for_a_folder(copy):
    with pytest.raises(ValueError, match="is a folder, and only a single file can hold averages: leave ema out"):
        folder.load(copy, variant=Variant(ema=True))


@pytest.fixture(params=["its folder", "a model's folder", "a file", "a file of a whole checkpoint"])
def vae(request, recorded, tmp_path):
    """The path of another VAE, in each form that users may have, and the VAE's weights by our names."""
    place = shutil.copytree(recorded.folder, tmp_path / "other")
    shifted = jax.tree.map(lambda x: np.asarray(x) + np.float32(0.01), recorded.model.params["vae"])
    save(place, recorded.model._replace(params={**recorded.model.params, "vae": shifted}), np.float32)
    if "folder" in request.param:
        return (place / "vae" if request.param == "its folder" else place), shifted
    prefix = "" if request.param == "a file" else "first_stage_model."
    flat = flatten_dict(shifted, sep="/")
    named = {compvis.vae_names(path, tiny.CONFIG.vae)[0]: names.to_torch(path, array) for path, array in flat.items()}
    file = tmp_path / "vae.safetensors"
    save_file({name.replace("first_stage_model.", prefix): np.ascontiguousarray(a) for name, a in named.items()}, file)
    return file, shifted


def test_another_vae_replaces_the_vae_of_the_model(recorded, copy, vae):
    where, weights = vae
    model = folder.load(copy, variant=Variant(vae=str(vae_file.resolve(str(where)))))
    tiny.assert_same_params(model.params["vae"], weights)
    tiny.assert_same_params(model.params["unet"], recorded.model.params["unet"])


def test_a_path_that_is_not_a_vae_is_refused(recorded, copy, tmp_path):
    with pytest.raises(ValueError, match="is not a VAE"):
        folder.load(copy, variant=Variant(vae=str(copy / "unet")))
    with pytest.raises(ValueError, match=r"vae 'nowhere' is neither a folder, nor a \.safetensors file, nor a hub id"):
        vae_file.resolve("nowhere")
    (tmp_path / "vae.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="a pickle, which can run code"):
        vae_file.resolve(str(tmp_path / "vae.pt"))
