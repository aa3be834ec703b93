"""Measures how long this machine takes to draw a guided picture and to train 400 steps with the miniature model.

    python benchmarks/miniature_speed.py

The script prints the times for compiling separately. On two CPU cores we aim at 0.08 s per picture and at 20 s for 400
steps with batch size 8.
"""

import time

from reversion_jax import config as settings
from reversion_jax.training import prepare, report


def main() -> None:
    c = settings.get_config()
    c.model, c.relation = settings.MINIATURE, "hug"
    task = prepare.prepare(prepare.settle(c))

    def timed(function):
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    def train(count: int) -> None:
        state, _ = prepare.advance(task, prepare.first_state(task), count, capacity=400)
        state.rows.block_until_ready()

    texts = ["red circle <R> blue star"] * 64
    first = timed(lambda: report.draw(task, texts[: task.config.sample_batch], task.first_rows[0]))
    images = [timed(lambda: report.draw(task, texts, task.first_rows[0])) / len(texts) for _ in range(3)]
    print(f"a picture of {task.config.sample_steps} steps: {min(images):.4f} s (first batch {first:.1f} s)")
    first = timed(lambda: train(1))
    steps = [timed(lambda: train(100)) / 100 for _ in range(3)]
    print(
        f"400 steps with batch size {task.step_config.batch_size}: {400 * min(steps):.1f} s (first step {first:.1f} s)"
    )


if __name__ == "__main__":
    main()
