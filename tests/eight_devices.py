"""Run by test_parallel.py in a process with eight simulated devices: trains and draws on one and on all of them."""

import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import test_step
import tiny

from reversion_jax import generate, parallel
from reversion_jax.inversion import rows, step
from reversion_jax.tokenizer import Tokenizer
from reversion_jax.weights import folder

jax.config.update("jax_numpy_rank_promotion", "raise")
sd = folder.load(Path(sys.argv[1]))
tokenizer = Tokenizer.load(sd.tokenizer_folder, {"<R>": 1, "<R-inv>": 1}, vocab_size=600, length=tiny.LENGTH)
table = sd.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
first = rows.init(table, [tokenizer.word_ids("on")] * 2)[None]
config = step.StepConfig(batch_size=8, accumulation=2, positives_per_sample=2, rows_per_token=1)
data, hyper = test_step.make_data(tokenizer, sd, 3), test_step.hyperparameters()


def train_and_draw(devices):
    mesh = parallel.make_mesh(8, devices)
    placed = sd._replace(params=parallel.replicate(sd.params, mesh))
    state, *inputs = parallel.replicate((step.init_state(first, config), data, hyper), mesh)
    statics = {"model": sd.config, "schedule": sd.schedule, "config": config, "mesh": mesh, "capacity": 4}
    compiled = step.train_steps.lower(state, jnp.int32(4), placed.params, *inputs, **statics).compile().as_text()
    state, metrics = step.train_steps(state, jnp.int32(4), placed.params, *inputs, **statics)
    images = generate.draw(
        placed,
        tokenizer,
        ["cat <R> dog"] * 9,
        list(range(9)),
        state.rows[0],
        num_steps=2,
        guidance_scale=3.0,
        resolution=16,
        sampler="euler_ancestral",
        batch_size=4,
    )
    return np.asarray(state.rows), np.asarray(metrics.denoising), images, compiled


def collectives(compiled):
    """Shapes of what passes between devices, by kind of collective."""
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
    found = re.findall(rf" = (.*?) ({kinds})(?:-start)?\(", compiled)
    return [[kind, re.findall(r"\w+\[[\d,]*\]", shapes)] for shapes, kind in found]


one, eight = train_and_draw(1), train_and_draw(8)
print(
    json.dumps(
        {
            "devices": jax.device_count(),
            "moved": float(np.abs(one[0] - first).max()),
            "differences": [float(np.abs(a - b).max()) for a, b in zip(one[:3], eight[:3], strict=True)],
            "one": collectives(one[3]),
            "eight": collectives(eight[3]),
        }
    )
)
