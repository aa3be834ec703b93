"""Draws pictures of prompts into a folder: a PNG each, which says how it was made, and a grid of them."""

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from reversion_jax.config import Settings, check
from reversion_jax.diffusion import own_sampler, samplers
from reversion_jax.drawing import generate, pictures, words
from reversion_jax.drawing.words import Words
from reversion_jax.models.tokenizer import Tokenizer, check_text
from reversion_jax.runtime import files, parallel
from reversion_jax.runtime.errors import warn
from reversion_jax.weights import embeddings
from reversion_jax.weights.load import load_model
from reversion_jax.weights.resolve import read_config
from reversion_jax.weights.variant import Variant

_MAX_ON_GRID = 100


def read_prompts(prompts: Sequence[str], file: str | None) -> list[str]:
    """The prompts of the command line, then those of a file, one a line; ValueError if there is none."""
    try:
        if file and not files.is_file(files.place(file)):
            raise FileNotFoundError(f"no file of prompts at {file}")
        lines = files.place(file).read_bytes().decode("utf-8-sig").splitlines() if file else []
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8: save it as such") from error
    given = [*prompts, *(line.strip() for line in lines if line.strip())]
    if not given:
        raise ValueError("no prompt: give --prompt, or --prompts_file with one a line")
    return given


class Source(NamedTuple):
    """What to draw with, as the command's flags name it."""

    workdir: str | None
    step: int | None
    model: str | None
    embeddings: Sequence[str]
    settings: Mapping[str, Any]  # that override the run's, by the names of config.py


def sample(source: Source, prompts: Sequence[str], out: str | None, *, num_images: int, seed: int) -> epath.Path:
    """Draws into the folder `out`, by default a new one beside the run; returns the grid's path. See `draw_into`."""
    workdir = files.place(source.workdir) if source.workdir else None
    found = words.read(workdir, source.model, source.embeddings, source.step)
    # A size that is given replaces the run's own, whatever its shape.
    square = {"height": 0, "width": 0} if "resolution" in source.settings else {}
    found = found._replace(settings=dataclasses.replace(found.settings, **{**square, **source.settings}))
    check(found.settings)
    folder = files.place(out) if out else free_folder((workdir or epath.Path()) / "samples")
    try:
        grid = draw_into(found, prompts, folder, num_images=num_images, seed=seed)
    except BaseException:
        with contextlib.suppress(OSError, ValueError):  # a folder that holds something stays
            for made in () if out else (folder, folder.parent):
                made.rmdir()
        raise
    print(f"pictures: {folder}, up to {_MAX_ON_GRID} of them on {grid}")
    return grid


def draw_into(found: Words, prompts: Sequence[str], out: epath.Path, *, num_images: int, seed: int) -> epath.Path:
    """Writes `num_images` PNGs of each prompt, as they are drawn, and a grid; returns the grid's path.

    Image i of a prompt is drawn from noise of seed + i; every PNG says in its metadata how it was made.
    """
    settings = found.settings
    samplers.check(settings.sampler)  # before a model is fetched
    for text in (*prompts, settings.negative_prompt):
        check_text(text)
    if num_images < 1 or not 0 <= seed <= 2**32 - num_images:
        raise ValueError(f"--num_images={num_images} --seed={seed}: at least 1 image, seeds from 0 to 2**32 - 1")
    width = read_config(settings.model).text.hidden_size  # before the weights are fetched and read
    embeddings.check_width(found.tokens, width, settings.model)
    out.mkdir(parents=True, exist_ok=True)
    rows_per_token = {name: len(rows) for name, rows in found.tokens.items()}
    mesh = parallel.make_mesh(settings.devices or jax.device_count(), settings.devices, settings.weight_shards)
    sd, tokenizer, _ = load_model(settings.model, rows_per_token, settings.precision, mesh, Variant.of(settings))
    for complaint in complaints(prompts, settings.negative_prompt, tokenizer):
        warn(complaint)
    sampler, _ = own_sampler.choose(settings.sampler, sd.own_sampler, sd.schedule)
    settings = dataclasses.replace(settings, sampler=sampler)  # pictures say what they were drawn by
    print(f"{settings.model}: {found.origin}")
    texts = [prompt for prompt in prompts for _ in range(num_images)]
    seeds = [seed + i for i in range(num_images)] * len(prompts)
    batches = generate.draw_batches(
        sd,
        tokenizer,
        texts,
        seeds,
        np.concatenate([np.zeros((0, width), np.float32), *found.tokens.values()]),
        sampling=generate.Sampling.of(found.settings, at_most=len(texts)),
        progress="drawing",
    )
    about = _metadata(found._replace(settings=settings))
    shown: list[np.ndarray] = []
    for n, image in enumerate(generate.to_uint8(image) for batch in batches for image in batch):
        path = out / f"{n // num_images:03d}-{_file_name(texts[n])}-{seeds[n]}.png"
        own = {"prompt": texts[n], "seed": str(seeds[n]), **about}
        pictures.save_png(path, image, own | {"parameters": parameters(texts[n], seeds[n], settings)})
        if len(shown) < _MAX_ON_GRID:
            shown.append(image)
    of_all = {"prompts": "\n".join(prompts), "seed": str(seed), **about}
    pictures.save_png(out / "grid.png", pictures.grid(np.stack(shown)), of_all)
    return out / "grid.png"


