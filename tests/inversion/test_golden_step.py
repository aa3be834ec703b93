"""Compares our training step with ReVersion's published training loop, on the same draws.

We wrote the loop in PyTorch from the description of the method. The loop differentiates the whole token table, updates
the table by AdamW and restores the old rows. Our step trains only the placeholders' rows. The loop and our step must
learn the same rows.
"""

import dataclasses
import itertools
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import pytest
import tiny
import tiny_step

from reversion_jax.inversion import rows, step
from reversion_jax.models.tokenizer import Tokenizer

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

STEPS = 5
CONFIG = dataclasses.replace(tiny_step.CONFIG, accumulation=2)
MICRO_BATCHES = [slice(start, start + CONFIG.batch_size) for start in range(0, 4, CONFIG.batch_size)]
# With these templates the negatives are "dog" and the letters of "fox".
TEMPLATES = ("cat {} dog", "photo of fox {} dog")
# The rows start from this token. The token is neither a positive nor a negative, so the control loss is far above 0.
INITIALISER = "h"
# ReVersion's published values.
RATES = {"learning_rate": 2e-3, "weight_decay": 0.01}
SETTINGS = {**RATES, "denoise_weight": 1.0, "control_weight": 0.01, "temperature": 0.07}
READINGS = {
    "ReVersion": SETTINGS | {"inverse_share": 0.0, "verb_weight": 0.0},
    "Inv-ReVersion": SETTINGS | {"inverse_share": 0.5, "verb_weight": 0.8},
    "Inv-ReVersion, prompts added": SETTINGS | {"inverse_share": 0.5, "verb_weight": 0.8, "seed": 1},
}
# Three prompts go through the networks at once, so the two prompts of a sample can be in different passes.
ADDED = dataclasses.replace(CONFIG, adds_inverse=True, samples_at_once=3)
# Bounds of the relative errors. The measured error is 1.0e-6 for the losses, 1.3e-6 for the gradients and 1.3e-5 for
# the rows. The error of the rows is relative to the distance that the rows moved. About 6e-6 of this error is
# systematic: optax computes 1 - 0.999**t in single precision, which shortens its first steps by this share. The
# remaining error of the rows comes from rounding.
# Adam's first step has the sign of the gradient. If rounding changed the sign of a very small entry, this entry would
# move the other way and the error would be near 0.1. In the first step here, the smallest entry is 1e-3 of its row's
# gradient, far above rounding. With added prompts and seed 0, the smallest entry would be only 6e-6 of its row's
# gradient, so the case with added prompts has another seed.
TOLERANCES = {"losses": 1e-5, "gradients": 1e-4, "rows": 1e-4}


class Trained(NamedTuple):
    """The losses, gradients and rows of one run."""

    losses: np.ndarray  # [STEPS, 2] the denoising and the control loss, averaged over a step's micro-batches
    gradients: np.ndarray  # [STEPS, P, D] the gradients that the optimiser gets
    rows: np.ndarray  # [P, D] the rows after the last step


def steering(row, positives, negatives, temperature):
    """Returns the InfoNCE loss (Eq. 3) of a row [D] with positives [K, D] and negatives [M, D]."""
    toward, away = (
        torch.exp(torch.nn.functional.cosine_similarity(row[None], words) / temperature).sum()
        for words in (positives, negatives)
    )
    return -torch.log(toward / (toward + away))


def published_losses(text, unet, scheduler, relation, batch, settings):
    """Returns the denoising loss (Eq. 2) and the control loss (Eq. 4 to 7) of a micro-batch.

    The control loss takes the words of all samples of the micro-batch together.

    `batch` has "latents" and "noise" [N, C, H, W], "timestep" [N] and "ids" [N, L]. If inverse prompts are added,
    `batch` also has "inverse_ids" [N, L]. "verbs", "prepositions" and "negatives" [N, k] are token ids; -1 marks
    padding. `relation` is the token id of <R>.
    """
    latents, noise, timesteps = (torch.from_numpy(batch[k]) for k in ("latents", "noise", "timestep"))
    noisy = scheduler.add_noise(latents, noise, timesteps)
    of_prompts = []
    for ids in (torch.from_numpy(batch[k]) for k in ("ids", "inverse_ids") if k in batch):
        predicted = unet(noisy, timesteps, text(ids).last_hidden_state).sample
        of_prompts.append(torch.nn.functional.mse_loss(predicted, noise))
    denoising = torch.stack(of_prompts).mean()

    table = text.get_input_embeddings().weight
    pooled = (batch[k][batch[k] >= 0] for k in ("verbs", "prepositions", "negatives"))
    verbs, prepositions, negatives = (table[words].detach() for words in pooled)
    steer = lambda positives: steering(table[relation], positives, negatives, settings["temperature"])
    verb_weight = settings["verb_weight"]
    return denoising, verb_weight * steer(verbs) + (1 - verb_weight) * steer(prepositions)


