"""Tests single-file checkpoints with the parameter names of CompVis."""

import math
import shutil

import jax
import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from reversion_jax.models.presets import SD15
from reversion_jax.runtime.errors import Caution
from reversion_jax.weights import folder, hub, names
from reversion_jax.weights.compvis import compvis_names
from reversion_jax.weights.resolve import resolve
from reversion_jax.weights.variant import Variant


def blank(shape):
    return np.broadcast_to(np.False_, shape)


def renamed(part, arrays, config):
    """Returns a network's arrays as a checkpoint stores them: the VAE's attention as 1x1 convolutions."""
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


def test_a_single_file_gives_the_same_model_as_its_folder(recorded, checkpoint):
    model = folder.load(checkpoint, config=tiny.CONFIG)
    assert model[:2] == recorded.model[:2]
    tiny.assert_same_params(model.params, recorded.model.params)
    assert model.tokenizer_folder == checkpoint.parent / "tokenizer"
    assert folder.load_config(checkpoint) == SD15
    assert resolve(str(checkpoint)) == checkpoint


def test_a_text_encoder_without_its_prefix_is_read_from_a_single_file(recorded, checkpoint):
    rewrite(checkpoint, lambda w: {k.replace("transformer.text_model.", "transformer."): v for k, v in w.items()})
    tiny.assert_same_params(folder.load(checkpoint, config=tiny.CONFIG).params, recorded.model.params)


def test_an_error_about_a_single_file_names_missing_tensors(checkpoint):
    def spoil(weights):
        del weights["model.diffusion_model.out.2.bias"]
        return weights

    rewrite(checkpoint, spoil)
    with pytest.raises(ValueError, match="do not fit") as raised:
        folder.load(checkpoint, config=tiny.CONFIG)
    assert raised.value.args[0].splitlines()[1:] == [
        "  unet: missing model.diffusion_model.out.2.bias",
    ]


