"""Single-file checkpoints under CompVis' names."""

import math
import shutil

import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from reversion_jax.models.presets import SD15
from reversion_jax.weights import folder, hub, names
from reversion_jax.weights.compvis import compvis_names
from reversion_jax.weights.resolve import resolve


def blank(shape):
    return np.broadcast_to(np.False_, shape)


def renamed(part, arrays, config):
    """A network's arrays as they lie in a checkpoint: the VAE's attention is made of 1x1 convolutions there."""
    found = {}
    for path, array in arrays.items():
        name, array = compvis_names(part, path, config)[0], names.to_torch(path, np.asarray(array))
        found[name] = array[:, :, None, None] if ".attn_1." in name and array.ndim == 2 else array
    return found


@pytest.fixture
def checkpoint(recorded, tmp_path):
    weights = {}
    for part, params in recorded.model.params.items():
        weights |= renamed(part, flatten_dict(params, sep="/"), tiny.CONFIG)
    averaged = {f"model_ema.{name.replace('.', '')}": array for name, array in weights.items() if "input_bl" in name}
    tables = {name: np.zeros(1000, np.float32) for name in ("betas", "alphas_cumprod_prev", "logvar", "lvlb_weights")}
    tables["sqrt_one_minus_alphas_cumprod"] = tables["posterior_mean_coef1"] = tables["betas"]
    tables["cond_stage_model.transformer.text_model.embeddings.position_ids"] = np.arange(tiny.LENGTH)[None]
    path = tmp_path / "tiny-sd.safetensors"
    save_file({**{k: np.ascontiguousarray(v) for k, v in weights.items()}, **averaged, **tables}, path)
    tiny.write_tokenizer(tmp_path / "tokenizer")
    return path


def rewrite(path, change):
    save_file(change(load_file(path)), path)


def test_loads_as_its_folder(recorded, checkpoint):
    model = folder.load(checkpoint, config=tiny.CONFIG)
    assert model[:2] == recorded.model[:2]
    tiny.assert_same_params(model.params, recorded.model.params)
    assert model.tokenizer_folder == checkpoint.parent / "tokenizer"
    assert folder.load_config(checkpoint) == SD15
    assert resolve(str(checkpoint)) == checkpoint


def test_text_encoder_without_its_prefix(recorded, checkpoint):
    rewrite(checkpoint, lambda w: {k.replace("transformer.text_model.", "transformer."): v for k, v in w.items()})
    tiny.assert_same_params(folder.load(checkpoint, config=tiny.CONFIG).params, recorded.model.params)


