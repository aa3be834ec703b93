"""Computes the outputs of the tiny model with diffusers and transformers. Needs PyTorch."""

from pathlib import Path

import numpy as np
import tiny
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.numpy import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from reversion_jax.weights.folder import WEIGHT_FILES


def shapes(scratch: Path) -> dict[str, dict[str, list[int]]]:
    """Returns {part: {name: shape}} of the files that diffusers and transformers write for the tiny config."""
    text = {k: v for k, v in tiny.CONFIG.text.to_json().items() if k not in ("architectures", "model_type")}
    models = {
        "text_encoder": CLIPTextModel(CLIPTextConfig(**text)),
        "unet": UNet2DConditionModel.from_config(tiny.CONFIG.unet.to_json()),
        "vae": AutoencoderKL.from_config(tiny.CONFIG.vae.to_json()),
    }
    found = {}
    for part, model in models.items():
        model.save_pretrained(scratch / part)
        stored = load_file(scratch / part / f"{WEIGHT_FILES[part]}.safetensors")
        # Names of weights in the files of SD 1.5 have this prefix. transformers 5 reads names with the prefix, but does
        # not write the prefix for new models.
        prefix = "text_model." if part == "text_encoder" else ""
        found[part] = {prefix + name.removeprefix(prefix): list(x.shape) for name, x in stored.items()}
    return found


def pipeline(folder: Path) -> StableDiffusionPipeline:
    """Returns diffusers' pipeline of a model folder, on the CPU in float32."""
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def outputs(pipe: StableDiffusionPipeline, x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns PyTorch's arrays for all names in tiny.OUTPUTS, by name; images are NCHW."""
    text, unet, vae = pipe.text_encoder, pipe.unet, pipe.vae
    t = {name: torch.from_numpy(array) for name, array in x.items()}
    ids, negative_ids, scale = t["ids"].long(), t["negative_ids"].long(), vae.config.scaling_factor
    with torch.no_grad():
        posterior = vae.encode(t["image"]).latent_dist
        found = {
            "text": text(ids).last_hidden_state,
            "unet": unet(t["latents"], t["timesteps"], t["states"]).sample,
            "unet_wide": unet(t["wide_latents"], t["timesteps"][1:], t["states"][1:]).sample,
            "vae_mean": scale * posterior.mean,
            "vae_std": scale * posterior.std,
            "vae_decoded": vae.decode(t["scaled_latents"] / scale).sample,
            "sampled": pipe(
                prompt_embeds=text(ids).last_hidden_state,
                negative_prompt_embeds=text(negative_ids).last_hidden_state,
                latents=t["latents"],
                guidance_scale=7.5,
                num_inference_steps=4,
                output_type="latent",
            ).images,
        }
    noisy = pipe.scheduler.add_noise(t["latents"], t["noise"], t["timesteps"].long())
    predicted = unet(noisy, t["timesteps"], text(ids).last_hidden_state).sample
    table = text.get_input_embeddings().weight
    found["row_grad"] = torch.autograd.grad(((predicted - t["noise"]) ** 2).mean(), table)[0][7]
    found["trajectory"] = _trajectory(pipe.scheduler, t["latents"], t["states"])
    return {name: tensor.detach().numpy() for name, tensor in found.items()}


def _trajectory(scheduler: DDIMScheduler, latents: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    scheduler.set_timesteps(10)
    levels = states.mean((1, 2))[:, None, None, None]
    for timestep in scheduler.timesteps:
        conditional = torch.tanh(latents) + levels * timestep / 1000
        unconditional = torch.tanh(latents) + levels.flip(0) * timestep / 1000
        noise = unconditional + 7.5 * (conditional - unconditional)
        latents = scheduler.step(noise, timestep, latents).prev_sample
    return latents
