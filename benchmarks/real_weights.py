"""Checks, with the real weights of a model, that this package computes the same as PyTorch, and writes a report.

    python benchmarks/real_weights.py --model FOLDER_OR_HUB_ID --clip FOLDER_OR_HUB_ID --exemplars exemplars/hug \
        --words learned_embeds.bin --out runs/real_weights

We have no real weights where we work, so please send us the report OUT/results.md and the pictures in OUT. The script
needs the extra `interop`. The script takes minutes on a GPU and hours on a CPU. Smaller values of --pixels,
--sample_steps and --train_steps make the script faster. If --clip, --exemplars or --words is not given, the script
leaves out the check that needs it.
"""

import argparse
import ast
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from PIL import Image

import reversion_jax as rj
from reversion_jax.drawing import generate, pictures
from reversion_jax.evaluation import clip_features
from reversion_jax.runtime import files

GUIDANCE, SEEDS = 7.5, (0, 1)
PROMPTS = ("a photo of an astronaut riding a horse", "a teapot inside a glass bowl")


def theirs(pipe: Any, prompts: Sequence[str], noise: np.ndarray, options: argparse.Namespace) -> np.ndarray:
    """Returns diffusers' pictures, uint8 [N, H, W, 3], drawn from the noise [N, H, W, C]."""
    latents = torch.from_numpy(noise.transpose(0, 3, 1, 2).copy()).to(pipe.device)
    size = {"height": options.pixels, "width": options.pixels, "num_inference_steps": options.sample_steps}
    images = pipe(list(prompts), latents=latents, guidance_scale=GUIDANCE, output_type="np", **size).images
    return np.round(255 * images).astype(np.uint8)


def ours(model: Any, prompts: Sequence[str], options: argparse.Namespace, words: Any = None) -> np.ndarray:
    """Returns our pictures of the prompts, uint8 [N, H, W, 3], drawn from the noise that `theirs` gets."""
    how = {"num_steps": options.sample_steps, "guidance_scale": GUIDANCE, "resolution": options.pixels}
    seeds = SEEDS[: len(prompts)]
    return generate.to_uint8(rj.draw(model, prompts, words, seeds=seeds, sampler="ddim", progress="ours", **how))


def compare_pictures(name: str, pipe: Any, model: Any, prompts: Sequence[str], options: Any, words: Any = None) -> dict:
    """Writes our pictures and diffusers' into OUT/<name>.png. Returns how much they differ, in levels of 0 to 255."""
    size = (options.pixels, options.pixels)
    noise = np.asarray(generate.initial_noise(SEEDS[: len(prompts)], model.sd.config, size))
    of_both = [ours(model, prompts, options, words), theirs(pipe, prompts, noise, options)]
    pictures.save_png(options.out / f"{name}.png", pictures.grid(np.concatenate(of_both), columns=len(prompts)))
    apart = np.abs(of_both[0].astype(int) - of_both[1])
    return {"largest difference (levels)": int(apart.max()), "mean difference (levels)": float(apart.mean())}


def compare_gradients(pipe: Any, model: Any, options: argparse.Namespace) -> dict:
    """Compares our gradient of the denoising loss with PyTorch's, with respect to a row that replaces a word."""
    side, width = options.pixels // model.sd.config.vae.downscale, model.sd.config.text.hidden_size
    rng = np.random.default_rng(0)
    latents, noise = rng.normal(size=(2, 1, side, side, 4)).astype(np.float32)
    row, at = rng.normal(scale=0.02, size=(1, width)).astype(np.float32), 500

    def loss(row: jax.Array) -> jax.Array:
        states = rj.encode_text(model, ["cat <R> stone"], {"<R>": row})
        predicted = rj.predict(model, jnp.asarray(latents), jnp.array([at]), states)
        return jnp.mean(jnp.square(predicted - noise))

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(row))
    ids = torch.tensor(pipe.tokenizer(["cat on stone"], padding="max_length").input_ids, device=pipe.device)
    place = int((ids[0] == pipe.tokenizer("on").input_ids[1]).nonzero()[0])
    learned = torch.from_numpy(row).to(pipe.device).requires_grad_()
    mask = torch.zeros(ids.shape[1], 1, device=pipe.device)
    mask[place] = 1
    hook = pipe.text_encoder.get_input_embeddings().register_forward_hook(
        lambda module, given, found: found * (1 - mask) + learned * mask
    )
    channels_first = lambda x: torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).to(pipe.device)
    states = pipe.text_encoder(ids).last_hidden_state
    predicted = pipe.unet(channels_first(latents), torch.tensor([at], device=pipe.device), states).sample
    wanted = torch.nn.functional.mse_loss(predicted, channels_first(noise))
    wanted.backward()
    hook.remove()
    mine, other = np.asarray(gradient[0], np.float64), learned.grad[0].cpu().numpy().astype(np.float64)
    cosine = mine @ other / np.linalg.norm(mine) / np.linalg.norm(other)
    return {
        "loss, ours and theirs": f"{float(value):.6f}, {float(wanted.detach()):.6f}",
        "cosine of the gradients": float(cosine),
        "relative difference (L2)": float(np.linalg.norm(mine - other) / np.linalg.norm(other)),
    }


