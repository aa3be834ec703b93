"""The model card for a run's words: YAML metadata for the Hugging Face hub, and Markdown with commands for people."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reversion_jax.config import MINIATURE
from reversion_jax.inversion.prompts import INVERSE, RELATION
from reversion_jax.runs import export
from reversion_jax.runs.folder import LearnedRun
from reversion_jax.weights import hub
from reversion_jax.weights.embeddings import ONETRAINER

_METHODS = {
    "inv_reversion": "[Inv-ReVersion](https://doi.org/10.3390/app14083338)",
    "reversion": "[ReVersion](https://arxiv.org/abs/2303.13495)",
    "textual_inversion": "[Textual Inversion](https://arxiv.org/abs/2208.01618)",
}
TAG = "relation-inversion"  # every card has this tag, by which `share` recognises cards that it wrote
# diffusers' own training script gives the first five tags to a textual inversion.
_TAGS = ["stable-diffusion", "stable-diffusion-diffusers", "text-to-image", "diffusers", "textual_inversion"]
_TAGS += [TAG, "reversion_jax", "jax"]

_CARD = """---
{front_matter}
---

# {relation}: a learned relation for Stable Diffusion 1.x

`<R>` is a learned word for the relation *{relation}*, for prompts such as `cat <R> stone`.{inverse}
Only the embeddings of words were learned, from a few pictures. The model itself is unchanged.

{picture}| | |
|---|---|
{facts}

## diffusers

```python
from diffusers import StableDiffusionPipeline

pipe = StableDiffusionPipeline.from_pretrained({pretrained})
{python}
```

## A1111

Copy {files} into `embeddings`. Prompts: {a1111}.

## ComfyUI

Copy {files} into `models/embeddings`. Prompts: {comfyui}.

## reversion_jax

```bash
python -m reversion_jax.sample --model {model} --embedding {repository} {prompts}
```

To continue training from these words, add `--config.initialiser={repository}`.
{onetrainer}"""


def card(
    run: LearnedRun,
    origin: Mapping[str, Any],
    repository: str,
    names: Sequence[str],
    *,
    license: str = "",
    picture: str = "",
    drawn: str = "",
) -> str:
    """Returns the Markdown of the model card for a repository that holds a run's files.

    origin: the part of the run's config.json that says how the words were made: base model, versions, device.
    names: the files in the repository. license: a key of the hub's list of licenses; "" leaves the license out.
    picture: the name of a picture in the repository; "" for none. drawn: the picture's prompts, one per line.
    """
    s = run.settings
    hub_id = None if origin.get("model_is_local") else hub.parse_id(s.model)
    kinds = (False, True) if INVERSE in run.words() else (False,)
    said = [export.spelling(s.relation, s.rows_per_token, inverse=inverse) for inverse in kinds]
    files = [name for name in names if name.endswith(".safetensors") and "/" not in name]  # <R>'s, then <R-inv>'s
    python = [
        f'pipe.load_textual_inversion("{repository}", weight_name="{name}", token="{one.token}")'
        for name, one in zip(files, said, strict=True)
    ]
    python += [f'pipe("{one.diffusers}").images[0]' for one in said]
    revision = f', revision="{hub_id[1]}"' if hub_id and hub_id[1] else ""
    prompts = [f"cat {RELATION} stone", f"stone {INVERSE} {RELATION} cat"][: len(kinds)]
    code = lambda texts: ", ".join(f"`{text}`" for text in texts)
    return _CARD.format(
        front_matter=_front_matter(hub_id[0] if hub_id else None, license),
        relation=s.relation,
        inverse=f" `{INVERSE}` in front of it turns the relation round: `{prompts[-1]}`." if len(kinds) > 1 else "",
        picture=_shown(picture, drawn),
        facts="\n".join(f"| {name} | {value} |" for name, value in _facts(run, origin, hub_id).items()),
        pretrained=f'"{hub_id[0]}"{revision}' if hub_id else '"MODEL"',
        python="\n".join(python),
        files=code(files),
        a1111=code(one.a1111 for one in said),
        comfyui=code(one.comfyui for one in said),
        model=s.model if hub_id or s.model == MINIATURE else "MODEL",
        repository=repository,
        prompts=" ".join(f'--prompt "{prompt}"' for prompt in prompts),
        onetrainer=f"\n## OneTrainer\n\nUse a file from the folder `{ONETRAINER}` as the base embedding.\n"
        if any(name.startswith(f"{ONETRAINER}/") for name in names)
        else "",
    )


def _front_matter(base_model: str | None, license: str) -> str:
    from huggingface_hub import ModelCardData

    return ModelCardData(
        base_model=base_model,
        base_model_relation="adapter" if base_model else None,
        license=license or None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=_TAGS,
    ).to_yaml()


def _facts(run: LearnedRun, origin: Mapping[str, Any], hub_id: tuple[str, str | None] | None) -> dict[str, Any]:
    """Returns the rows of the card's table, by name.

    Shows only the last part of a local path, because the path may be private.
    """
    s = run.settings
    if hub_id:
        model = f"[{s.model}](https://huggingface.co/{hub_id[0]})"
    else:
        model = f"`{Path(s.model).name}`, " + ("a part of reversion_jax" if s.model == MINIATURE else "a local copy")
    return {
        "relation": s.relation,
        "method": _METHODS[s.method],
        "steps": f"{run.step} of {s.steps}",
        "base model": model,
        "hash of its weights": f"`{origin.get('model_hash', 'not known')}`",
        "embedding rows per word": s.rows_per_token,
        "trained at": f"{s.size[1]} × {s.size[0]} px",
        "seed": s.seed,
        "trained by": f"reversion_jax {origin.get('versions', {}).get('reversion_jax', '')}".strip(),
    }


def _shown(picture: str, drawn: str) -> str:
    """Returns the Markdown of the card's picture and of its prompts; "" if there is no picture."""
    told = f"Prompts, row by row:\n\n```text\n{drawn}\n```\n\n" if drawn else ""
    return f"![Pictures drawn with the learned word]({picture})\n\n{told}" if picture else ""