def test_unused_tensors_of_a_single_file_are_counted_in_a_warning(checkpoint):
    left = {"model.diffusion_model.extra": np.zeros(1), "embedding_manager.x": np.zeros(1)}
    rewrite(checkpoint, lambda weights: {**weights, **left})
    with pytest.warns(Caution, match="2 tensors belong to none .* ignored, such as model.diffusion_model.extra"):
        folder.load(checkpoint, config=tiny.CONFIG)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight", "Stable Diffusion XL"),
        ("cond_stage_model.model.token_embedding.weight", "Stable Diffusion 2.x"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.alpha", "not a complete Stable Diffusion 1.x checkpoint"),
    ],
)
def test_an_error_about_another_kind_of_checkpoint_names_the_kind(name, message, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({name: np.zeros(1, np.float32), "model.diffusion_model.out.2.bias": np.zeros(4, np.float32)}, path)
    for read in (folder.load, folder.load_config):
        with pytest.raises(ValueError, match=message) as raised:
            read(path)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt"])
def test_pickled_checkpoints_are_refused(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"\x80\x02cos\nsystem\n.")
    for read in (folder.load, folder.load_config, lambda p: resolve(str(p))):
        with pytest.raises(ValueError, match=r"pickle.*safetensors") as raised:
            read(path)
        assert "\n" not in str(raised.value)


def test_a_damaged_single_file_is_refused(checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cannot read .* fetch it again"):
        folder.load(checkpoint, config=tiny.CONFIG)


def test_a_missing_single_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no folder and no file"):
        folder.load(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match=r"nor a \.safetensors file"):
        resolve("models/absent.safetensors")


def test_an_error_about_a_missing_tokenizer_names_its_files(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    shutil.rmtree(checkpoint.parent / "tokenizer")
    with pytest.raises(ValueError, match=r"vocab\.json and merges\.txt") as raised:
        folder.load(checkpoint, config=tiny.CONFIG)  # conftest.py makes the hub's library work offline
    assert str(checkpoint.parent / "tokenizer") in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_tokenizer_of_a_single_file_is_fetched_from_the_hub(checkpoint, tmp_path, monkeypatch):
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
def test_parameters_of_sd15_have_the_names_of_compvis(part, path, wanted):
    assert path in folder.parameter_shapes(SD15)[part]
    prefix = {"unet": "model.diffusion_model", "vae": "first_stage_model"}[part]
    assert compvis_names(part, path, SD15) == (f"{prefix}.{wanted}",)


@pytest.mark.parametrize("config", [tiny.CONFIG, SD15], ids=["tiny", "sd15"])
@pytest.mark.parametrize("part", ["unet", "vae"])
def test_our_names_agree_with_diffusers_conversion(part, config):
    """diffusers converts the CompVis name of a parameter into the name that the parameter has in a folder."""
    utils = pytest.importorskip("diffusers.loaders.single_file_utils")
    convert = {"unet": utils.convert_ldm_unet_checkpoint, "vae": utils.convert_ldm_vae_checkpoint}[part]
    shapes = folder.parameter_shapes(config)[part]
    # Every parameter gets a size that no other parameter has, so that exchanged parameters are noticed. The arrays take
    # no memory.
    arrays = {path: blank((i + 2,) * len(shape)) for i, (path, shape) in enumerate(shapes.items())}
    converted = convert(renamed(part, arrays, config), getattr(config, part).to_json())
    wanted = {names.torch_names(path)[0]: names.to_torch(path, array).shape for path, array in arrays.items()}
    assert {name: array.shape for name, array in converted.items()} == wanted


def test_sd15_has_the_known_number_of_tensors():
    found = [
        name
        for part, shapes in folder.parameter_shapes(SD15).items()
        for path in shapes
        for name in compvis_names(part, path, SD15)[:1]
    ]
    assert len(set(found)) == len(found) == 686 + 248 + 196
    assert math.prod(folder.parameter_shapes(SD15)["unet"]["conv_in/kernel"]) == 9 * 4 * 320


YAML = "model:\n  target: ldm.models.diffusion.ddpm.LatentDiffusion\n  params:\n    parameterization: {}\n"


@pytest.mark.parametrize(("said", "wanted"), [("v", "v_prediction"), ("eps", "epsilon")])
def test_the_yaml_beside_a_single_file_sets_the_prediction_type(checkpoint, said, wanted):
    checkpoint.with_suffix(".yaml").write_text(YAML.format(f'"{said}"'))
    assert folder.load(checkpoint, config=tiny.CONFIG).schedule.prediction_type == wanted
    chosen = folder.load(checkpoint, config=tiny.CONFIG, variant=Variant(prediction_type="epsilon"))
    assert chosen.schedule.prediction_type == "epsilon"


def test_a_marker_tensor_sets_the_prediction_type(checkpoint):
    rewrite(checkpoint, lambda weights: {**weights, "v_pred": np.zeros(0, np.float32)})
    assert folder.load(checkpoint, config=tiny.CONFIG).schedule.prediction_type == "v_prediction"
    rewrite(checkpoint, lambda weights: {**weights, "ztsnr": np.zeros(0, np.float32)})
    with pytest.warns(Caution, match="ends in pure noise"):
        folder.load(checkpoint, config=tiny.CONFIG)


@pytest.mark.parametrize("text", ["model: [", "- 1", "model: 3", YAML.format("x0"), "!!python/object:os.system {}"])
def test_an_error_about_an_unusable_yaml_names_the_file(checkpoint, text):
    checkpoint.with_suffix(".yaml").write_text(text)
    with pytest.raises(ValueError, match=r"tiny-sd\.yaml") as error:
        folder.load(checkpoint, config=tiny.CONFIG)
    assert "\n" not in str(error.value)


def test_running_averages_are_used_only_on_request(recorded, checkpoint):
    with pytest.raises(ValueError, match=r"tiny-sd\.safetensors: it holds no running average \(EMA\) of .*: leave ema"):
        folder.load(checkpoint, config=tiny.CONFIG, variant=Variant(ema=True))

    def average(weights):
        of_unet = [name for name in weights if name.startswith("model.diffusion_model.")]
        # The class LitEma of CompVis gives these names to running averages.
        averages = {f"model_ema.{name[6:].replace('.', '')}": weights[name] + np.float32(1) for name in of_unet}
        return {**{k: v for k, v in weights.items() if not k.startswith("model_ema.")}, **averages}

    rewrite(checkpoint, average)
    plain = folder.load(checkpoint, config=tiny.CONFIG)
    averaged = folder.load(checkpoint, config=tiny.CONFIG, variant=Variant(ema=True))
    tiny.assert_same_params(plain.params, recorded.model.params)
    wanted = jax.tree.map(lambda x: np.asarray(x) + np.float32(1), recorded.model.params["unet"])
    tiny.assert_same_params(averaged.params, {**recorded.model.params, "unet": wanted})


def test_a_checkpoint_without_a_vae_is_used_with_another_vae(recorded, checkpoint):
    rewrite(checkpoint, lambda weights: {k: v for k, v in weights.items() if not k.startswith("first_stage_model.")})
    with pytest.raises(ValueError, match=r"no tensor's name starts with first_stage_model\. .*; give a VAE by --vae"):
        folder.load(checkpoint, config=tiny.CONFIG)
    assert folder.load_config(checkpoint) == SD15
    model = folder.load(checkpoint, config=tiny.CONFIG, variant=Variant(vae=str(recorded.folder / "vae")))
    tiny.assert_same_params(model.params, recorded.model.params)


def test_a_single_file_with_nan_is_refused(checkpoint):
    rewrite(checkpoint, lambda w: {**w, "model.diffusion_model.out.2.bias": np.full(4, np.nan, np.float32)})
    with pytest.raises(ValueError, match=r"tiny-sd\.safetensors: conv_out/bias holds NaN or infinity"):
        folder.load(checkpoint, config=tiny.CONFIG)
