"""Draws prompts with learned words.

With what a training run learned; in front of <R>, <R-inv> turns the relation round:

    python -m reversion_jax.sample --workdir runs/miniature --prompt "red circle <R> a blue star"
    python -m reversion_jax.sample --workdir runs/miniature --prompt "blue star <R-inv> <R> red circle"

Or by that prompt and its inverse at once:

    python -m reversion_jax.sample --workdir runs/miniature --prompt "red circle <R> blue star" --both_ways=mean

Or with any Stable Diffusion 1.x and embedding files (this project's, diffusers', ReVersion's, A1111's), or none:

    python -m reversion_jax.sample --model FOLDER_OR_HUB_ID --embedding hug.safetensors --prompt "cat <R> teapot"
"""

import itertools
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from etils import epath

from reversion_jax import files
from reversion_jax.errors import one_line, parse_flags

_GRID = 100  # pictures on it at most


class Words(NamedTuple):
    """What there is to draw with."""

    config: object  # settled ConfigDict: the training run's, or the defaults for the model
    tokens: dict  # rows [S, D] by placeholder token
    origin: str  # of the tokens, for people


def read_words(workdir: epath.Path | None, model: str | None, embedding_files: list[str]) -> Words:
    """The words of a training run (if any) and of embedding files, each "FILE" or "TOKEN=FILE". ValueError, OSError."""
    import numpy as np

    from reversion_jax import config as settings
    from reversion_jax import embeddings, job
    from reversion_jax.inversion.prompts import INVERSE

    if not workdir and not model:
        raise ValueError("nothing to draw with: give --workdir=RUN or --model=FOLDER_OR_HUB_ID")
    tokens, origins = {}, []
    if workdir:
        config, rows, step = job.load_rows(workdir)
        tokens = dict(zip(job.PLACEHOLDERS, np.split(np.asarray(rows), len(job.PLACEHOLDERS)), strict=True))
        if not config.inverse_share:
            del tokens[INVERSE]  # nothing was learned for it
        origins.append(f"{config.relation} by {config.method}, {step} of {config.steps} steps trained")
    else:
        config = settings.get_config()
        config.model = model
        config = settings.settle(config)
    config = config.copy_and_resolve_references().unlock()
    config.model = model or config.model
    for file in embedding_files:
        token, path = ("", file) if Path(file).is_file() or "=" not in file else file.split("=", 1)
        found = embeddings.read(files.place(path).expanduser())
        if token:
            if len(found) != 1:
                raise ValueError(f"{path} holds {len(found)} tokens ({', '.join(found)}): give it without {token}=")
            found = dict(zip([token], found.values(), strict=True))
        for name, rows in found.items():
            if name in tokens:
                raise ValueError(f"{name} is given twice, also by {path}: name one anew, --embedding=TOKEN=FILE")
            tokens[name] = rows
        origins.append(f"{', '.join(found)} from {path}")
    return Words(config, tokens, "; ".join(origins) or "no learned words")


def read_prompts(prompts: list[str], file: str | None) -> list[str]:
    """The prompts of the command line, then those of a file, one a line; ValueError if there is none."""
    try:
        lines = files.place(file).read_bytes().decode("utf-8-sig").splitlines() if file else []
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8: save it as such") from error
    prompts = [*prompts, *(line.strip() for line in lines if line.strip())]
    if not prompts:
        raise ValueError("no prompt: give --prompt, or --prompts_file with one a line")
    return prompts


def turn_round(prompts: list[str], tokens: Collection[str]) -> list[str]:
    """Each prompt "A <R> B" as "B <R-inv> <R> A". ValueError where it is none, or where there is no <R-inv>."""
    from reversion_jax.inversion.prompts import INVERSE, RELATION, inverse

    if not {RELATION, INVERSE} <= set(tokens):
        raise ValueError(f"--both_ways needs {RELATION} and {INVERSE}; there is {', '.join(tokens) or 'neither'}")
    turned = []
    for prompt in prompts:
        try:
            turned.append(inverse(prompt.replace(RELATION, "{}")))
        except ValueError as error:
            raise ValueError(f"--both_ways cannot turn {prompt!r} round: {error}") from error
    return turned