def _metadata(found: Words) -> dict[str, str]:
    """What the pictures of one call have in common."""
    settings = found.settings
    return {
        "model": settings.model,
        "sampler": settings.sampler,
        "steps": str(settings.sample_steps),
        "guidance_scale": str(settings.guidance_scale),
        "height": str(settings.size[0]),
        "width": str(settings.size[1]),
        "negative_prompt": settings.negative_prompt,
        "words": found.origin,
    }


# A1111's names of samplers.
_A1111 = {
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_karras": "DPM++ 2M Karras",
}


def parameters(prompt: str, seed: int, settings: Settings) -> str:
    """How a picture was made, as A1111 writes it and other tools read it."""
    height, width = settings.size
    values = {
        "Steps": settings.sample_steps,
        "Sampler": _A1111.get(settings.sampler, settings.sampler.upper()),
        "CFG scale": f"{settings.guidance_scale:g}",
        "Seed": seed,
        "Size": f"{width}x{height}",
        "Model": Path(settings.model).stem,
        **({"Clip skip": settings.clip_skip + 1} if settings.clip_skip else {}),
    }
    negative = [f"Negative prompt: {settings.negative_prompt}"] if settings.negative_prompt else []
    return "\n".join([prompt, *negative, ", ".join(f"{key}: {value}" for key, value in values.items())])


# What other tools' prompts can say, and this one cannot.
_GRAMMAR = {
    "a weight": r"\([^()]*:\s*[\d.]+\s*\)",
    "attention brackets": r"\(\([^()]+\)\)|\[\[[^\[\]]+\]\]",
    "ComfyUI's name of an embedding": r"\bembedding:\S+",
    "A1111's name of a LoRA or hypernetwork": r"<(lora|lyco|hypernet):[^>]*>",
    "prompt editing": r"\[[^\[\]]*:[^\[\]]*:\s*[\d.]+\s*\]",
    "A1111's word between chunks": r"\b(BREAK|AND)\b",
    "compel's weight": r"\w[+]{2,}|\w-{2,}(?=\s|$)",
}


def complaints(prompts: Sequence[str], negative_prompt: str, tokenizer: Tokenizer) -> list[str]:
    """What a user may not have meant: words that are not learned, learned ones left out, prompts that are cut."""
    found = []
    learned = tuple(tokenizer.rows_per_token)
    has_learned = lambda prompt: (tokenizer(prompt) >= tokenizer.vocab_size).any()
    for prompt in prompts:
        if learned and not has_learned(prompt) and not has_learned(negative_prompt):
            found.append(f"none of {', '.join(learned)} in {prompt!r}: what was learned has no part in it")
    for prompt in (*prompts, negative_prompt):
        for name in re.findall(r"<[\w-]+>", prompt):
            if name not in learned and not tokenizer.knows(name):
                found.append(f"{name} in {prompt!r} is no learned word here, and is read letter by letter")
        for kind, pattern in _GRAMMAR.items():
            if said := re.search(pattern, prompt):
                found.append(f"{said[0]!r} in {prompt!r} is read letter by letter, not as {kind}")
        if cut := tokenizer.truncated(prompt):
            found.append(f"{prompt!r} is too long; left out: {cut!r}")
    for name in learned:
        if not name.startswith("<") and len(tokenizer.own_ids(name)) == 1:
            found.append(f"the learned word {name} replaces the model's own word {name!r} in every prompt")
    return found


def free_folder(parent: epath.Path) -> epath.Path:
    """Makes the first of parent/000, parent/001, … that is not there yet: no other command gets the same one."""
    parent.mkdir(parents=True, exist_ok=True)
    paths = (parent / f"{number:03d}" for number in itertools.count())
    return next(path for path in paths if not path.exists() and _is_made(path))


def _is_made(path: epath.Path) -> bool:
    """Makes a folder; False if another command was faster."""
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        return True
    return False


def _file_name(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "image"
