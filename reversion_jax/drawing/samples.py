"""Draws pictures of prompts into a folder: PNGs with metadata, a grid, and for an interpolation also a clip."""

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from reversion_jax.config import Settings, check
from reversion_jax.diffusion import own_sampler, samplers
from reversion_jax.diffusion.start import skipped_steps
from reversion_jax.drawing import generate, init_image, metadata, pictures, shots, words
from reversion_jax.drawing.init_image import InitImage
from reversion_jax.drawing.words import Words
from reversion_jax.models.tokenizer import Tokenizer, check_text
from reversion_jax.runtime import files, parallel
from reversion_jax.runtime.errors import warn
from reversion_jax.weights import embeddings
from reversion_jax.weights.load import Model, load_model
from reversion_jax.weights.resolve import read_config
from reversion_jax.weights.variant import Variant

_MAX_ON_GRID = 100
NUM_IMAGES = 4  # images of each prompt, by default
CLIP = "clip.webp"


def read_prompts(prompts: Sequence[str], file: str | None) -> list[str]:
    """Returns `prompts`, then the prompts in `file`, one per line. Raises ValueError or OSError for bad input."""
    try:
        if file and not files.is_file(files.place(file)):
            raise FileNotFoundError(f"no file of prompts at {file}")
        lines = files.place(file).read_bytes().decode("utf-8-sig").splitlines() if file else []
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a text file in UTF-8: save it in that encoding") from error
    given = [*prompts, *(line.strip() for line in lines if line.strip())]
    if not given:
        raise ValueError("no prompt: give --prompt, or --prompts_file with one per line")
    return given


class Source(NamedTuple):
    """The words, model and settings to draw with, as the flags of the `sample` command give them."""

    workdir: str | None
    step: int | None
    model: str | None
    embeddings: Sequence[str]
    settings: Mapping[str, Any]  # values that replace the run's settings, by their names in config.py


def sample(
    source: Source,
    prompts: Sequence[str],
    out: str | None,
    *,
    num_images: int | None = None,
    seed: int = 0,
    init_image: str | None = None,
    strength: float | None = None,
    interpolate: int | None = None,
    to_seed: int | None = None,
) -> epath.Path:
    """Draws pictures into the folder `out`; returns the grid's path. See `draw_into`.

    out: if None, a new folder is made in WORKDIR/samples or, without a run, in ./samples.
    interpolate: if given, a clip of this many frames is drawn instead of pictures, see `clip_into`.
    Raises ValueError if an argument needs another one that is not given, or excludes another one that is given.
    """
    if strength is not None and not init_image:
        raise ValueError(f"--strength={strength} says how much --init_image changes: give --init_image too")
    if to_seed is not None and interpolate is None:
        raise ValueError(f"--to_seed={to_seed} is the last seed of a clip: give --interpolate=FRAMES too")
    if num_images is not None and interpolate is not None:
        raise ValueError("--num_images is for pictures, --interpolate for one clip: give only one of these flags")
    workdir = files.place(source.workdir) if source.workdir else None
    found = words.read(workdir, source.model, source.embeddings, source.step)
    # If a resolution is given, pictures are square even if the run's pictures are not.
    square = {"height": 0, "width": 0} if "resolution" in source.settings else {}
    found = found._replace(settings=dataclasses.replace(found.settings, **{**square, **source.settings}))
    check(found.settings)
    init = _read(init_image, strength, found.settings) if init_image else None
    folder = files.place(out) if out else free_folder((workdir or epath.Path()) / "samples")
    try:
        if interpolate is not None:
            grid = clip_into(found, prompts, folder, frames=interpolate, seed=seed, to_seed=to_seed, init=init)
        else:
            count = NUM_IMAGES if num_images is None else num_images
            grid = draw_into(found, prompts, folder, num_images=count, seed=seed, init=init)
    except BaseException:
        with contextlib.suppress(OSError, ValueError):  # a folder with files stays, because rmdir fails for it
            for made in () if out else (folder, folder.parent):
                made.rmdir()
        raise
    clip = "" if interpolate is None else f"; clip: {folder / CLIP}"
    print(f"pictures: {folder}; grid of at most {_MAX_ON_GRID}: {grid}{clip}")
    return grid


def _read(file: str, strength: float | None, settings: Settings) -> InitImage:
    strength = init_image.STRENGTH if strength is None else strength
    skipped_steps(settings.sample_steps, strength)  # raises for a wrong strength, before a model is downloaded
    return init_image.read(file, settings.size, settings.resize, strength)


def draw_into(
    found: Words,
    prompts: Sequence[str],
    out: epath.Path,
    *,
    num_images: int,
    seed: int,
    init: InitImage | None = None,
    load: Callable[..., Model] = load_model,
) -> epath.Path:
    """Writes `num_images` PNGs of each prompt, and a grid; returns the grid's path.

    Image i of a prompt is drawn from the noise of seed + i. The metadata of each PNG says how it was made.
    init: picture for image to image. load: called instead of `load_model`, for instance to reuse a loaded model.
    """
    planned = shots.pictures(prompts, num_images, seed)
    return _draw(found, prompts, planned, out, {"seed": str(seed)}, init, load=load)


