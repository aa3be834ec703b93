"""Defines the pre-training of the miniature model: the networks' sizes, the recipe's settings, and the scenes."""

import dataclasses

import numpy as np
from tqdm import tqdm

from reversion_jax.miniature import scenes
from reversion_jax.miniature.drawing import SIZE_PX
from reversion_jax.models.clip import CLIPTextConfig
from reversion_jax.models.presets import ModelConfig
from reversion_jax.models.unet import UNetConfig
from reversion_jax.models.vae import VAEConfig

MINIATURE = ModelConfig(
    text=CLIPTextConfig(
        vocab_size=745,  # the number of tokens that vocabulary.py makes from the captions
        bos_token_id=743,
        eos_token_id=744,
        pad_token_id=744,
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=32,
        projection_dim=128,
    ),
    unet=UNetConfig(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(64, 128),
        layers_per_block=1,
        attention_head_dim=4,
        cross_attention_dim=128,
        norm_num_groups=16,
    ),
    vae=VAEConfig(
        sample_size=64,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        norm_num_groups=8,
    ),
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of the three training stages. Batch sizes are in samples; a rate is the highest learning rate."""

    seed: int = 0
    num_scenes: int = 48_000  # number of training pictures
    vae_steps: int = 5000
    vae_batch: int = 16
    vae_rate: float = 2e-3
    kl_weight: float = 3e-6  # weight of the KL term in the VAE's loss
    text_steps: int = 700
    text_batch: int = 128
    text_rate: float = 1e-3
    unet_steps: int = 5000
    unet_batch: int = 64
    unet_rate: float = 1.5e-3
    joint_text_rate: float = 3e-4  # learning rate of the text encoder while the UNet is trained
    min_snr: float = 5.0  # upper limit of the signal-to-noise ratio in the min-SNR weights
    empty_captions: float = 0.1  # share of captions that are empty, for classifier-free guidance
    ema_decay: float = 0.999  # decay per step of the running average of the weights


class World:
    """The training scenes. The picture of a scene is drawn once; its caption is chosen anew at every step."""

    def __init__(self, recipe: Recipe):
        self._seed = recipe.seed
        self.pictures = np.empty((recipe.num_scenes, SIZE_PX, SIZE_PX, 3), np.uint8)
        self.scenes = []
        drawn = scenes.captioned(recipe.seed, recipe.num_scenes)
        for i, (picture, scene, _) in enumerate(tqdm(drawn, "scenes", recipe.num_scenes, mininterval=1)):
            self.pictures[i] = picture
            self.scenes.append(scene)

    def draw_batch(self, stage: str, step: int, size: int) -> tuple[np.ndarray, np.random.Generator]:
        """Returns the indices [size] of a step's scenes, and a random generator.

        The indices and the generator depend only on the seed, the stage and the step.
        """
        rng = np.random.default_rng([self._seed, sum(stage.encode()), step])
        return rng.integers(len(self.scenes), size=size), rng

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Returns the pictures at `indices`, float32 [N, 64, 64, 3] in [-1, 1]."""
        return self.pictures[indices].astype(np.float32) / 127.5 - 1