def test_strict_both_ways(checkpoint):
    def spoil(weights):
        del weights["model.diffusion_model.out.2.bias"]
        return {**weights, "model.diffusion_model.extra": np.zeros(1), "embedding_manager.x": np.zeros(1)}

    rewrite(checkpoint, spoil)
    with pytest.raises(ValueError, match="do not fit") as raised:
        folder.load(checkpoint, config=tiny.CONFIG)
    assert raised.value.args[0].splitlines()[1:] == [
        "  unet: missing model.diffusion_model.out.2.bias",
        "  unet: unexpected model.diffusion_model.extra",
        "  other: unexpected embedding_manager.x",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight", "Stable Diffusion XL"),
        ("cond_stage_model.model.token_embedding.weight", "Stable Diffusion 2.x"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.alpha", "no whole Stable Diffusion 1.x checkpoint"),
    ],
)
def test_other_models_are_called_by_name(name, message, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({name: np.zeros(1, np.float32), "model.diffusion_model.out.2.bias": np.zeros(4, np.float32)}, path)
    for read in (folder.load, folder.load_config):
        with pytest.raises(ValueError, match=message) as raised:
            read(path)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt"])
def test_pickles_are_refused(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"\x80\x02cos\nsystem\n.")
    for read in (folder.load, folder.load_config, lambda p: resolve(str(p))):
        with pytest.raises(ValueError, match=r"pickle.*safetensors") as raised:
            read(path)
        assert "\n" not in str(raised.value)


def test_damaged_file(checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cannot read .* fetch it again"):
        folder.load(checkpoint, config=tiny.CONFIG)


def test_no_such_file(tmp_path):
    with pytest.raises(ValueError, match="no folder and no file"):
        folder.load(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match=r"nor a \.safetensors file"):
        resolve("models/absent.safetensors")


def test_without_a_tokenizer(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    shutil.rmtree(checkpoint.parent / "tokenizer")
    with pytest.raises(ValueError, match=r"vocab\.json and merges\.txt") as raised:
        folder.load(checkpoint, config=tiny.CONFIG)  # conftest.py has switched the network off
    assert str(checkpoint.parent / "tokenizer") in str(raised.value)
    assert "\n" not in str(raised.value)


def test_tokenizer_from_the_hub(checkpoint, tmp_path, monkeypatch):
    asked = []

    def fetch(repository, revision, choose):
        asked.append((repository, choose(["README.md", "merges.txt", "pytorch_model.bin", "vocab.json"])))
        return tmp_path

    monkeypatch.setattr(hub, "fetch", fetch)
    (checkpoint.parent / "tokenizer" / "merges.txt").unlink()
    assert folder.load(checkpoint, config=tiny.CONFIG).tokenizer_folder == tmp_path
    assert asked == [("openai/clip-vit-large-patch14", ["vocab.json", "merges.txt"])]


@pytest.mark.parametrize(
    ("part", "path", "wanted"),
    [
        ("unet", "conv_in/kernel", "input_blocks.0.0.weight"),
        ("unet", "time_embedding/linear_2/bias", "time_embed.2.bias"),
        ("unet", "down_blocks_0/downsamplers_0/conv/kernel", "input_blocks.3.0.op.weight"),
        ("unet", "down_blocks_1/resnets_0/conv_shortcut/kernel", "input_blocks.4.0.skip_connection.weight"),
        ("unet", "down_blocks_3/resnets_1/time_emb_proj/bias", "input_blocks.11.0.emb_layers.1.bias"),
        ("unet", "mid_block/resnets_1/norm2/scale", "middle_block.2.out_layers.0.weight"),
        ("unet", "up_blocks_0/upsamplers_0/conv/kernel", "output_blocks.2.1.conv.weight"),
        ("unet", "up_blocks_1/upsamplers_0/conv/kernel", "output_blocks.5.2.conv.weight"),
        ("unet", "up_blocks_3/resnets_2/conv_shortcut/kernel", "output_blocks.11.0.skip_connection.weight"),
        (
            "unet",
            "up_blocks_3/attentions_2/transformer_blocks_0/attn2/to_out_0/kernel",
            "output_blocks.11.1.transformer_blocks.0.attn2.to_out.0.weight",
        ),
        (
            "unet",
            "mid_block/attentions_0/transformer_blocks_0/ff/net_0/proj/kernel",
            "middle_block.1.transformer_blocks.0.ff.net.0.proj.weight",
        ),
        ("unet", "conv_norm_out/scale", "out.0.weight"),
        ("vae", "encoder/down_blocks_0/downsamplers_0/conv/kernel", "encoder.down.0.downsample.conv.weight"),
        ("vae", "encoder/down_blocks_2/resnets_0/conv_shortcut/bias", "encoder.down.2.block.0.nin_shortcut.bias"),
        ("vae", "encoder/mid_block/attentions_0/proj_attn/kernel", "encoder.mid.attn_1.proj_out.weight"),
        ("vae", "decoder/mid_block/attentions_0/group_norm/scale", "decoder.mid.attn_1.norm.weight"),
        ("vae", "decoder/mid_block/resnets_1/conv1/kernel", "decoder.mid.block_2.conv1.weight"),
        ("vae", "decoder/up_blocks_0/upsamplers_0/conv/kernel", "decoder.up.3.upsample.conv.weight"),
        ("vae", "decoder/up_blocks_3/resnets_2/norm1/bias", "decoder.up.0.block.2.norm1.bias"),
        ("vae", "decoder/conv_norm_out/scale", "decoder.norm_out.weight"),
        ("vae", "post_quant_conv/kernel", "post_quant_conv.weight"),
    ],
)
def test_sd15s_names(part, path, wanted):
    assert path in folder.parameter_shapes(SD15)[part]
    prefix = {"unet": "model.diffusion_model", "vae": "first_stage_model"}[part]
    assert compvis_names(part, path, SD15) == (f"{prefix}.{wanted}",)


@pytest.mark.parametrize("config", [tiny.CONFIG, SD15], ids=["tiny", "sd15"])
@pytest.mark.parametrize("part", ["unet", "vae"])
def test_diffusers_understands_our_names(part, config):
    """Converted by diffusers, what we call a parameter there must be what we call it in a folder."""
    utils = pytest.importorskip("diffusers.loaders.single_file_utils")
    convert = {"unet": utils.convert_ldm_unet_checkpoint, "vae": utils.convert_ldm_vae_checkpoint}[part]
    shapes = folder.parameter_shapes(config)[part]
    # Sizes that tell every parameter from every other, nothing allocated.
    arrays = {path: blank((i + 2,) * len(shape)) for i, (path, shape) in enumerate(shapes.items())}
    converted = convert(renamed(part, arrays, config), getattr(config, part).to_json())
    wanted = {names.torch_names(path)[0]: names.to_torch(path, array).shape for path, array in arrays.items()}
    assert {name: array.shape for name, array in converted.items()} == wanted


def test_number_of_sd15s_tensors():
    found = [
        name
        for part, shapes in folder.parameter_shapes(SD15).items()
        for path in shapes
        for name in compvis_names(part, path, SD15)[:1]
    ]
    assert len(set(found)) == len(found) == 686 + 248 + 196
    assert math.prod(folder.parameter_shapes(SD15)["unet"]["conv_in/kernel"]) == 9 * 4 * 320
