"""Loads a separate VAE that replaces a model's own: a folder in diffusers' layout, or a single file."""

import functools
from pathlib import Path

from reversion_jax.models.presets import SD15
from reversion_jax.models.vae import VAEConfig
from reversion_jax.weights import compvis, hub, names, network
from reversion_jax.weights.layout import check_file, weight_files
from reversion_jax.weights.stored import open_safetensors, read_json

_PREFIX = "first_stage_model."


def resolve(vae: str) -> Path:
    """Returns the local folder or file of a VAE, which is downloaded first if `vae` is a hub id.

    vae: a folder with a config.json, or with a subfolder vae/; a .safetensors file; or a hub id. Raises ValueError if
    there is no such VAE; the message says what to do.
    """
    path = Path(vae).expanduser()
    if path.is_dir():
        return path / "vae" if (path / "vae" / "config.json").is_file() else path
    if path.exists():
        check_file(path)
        return path
    hub_id = hub.parse_id(vae)
    if not hub_id or path.suffix:
        raise ValueError(f"vae {vae!r} is neither a folder, nor a .safetensors file, nor a hub id such as owner/name")

    def choose(present: list[str]) -> list[str]:
        own = [name for name in present if "/" not in name]
        return ["config.json", *weight_files("vae", own, vae)]

    return hub.fetch(*hub_id, choose)


def open_vae(path: Path, config: VAEConfig = SD15.vae) -> tuple[VAEConfig, network.Network]:
    """Opens a VAE; returns its config and its weights.

    config: the config to use for a single file, which contains no config. The config of a folder must give latents of
    the same shape as `config` does. Raises ValueError if the latents have another shape, or if a file is missing or
    damaged.
    """
    if path.is_dir():
        try:
            own = VAEConfig.from_json(read_json(path / "config.json"))
        except ValueError as error:
            raise ValueError(f"{path} is not a VAE: {error}") from error
        if (own.latent_channels, own.downscale) != (config.latent_channels, config.downscale):
            raise ValueError(f"{path} is a VAE for another model: its latents have another shape")
        return own, network.open_folder(path, "vae")
    stored = open_safetensors(path)
    stored = {name if name.startswith(_PREFIX) else f"{_PREFIX}{name}": tensor for name, tensor in stored.items()}
    called = functools.partial(compvis.vae_names, config=config)
    return config, network.Network(path, stored, called, names.from_torch, names.to_torch)