def clip_into(
    found: Words,
    prompts: Sequence[str],
    out: epath.Path,
    *,
    frames: int,
    seed: int,
    to_seed: int | None = None,
    init: InitImage | None = None,
) -> epath.Path:
    """Writes a clip from one prompt or seed to another, the clip's frames as PNGs, and a grid; returns the grid's path.

    The first and the last frame are what `draw_into` draws for the two prompts or seeds. See `shots.frames`.
    """
    planned = shots.frames(prompts, seed, to_seed, frames)
    ends = {"seed": str(seed)} | ({} if to_seed is None else {"to_seed": str(to_seed)})
    return _draw(found, prompts, planned, out, ends, init, clip=True)


def _draw(
    found: Words,
    prompts: Sequence[str],
    planned: Sequence[shots.Shot],
    out: epath.Path,
    of_all: Mapping[str, str],
    init: InitImage | None,
    clip: bool = False,
    load: Callable[..., Model] = load_model,
) -> epath.Path:
    """Draws and writes the planned pictures; returns the grid's path. of_all: metadata that only the grid gets."""
    settings = found.settings
    samplers.check(settings.sampler)  # checked before a model is downloaded
    for text in (*prompts, settings.negative_prompt):
        check_text(text)
    width = read_config(settings.model).text.hidden_size  # to check the words before the weights are downloaded
    embeddings.check_width(found.tokens, width, settings.model)
    out.mkdir(parents=True, exist_ok=True)
    rows_per_token = {name: len(rows) for name, rows in found.tokens.items()}
    mesh = parallel.make_mesh(settings.devices or jax.device_count(), settings.devices, settings.weight_shards)
    sd, tokenizer, _ = load(settings.model, rows_per_token, settings.precision, mesh, Variant.of(settings))
    for complaint in complaints(prompts, settings.negative_prompt, tokenizer):
        warn(complaint)
    sampler, _ = own_sampler.choose(settings.sampler, sd.own_sampler, sd.schedule)
    settings = dataclasses.replace(settings, sampler=sampler)  # the metadata name the sampler that "auto" chose
    print(f"{settings.model}: {found.origin}")
    batches = generate.draw_batches(
        sd,
        tokenizer,
        [shot.prompt for shot in planned],
        [shot.seed for shot in planned],
        np.concatenate([np.zeros((0, width), np.float32), *found.tokens.values()]),
        sampling=generate.Sampling.of(found.settings, at_most=len(planned)),
        init=init,
        progress="drawing",
    )
    about = metadata.of_all(found._replace(settings=settings), init)
    shown: list[np.ndarray] = []
    images = (image for batch in batches for image in generate.to_uint8(batch))
    for shot, image in zip(planned, images, strict=True):
        own = shot.metadata() | about
        if isinstance(shot.prompt, str) and isinstance(shot.seed, int):  # A1111's format has no interpolation
            own["parameters"] = metadata.parameters(shot.prompt, shot.seed, settings, init)
        pictures.save_png(out / f"{shot.name}.png", image, own)
        if clip or len(shown) < _MAX_ON_GRID:
            shown.append(image)
    if clip:
        pictures.save_clip(out / CLIP, shown)
    of_all = {"prompts": "\n".join(prompts), **of_all, **about}
    pictures.save_png(out / "grid.png", pictures.grid(np.stack(shown[:_MAX_ON_GRID])), of_all)
    return out / "grid.png"


# Prompt syntax that other tools support and this package does not.
_GRAMMAR = {
    "a weight": r"\([^()]*:\s*[\d.]+\s*\)",
    "attention brackets": r"\(\([^()]+\)\)|\[\[[^\[\]]+\]\]",
    "ComfyUI's name for an embedding": r"\bembedding:\S+",
    "A1111's name for a LoRA or hypernetwork": r"<(lora|lyco|hypernet):[^>]*>",
    "prompt editing": r"\[[^\[\]]*:[^\[\]]*:\s*[\d.]+\s*\]",
    "A1111's separator between chunks": r"\b(BREAK|AND)\b",
    "compel's weight": r"\w[+]{2,}|\w-{2,}(?=\s|$)",
}


def complaints(prompts: Sequence[str], negative_prompt: str, tokenizer: Tokenizer) -> list[str]:
    """Returns warnings about likely mistakes in prompts, such as unknown learned words or other tools' syntax."""
    found = []
    learned = tuple(tokenizer.rows_per_token)
    has_learned = lambda prompt: (tokenizer(prompt) >= tokenizer.vocab_size).any()
    for prompt in prompts:
        if learned and not has_learned(prompt) and not has_learned(negative_prompt):
            found.append(f"none of {', '.join(learned)} in {prompt!r}: the picture does not use what was learned")
    for prompt in (*prompts, negative_prompt):
        for name in re.findall(r"<[\w-]+>", prompt):
            if name not in learned and not tokenizer.knows(name):
                found.append(f"{name} in {prompt!r} is not a learned word here, so it is read letter by letter")
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
    """Creates the first unused folder of parent/000, parent/001, …; two commands never get the same folder."""
    parent.mkdir(parents=True, exist_ok=True)
    paths = (parent / f"{number:03d}" for number in itertools.count())
    return next(path for path in paths if not path.exists() and _is_made(path))


def _is_made(path: epath.Path) -> bool:
    """Creates a folder; returns False if another command has just created the folder."""
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        return True
    return False