def published_loop(folder, draws, initialiser, placeholders, settings) -> Trained:
    """Trains the whole token table [V + P, D] by AdamW. Every step restores all rows except those of the placeholders.

    `draws` has a list of micro-batches for each step; see `published_losses`. `initialiser` is the token from which the
    rows start. `placeholders` are the P new ids V, V + 1, ... after the last id of the table; the first is <R>.
    """
    text = transformers.CLIPTextModel.from_pretrained(folder / "text_encoder").requires_grad_(False)
    unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").requires_grad_(False)
    scheduler = diffusers.DDPMScheduler.from_pretrained(folder / "scheduler")
    table = text.resize_token_embeddings(max(placeholders) + 1, mean_resizing=False).weight
    with torch.no_grad():
        table[placeholders] = table[initialiser].clone()
    old = table[: min(placeholders)].detach().clone()
    adam = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": settings["weight_decay"]}
    optimiser = torch.optim.AdamW([table.requires_grad_(True)], settings["learning_rate"], **adam)
    losses, gradients = [], []
    for micro_batches in draws:
        optimiser.zero_grad()
        parts = []
        for batch in micro_batches:
            denoising, control = published_losses(text, unet, scheduler, placeholders[0], batch, settings)
            total = settings["denoise_weight"] * denoising + settings["control_weight"] * control
            (total / len(micro_batches)).backward()
            parts.append((denoising.item(), control.item()))
        losses.append(np.mean(parts, axis=0))
        gradients.append(table.grad[placeholders].numpy())
        optimiser.step()
        if settings["pastes"]:
            with torch.no_grad():
                table[: len(old)] = old
    return Trained(np.stack(losses), np.stack(gradients), table[placeholders].detach().numpy())


def numpy_batch(batch) -> dict[str, np.ndarray]:
    """Returns the draws [1, N, ...] of a single run in the form that `published_losses` reads."""
    arrays = {name: np.array(array[0]) for name, array in batch._asdict().items() if array is not None}
    return arrays | {name: tiny.nchw(arrays[name]) for name in ("latents", "noise")}


class Case(NamedTuple):
    """The arguments of the published loop for one entry of READINGS, and the results of our training step."""

    arguments: tuple  # arguments of `published_loop`, without the settings
    settings: dict[str, float]
    first: np.ndarray  # [P, D] the rows before the first step
    ours: Trained


@pytest.fixture(scope="module")
def cases(recorded) -> dict[str, Case]:
    """A case for each entry of READINGS. The two entries without added prompts share a compiled step.

    In ReVersion no prompt has <R-inv>, so the row of <R-inv> is not trained.
    """
    model, text = recorded.model, recorded.model.config.text
    sizes = {"vocab_size": text.vocab_size, "length": text.max_position_embeddings}
    tokenizer = Tokenizer.load(model.tokenizer_folder, {"<R>": 1, "<R-inv>": 1}, **sizes)
    data = tiny_step.make_data(tokenizer, model, 3, TEMPLATES)
    (initialiser,) = tokenizer.word_ids(INITIALISER)
    table = model.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
    first = rows.init(table, [[initialiser]] * 2)[None]
    compiled = {}
    for config in (CONFIG, ADDED):
        draw = tiny.quick_jit(partial(step.draw_batch, schedule=model.schedule, config=config))
        train = partial(step.train_step, model=model.config, schedule=model.schedule, config=config)
        compiled[config] = draw, tiny.quick_jit(train)

    def case(settings: dict[str, float], config: step.StepConfig) -> Case:
        draw, train = compiled[config]
        hyper, trained = tiny_step.hyperparameters(**settings), 2 if settings["inverse_share"] else 1
        state, losses, moments, draws = step.init_state(first, CONFIG), [], [0.0], []
        for at in range(STEPS):
            samples = draw(np.int32(at), data, hyper)
            draws.append([numpy_batch(jax.tree.map(lambda x, own=own: x[:, own], samples)) for own in MICRO_BATCHES])
            state, metrics = train(state, model.params, data, hyper)
            losses.append((metrics.denoising[0], metrics.control[0]))
            moments.append(np.asarray(state.moments[0].mu[0, :trained]))
        # Adam's first moment is 0.9 times the previous first moment plus 0.1 times the gradient.
        gradients = [(now - 0.9 * past) / 0.1 for past, now in itertools.pairwise(moments)]
        ours = Trained(np.array(losses), np.stack(gradients), np.asarray(state.rows[0, :trained]))
        arguments = recorded.folder, draws, initialiser, [text.vocab_size + p for p in range(trained)]
        return Case(arguments, settings | {"pastes": True}, np.asarray(first[0, :trained]), ours)

    return {name: case(settings, ADDED if "added" in name else CONFIG) for name, settings in READINGS.items()}


def errors(case: Case, theirs: Trained) -> dict[str, float]:
    """Returns the largest relative errors of losses, of a row's gradients [STEPS, D] and of a row's change [D]."""
    of_rows = lambda found, wanted: max(tiny.error(found[..., p, :], wanted[..., p, :]) for p in range(len(case.first)))
    return {
        "losses": float(np.abs(case.ours.losses / theirs.losses - 1).max()),
        "gradients": of_rows(case.ours.gradients, theirs.gradients),
        "rows": of_rows(case.ours.rows - case.first, theirs.rows - case.first),
    }


@pytest.mark.parametrize("reading", READINGS)
def test_losses_gradients_and_rows_of_our_step_equal_those_of_the_published_loop(cases, reading):
    case = cases[reading]
    found = errors(case, published_loop(*case.arguments, case.settings))
    assert all(found[name] < tolerance for name, tolerance in TOLERANCES.items()), found


@pytest.mark.parametrize(
    ("seen_in", "mistake"),
    [
        # Doubling the two weights of the loss is like summing the losses of the two micro-batches instead of averaging
        # the losses. With Adam, doubled weights do not change the rows.
        ("gradients", {"denoise_weight": 2.0, "control_weight": 0.02}),
        ("rows", {"weight_decay": 0.0}),
        ("losses", {"temperature": 0.08}),
        ("rows", {"pastes": False}),
    ],
)
def test_a_mistake_in_the_published_loop_exceeds_the_tolerance(cases, seen_in, mistake):
    case = cases["Inv-ReVersion"]
    found = errors(case, published_loop(*case.arguments, case.settings | mistake))
    assert found[seen_in] > 10 * TOLERANCES[seen_in], found
