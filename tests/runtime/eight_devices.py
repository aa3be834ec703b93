"""Trains and draws on one and on eight devices. test_parallel.py runs this script with eight simulated devices.

The first argument is a model's folder. With the second argument "added", the script trains with added inverse prompts
and draws the exemplars in epochs.
"""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tiny
import tiny_step

from reversion_jax.drawing import generate
from reversion_jax.inversion import rows, step
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.runtime import parallel
from reversion_jax.weights import folder

jax.config.update("jax_numpy_rank_promotion", "raise")
sd = folder.load(Path(sys.argv[1]))
tokenizer = Tokenizer.load(sd.tokenizer_folder, {"<R>": 1, "<R-inv>": 1}, vocab_size=600, length=tiny.LENGTH)
table = sd.params["text_encoder"]["text_model"]["embeddings"]["token_embedding"]["embedding"]
first = rows.init(table, [tokenizer.word_ids("on")] * 2)[None]
added = "added" in sys.argv
shapes = {"batch_size": 8, "accumulation": 2, "positives_per_sample": 2, "rows_per_token": 1}
config = step.StepConfig(**shapes, adds_inverse=added, in_epochs=added)
data, hyper = tiny_step.make_data(tokenizer, sd, 3), tiny_step.hyperparameters()


def train_and_draw(devices, weight_shards=1):
    mesh = parallel.make_mesh(8, devices, weight_shards)
    placed = sd._replace(params=parallel.split(sd.params, mesh))
    mine = dataclasses.replace(config, remat=weight_shards > 1)
    state, *inputs = parallel.replicate((step.init_state(first, config), data, hyper), mesh)
    statics = {"model": sd.config, "schedule": sd.schedule, "config": mine, "mesh": mesh, "capacity": 4}
    arguments = (jnp.int32(4), placed.params, *inputs)
    program = step.train_steps.lower(state, *arguments, **statics).compile()
    state, metrics = program(state, *arguments)
    images = generate.draw(
        placed,
        tokenizer,
        ["cat <R> dog"] * 5,
        list(range(5)),
        state.rows[0],
        sampling=generate.Sampling(2, 3.0, 16, "euler_ancestral", batch_size=4),
    )
    found = np.asarray(state.rows), np.asarray(metrics.denoising), images
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(placed.params))
    return found, {"passes": parallel.collectives(program.as_text()), "held": held}


one, about = train_and_draw(1)
report = {"devices": jax.device_count(), "moved": float(np.abs(one[0] - first).max()), "one": about}
for name, arguments in {"eight": (8,), "split": (8, 4)}.items():
    found, about = train_and_draw(*arguments)
    differences = [float(np.abs(a - b).max()) for a, b in zip(one, found, strict=True)]
    report[name] = about | {"differences": differences}
print(json.dumps(report))