def sample(
    words: Words, prompts: list[str], out: epath.Path, *, num_images: int, seed: int, both_ways: str | None = None
) -> epath.Path:
    """Writes `num_images` PNGs of each prompt, as they are drawn, and a grid; returns the grid's path.

    Image i of a prompt is drawn from noise of seed + i; every PNG says in its metadata how it was made.
    """
    import jax
    import numpy as np

    from reversion_jax import generate, job, parallel, pictures
    from reversion_jax.diffusion import samplers

    config = words.config
    samplers.get(config.sampler)  # before a model is fetched
    if num_images < 1 or not 0 <= seed <= 2**32 - num_images:
        raise ValueError(f"--num_images={num_images} --seed={seed}: at least 1 image, seeds from 0 to 2**32 - 1")
    second = np.repeat(turn_round(prompts, words.tokens), num_images).tolist() if both_ways else None
    out.mkdir(parents=True, exist_ok=True)
    rows_per_token = {name: len(rows) for name, rows in words.tokens.items()}
    mesh = parallel.make_mesh(config.devices or jax.device_count(), config.devices, config.weight_shards)
    sd, tokenizer = job.load_model(config.model, rows_per_token, config.precision, mesh)
    width = sd.config.text.hidden_size
    for name, rows in words.tokens.items():
        if rows.shape[1] != width:
            wanted = f"{config.model} has {width}"
            raise ValueError(f"{name} is {rows.shape[1]} numbers wide, made for another model: {wanted}")
    for warning in complaints(prompts, config.negative_prompt, tokenizer):
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{config.model}: {words.origin}")
    seeds = [seed + i for i in range(num_images)]
    batches = generate.draw_batches(
        sd,
        tokenizer,
        np.repeat(prompts, num_images).tolist(),
        seeds * len(prompts),
        np.concatenate([np.zeros((0, width), np.float32), *words.tokens.values()]),
        **job.sampling(config) | {"batch_size": min(config.sample_batch, num_images * len(prompts))},
        second_prompts=second,
        both_ways=both_ways or "mean",
        progress="drawing",
    )
    settings = {
        "model": config.model,
        "sampler": config.sampler,
        "steps": str(config.sample_steps),
        "guidance_scale": str(config.guidance_scale),
        "resolution": str(config.resolution),
        "negative_prompt": config.negative_prompt,
        "both_ways": both_ways or "no",
        "words": words.origin,
    }
    shown = []
    for n, image in enumerate(generate.to_uint8(image) for batch in batches for image in batch):
        prompt, number = prompts[n // num_images], seeds[n % num_images]
        path = out / f"{n // num_images:03d}-{_file_name(prompt)}-{number}.png"
        pictures.save_png(path, image, {"prompt": prompt, "seed": str(number), **settings})
        if len(shown) < _GRID:
            shown.append(image)
    about = {"prompts": "\n".join(prompts), "seed": str(seed), **settings}
    pictures.save_png(out / "grid.png", pictures.grid(np.stack(shown)), about)
    return out / "grid.png"


def complaints(prompts: list[str], negative_prompt: str, tokenizer) -> list[str]:
    """What a user may not have meant: words that are not learned, learned ones left out, prompts that are cut."""
    found = []
    learned = tuple(tokenizer.rows_per_token)
    has_learned = lambda prompt: (tokenizer(prompt) >= tokenizer.vocab_size).any()
    for prompt in prompts:
        if learned and not has_learned(prompt) and not has_learned(negative_prompt):
            found.append(f"none of {', '.join(learned)} in {prompt!r}: what was learned has no part in it")
    for prompt in (*prompts, negative_prompt):
        for name in re.findall(r"<[\w-]+>", prompt):
            if name not in learned:
                found.append(f"{name} in {prompt!r} is no learned word here, and is read letter by letter")
        if cut := tokenizer.truncated(prompt):
            found.append(f"{prompt!r} is too long; left out: {cut!r}")
    return found


def free_folder(parent: epath.Path) -> epath.Path:
    """The first of parent/000, parent/001, … that is not there yet."""
    return next(path for path in (parent / f"{n:03d}" for n in itertools.count()) if not path.exists())


def _file_name(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "image"


@one_line
def main(argv) -> None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: put the prompt in quotes")
    from reversion_jax.compilation import keep_compiled

    keep_compiled()
    workdir = files.place(_WORKDIR.value) if _WORKDIR.value else None
    prompts = read_prompts(_PROMPT.value or [], _PROMPTS_FILE.value)
    words = read_words(workdir, _MODEL.value, _EMBEDDING.value or [])
    for key, flag in _SETTINGS.items():
        if flag.value is not None:
            words.config[key] = flag.value
    out = files.place(_OUT.value) if _OUT.value else free_folder((workdir or epath.Path()) / "samples")
    path = sample(words, prompts, out, num_images=_NUM_IMAGES.value, seed=_SEED.value, both_ways=_BOTH_WAYS.value)
    print(f"pictures: {out}, up to {_GRID} of them on {path}")


if __name__ == "__main__":
    from absl import app, flags

    _WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a training run, whose words and settings are used.")
    _MODEL = flags.DEFINE_string(
        "model",
        None,
        "A Stable Diffusion 1.x: a diffusers folder, a .safetensors checkpoint, a hub id such as owner/name or "
        "owner/name@revision, or miniature. The training run's by default.",
    )
    _EMBEDDING = flags.DEFINE_multi_string(
        "embedding", None, "A file of learned words, FILE or TOKEN=FILE to choose its name in prompts; may be repeated."
    )
    _PROMPT = flags.DEFINE_multi_string("prompt", None, 'Such as "cat <R> teapot"; may be repeated.')
    _PROMPTS_FILE = flags.DEFINE_string("prompts_file", None, "A text file with a prompt a line.")
    _NUM_IMAGES = flags.DEFINE_integer("num_images", 4, "Images of each prompt.", lower_bound=1)
    _SEED = flags.DEFINE_integer("seed", 0, "Of each prompt's first image; the next has seed + 1.", lower_bound=0)
    _OUT = flags.DEFINE_string(
        "out", None, "Where the PNGs go; a new folder in WORKDIR/samples, or samples, by default."
    )
    _BOTH_WAYS = flags.DEFINE_enum(
        "both_ways",
        None,
        ["mean", "alternate"],
        "Draws by the prompt and its inverse at once: mean of both (half as long again), or ddim's steps in turn.",
    )
    # By default what the training run's config says, or config.py for the model.
    _SETTINGS = {
        "sampler": flags.DEFINE_string(
            "sampler", None, "ddim, pndm, euler, euler_ancestral, dpmpp_2m or dpmpp_2m_karras; the run's, or ddim."
        ),
        "sample_steps": flags.DEFINE_integer("steps", None, "The run's, or 50 (miniature: 20).", lower_bound=1),
        "guidance_scale": flags.DEFINE_float("guidance_scale", None, "1 is none; the run's, or 7.5 (miniature: 3)."),
        "negative_prompt": flags.DEFINE_string("negative_prompt", None, "What to steer away from; the run's, or none."),
        "resolution": flags.DEFINE_integer(
            "resolution", None, "Pixels, both sides; the run's, or 512 (miniature: 64).", lower_bound=8
        ),
        "precision": flags.DEFINE_enum(
            "precision", None, ["float32", "bfloat16"], "Of text encoder and UNet; the run's, or float32."
        ),
        "sample_batch": flags.DEFINE_integer(
            "batch_size", None, "Images drawn at once; the run's, or 4 (miniature: 16).", lower_bound=1
        ),
        "devices": flags.DEFINE_integer("devices", None, "At most so many; the run's, or all (0).", lower_bound=0),
        "weight_shards": flags.DEFINE_integer(
            "weight_shards", None, "Devices that hold the weights together; the run's, or 1.", lower_bound=1
        ),
    }
    app.run(main, flags_parser=parse_flags)
