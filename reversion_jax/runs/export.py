"""Exports a run's words for other tools. It needs the run's folder alone: no model, no network, no JAX."""

from etils import epath

from reversion_jax.inversion.prompts import INVERSE, RELATION
from reversion_jax.runs import folder
from reversion_jax.runtime.errors import warn
from reversion_jax.weights import embeddings


def export(workdir: epath.Path, out: epath.Path, step: int | None = None) -> str:
    """Writes the files of the run in `workdir` and returns how each is used; ValueError, OSError."""
    run = folder.read(workdir, step)
    settings = run.settings
    if run.step < settings.steps:
        warn(f"{run.describe()}: not fully trained")
    words = run.words()
    written = embeddings.write(words, settings.relation, out)
    lines = [usage(path, settings.relation, settings.rows_per_token) for path in written]
    if INVERSE not in words:
        lines.append(f"no file for {INVERSE}: the run had no inverse prompts (config.inverse_share is 0)")
    return "\n".join(lines)


def usage(path: epath.Path, relation: str, rows_per_token: int) -> str:
    """A written file's path and, for people, a line for each tool that loads it."""
    words, tokens, form = [relation], [RELATION], "cat {} stone"
    if path.stem == f"{relation}-inv":
        words, tokens, form = [path.stem, relation], [INVERSE, RELATION], "stone {} cat"
    if rows_per_token > 1:
        # With transformers 5, diffusers finds the further rows of a token only if its name is lower case.
        tokens = [token.lower() for token in tokens]
    call = f'pipe.load_textual_inversion("{path.as_posix()}", token="{tokens[0]}")'
    lines = {"diffusers": f'{call}, then "{form.format(" ".join(tokens))}"'}
    if path.suffix == ".safetensors":
        # These two call an embedding by its file's name.
        lines["A1111"] = f'copy it into embeddings, then "{form.format(" ".join(words))}"'
        named = " ".join(f"embedding:{word}" for word in words)
        lines["ComfyUI"] = f'copy it into models/embeddings, then "{form.format(named)}"'
    elif rows_per_token == 1:
        lines["ReVersion"] = f'python inference.py --only_load_embeds --model_id "{path.parent}" …'
    return "\n".join([f"{path}", *(f"  {tool:10} {line}" for tool, line in lines.items())])