def compare_words(pipe: Any, model: Any, options: argparse.Namespace) -> dict:
    """Compares our pictures and diffusers' with a learned word, such as the word painted_on of ReVersion's authors."""
    words = {"<R>": next(iter(rj.read_words(options.words).values()))}
    pipe.load_textual_inversion({"<R>": torch.from_numpy(np.asarray(words["<R>"])[0])}, token="<R>")
    return compare_pictures("words", pipe, model, ["cat <R> stone", "flower <R> T-shirt"], options, words)


def compare_clip(options: argparse.Namespace) -> dict:
    """Compares the features of pictures and texts that transformers' CLIPModel and our CLIP compute."""
    clip = clip_features.load(options.clip)
    network = transformers.CLIPModel.from_pretrained(options.clip).eval()
    shown = [Image.open(file).convert("RGB") for file in sorted(options.out.glob("*.png"))]
    pixels = torch.from_numpy(np.stack([clip.preprocessing(each).transpose(2, 0, 1) for each in shown]))
    ids = torch.from_numpy(np.asarray(clip.tokenizer(list(PROMPTS)))).long()
    with torch.no_grad():
        found = {"pictures": network.get_image_features(pixels), "texts": network.get_text_features(ids)}
    mine = {"pictures": clip_features.of_pictures(clip, shown), "texts": clip_features.of_texts(clip, PROMPTS)}
    lowest = {}
    for name, features in found.items():
        values = getattr(features, "pooler_output", features).numpy()
        values /= np.linalg.norm(values, axis=-1, keepdims=True)
        lowest[f"lowest cosine of {name}"] = float(np.min(np.sum(values * mine[name], axis=-1)))
    return lowest


def train(options: argparse.Namespace) -> dict:
    """Trains a short run on real exemplars in the folder OUT/run. Returns the number of steps and the last metrics."""
    config = rj.get_config()
    config.update({"model": options.model, "exemplars": options.exemplars, "steps": options.train_steps})
    config.update({"resolution": options.pixels, "relation": Path(options.exemplars).name})
    config.checkpoint_every_steps = config.preview_every_steps = options.train_steps
    config.update({key: _value(text) for key, _, text in (each.partition("=") for each in options.set)})
    (run,) = rj.learn(config, options.out / "run")
    last = json.loads((options.out / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    return {"steps": run.step, **{name: value for name, value in last.items() if isinstance(value, float)}}


def _value(text: str) -> Any:
    """Returns the value of a setting: the number or other Python literal that the text is, or else the text itself."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def page(results: dict[str, dict]) -> str:
    """Returns the results as Markdown."""
    versions = {module.__name__: module.__version__ for module in (jax, torch, diffusers, transformers)}
    device = f"{jax.devices()[0].device_kind}, PyTorch on {'CUDA' if torch.cuda.is_available() else 'CPU'}"
    lines = ["# This package beside PyTorch, on real weights", "", f"{device}; Python {platform.python_version()}, "]
    lines[-1] += ", ".join(f"{name} {version}" for name, version in versions.items())
    for name, values in results.items():
        lines += ["", f"## {name}", "", "| what | value |", "|---|---|"]
        lines += [f"| {what} | {f'{v:.6g}' if isinstance(v, float) else v} |" for what, v in values.items()]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a diffusers folder or hub id of Stable Diffusion 1.x")
    parser.add_argument("--clip", help="the folder or hub id of a CLIP")
    parser.add_argument("--exemplars", help="a folder of exemplars: train a short run on them")
    parser.add_argument("--words", help="an embedding file, such as painted_on by ReVersion's authors")
    parser.add_argument("--out", type=Path, default=Path("runs/real_weights"))
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--sample_steps", type=int, default=50)
    parser.add_argument("--train_steps", type=int, default=200)
    parser.add_argument("--set", action="append", default=[], help="a setting of the short run, KEY=VALUE; repeatable")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(options.model, safety_checker=None)
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    pipe = pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    model = rj.load_model(options.model, precision="float32")
    results = {"pictures": compare_pictures("pictures", pipe, model, PROMPTS, options)}
    results["row gradient"] = compare_gradients(pipe, model, options)
    if options.words:
        results["a learned word drawn"] = compare_words(pipe, model, options)
    if options.clip:
        results["CLIP features"] = compare_clip(options)
    del pipe, model
    if options.exemplars:
        results[f"{options.train_steps} steps of training"] = train(options)
    files.write(options.out / "results.json", json.dumps(results, indent=1) + "\n")
    files.write(options.out / "results.md", page(results))
    print(
        page(results), f"\nplease send us {options.out}/results.md and the pictures in {options.out}", file=sys.stdout
    )


if __name__ == "__main__":
    main()
