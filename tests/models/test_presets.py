"""Tests model configs: the published files of SD 1.5, reading and writing, errors, and the number of parameters."""

import math

import pytest

from reversion_jax.diffusion.schedule import Schedule
from reversion_jax.models import presets
from reversion_jax.models.clip import CLIPTextConfig
from reversion_jax.models.unet import UNetConfig
from reversion_jax.models.vae import VAEConfig
from reversion_jax.weights import folder

# The config files that were published with Stable Diffusion 1.5.
TEXT = {
    "_name_or_path": "openai/clip-vit-large-patch14",
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "torch_dtype": "float32",
    "transformers_version": "4.22.0.dev0",
    "vocab_size": 49408,
}
UNET = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": [
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
VAE = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
CLASSES = {CLIPTextConfig: TEXT, UNetConfig: UNET, VAEConfig: VAE, Schedule: SCHEDULER}


@pytest.mark.parametrize("cls", CLASSES)
def test_the_published_configs_are_the_defaults(cls):
    assert cls.from_json(CLASSES[cls]) == cls()


@pytest.mark.parametrize("cls", CLASSES)
def test_a_config_written_as_json_is_read_back_unchanged(cls):
    assert cls.from_json(cls().to_json()) == cls()


@pytest.mark.parametrize(
    ("cls", "key", "value"),
    [
        (CLIPTextConfig, "hidden_act", "gelu"),
        (CLIPTextConfig, "architectures", ["CLIPTextModelWithProjection"]),
        (UNetConfig, "use_linear_projection", True),
        (UNetConfig, "attention_head_dim", [5, 10, 20, 20]),
        (UNetConfig, "num_attention_heads", 8),
        (UNetConfig, "class_embed_type", "timestep"),
        (UNetConfig, "num_class_embeds", 1000),
        (UNetConfig, "addition_embed_type", "text_time"),
        (UNetConfig, "dual_cross_attention", True),
        (UNetConfig, "only_cross_attention", True),
        (UNetConfig, "time_cond_proj_dim", 256),
        (UNetConfig, "act_fn", "gelu"),
        (UNetConfig, "flip_sin_to_cos", False),
        (UNetConfig, "mid_block_type", None),
        (UNetConfig, "transformer_layers_per_block", [1, 2, 10]),
        (UNetConfig, "resnet_time_scale_shift", "scale_shift"),
        (UNetConfig, "down_block_types", ["AttnDownBlock2D"] * 4),
        (UNetConfig, "up_block_types", ["UpBlock2D"] * 3),
        (VAEConfig, "act_fn", "gelu"),
        (VAEConfig, "use_quant_conv", False),
        (VAEConfig, "mid_block_add_attention", False),
        (VAEConfig, "shift_factor", 0.1159),
        (VAEConfig, "latents_mean", [0.0] * 4),
        (VAEConfig, "down_block_types", ["AttnDownEncoderBlock2D"] * 4),
        (Schedule, "prediction_type", "sample"),
        (Schedule, "beta_schedule", "squaredcos_cap_v2"),
        (Schedule, "trained_betas", [0.1]),
        (Schedule, "timestep_spacing", "ays"),
        (Schedule, "rescale_betas_zero_snr", True),
        (Schedule, "thresholding", True),
    ],
)
def test_an_error_about_an_unsupported_config_names_the_key(cls, key, value):
    with pytest.raises(ValueError, match=key) as raised:
        cls.from_json({**CLASSES[cls], key: value})
    assert "\n" not in str(raised.value)


def test_networks_of_different_widths_are_refused():
    with pytest.raises(ValueError, match="cross_attention_dim"):
        presets.ModelConfig(CLIPTextConfig(), UNetConfig(cross_attention_dim=1024), VAEConfig())
    with pytest.raises(ValueError, match="in_channels"):
        presets.ModelConfig(CLIPTextConfig(), UNetConfig(in_channels=9), VAEConfig())


def test_sd15_has_the_known_number_of_parameters():
    shapes = folder.parameter_shapes(presets.SD15)
    counts = {part: sum(map(math.prod, named.values())) for part, named in shapes.items()}
    assert counts == {"text_encoder": 123_060_480, "unet": 859_520_964, "vae": 83_653_863}
