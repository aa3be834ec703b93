"""Exports a run's words for other tools. Needs only the run's folder: no model, no internet and no JAX."""

from typing import NamedTuple

from etils import epath

from reversion_jax.inversion.prompts import INVERSE, RELATION
from reversion_jax.runs import folder
from reversion_jax.runtime.errors import warn
from reversion_jax.weights import embeddings

_SD1_WIDTH = 768  # numbers in an embedding of Stable Diffusion 1.x


def export(workdir: epath.Path, out: epath.Path, step: int | None = None, *, onetrainer: bool = False) -> str:
    """Writes the embedding files of the run in `workdir`; returns a text that says how to use each file.

    step: the checkpoint whose rows are exported; None means the newest rows. onetrainer: also writes files for
    OneTrainer. Raises ValueError or OSError if the run cannot be read or a file cannot be written.
    """
    run = folder.read(workdir, step)
    return describe(run, write(run, out, onetrainer=onetrainer))


def write(run: folder.LearnedRun, out: epath.Path, *, onetrainer: bool = False) -> list[epath.Path]:
    """Writes a run's embedding files to the folder `out`; returns their paths. Raises like `embeddings.write`."""
    if run.step < run.settings.steps:
        warn(f"{run.describe()}: not fully trained")
    return embeddings.write(run.words(), run.settings.relation, out, onetrainer=onetrainer)


def describe(run: folder.LearnedRun, written: list[epath.Path]) -> str:
    """Returns a text that says how to use each written file of a run."""
    lines = [usage(path, run.settings.relation, run.settings.rows_per_token) for path in written]
    if INVERSE not in run.words():
        lines.append(f"no file for {INVERSE}: the run had no inverse prompts (config.inverse_share is 0)")
    width = run.rows.shape[-1]
    if width != _SD1_WIDTH:
        lines.append(
            f"a word of {width} numbers fits {run.settings.model} and similar models, not Stable Diffusion 1.x"
        )
    return "\n".join(lines)


class Spelling(NamedTuple):
    """A token's name in diffusers, and an example prompt with this token for each tool."""

    token: str
    diffusers: str
    a1111: str
    comfyui: str


def spelling(relation: str, rows_per_token: int, *, inverse: bool = False) -> Spelling:
    """Returns how to write <R>, or <R-inv> in front of <R> if `inverse`, in prompts for each tool.

    In A1111 and ComfyUI, an embedding has the name of its file.
    """
    words, tokens, form = [relation], [RELATION], "cat {} stone"
    if inverse:
        words, tokens, form = [f"{relation}-inv", relation], [INVERSE, RELATION], "stone {} cat"
    if rows_per_token > 1:
        # With transformers 5, diffusers finds all rows of a token only if the token's name is lower case.
        tokens = [token.lower() for token in tokens]
    named = [f"embedding:{word}" for word in words]
    return Spelling(tokens[0], *(form.format(" ".join(names)) for names in (tokens, words, named)))


def usage(path: epath.Path, relation: str, rows_per_token: int) -> str:
    """Returns the path of a written file, and a line for each tool that can load it."""
    said = spelling(relation, rows_per_token, inverse=path.stem == f"{relation}-inv")
    if path.parent.name == embeddings.ONETRAINER:
        lines = {"OneTrainer": "give it as the base embedding, with a placeholder of your choice"}
    else:
        call = f'pipe.load_textual_inversion("{path.as_posix()}", token="{said.token}")'
        lines = {"diffusers": f'{call}, then prompt "{said.diffusers}"'}
        if path.suffix == ".safetensors":
            lines["A1111"] = f'copy it into the folder embeddings of the web UI, then prompt "{said.a1111}"'
            lines["ComfyUI"] = f'copy it into the folder models/embeddings of ComfyUI, then prompt "{said.comfyui}"'
        elif rows_per_token == 1:
            lines["ReVersion"] = f'python inference.py --only_load_embeds --model_id "{path.parent}" …'
    return "\n".join([f"{path}", *(f"  {tool:10} {line}" for tool, line in lines.items())])
