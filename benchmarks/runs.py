"""Measures the seconds to train several runs of the miniature model together, and one after another.

    python benchmarks/runs.py

The runs are Inv-ReVersion on `hug` with several seeds, 400 steps with batch size 8. The ways of training take turns,
--rounds times, each time in a new process that compiles anew. The times include compiling, and the fastest time of each
way counts. When the runs train one after another, the runs share a process, which compiles once. If each run were a
separate command, each command would also load the model, and compile unless the compiled program is in the cache.
"""

import argparse
import json
import subprocess
import sys
import time

from reversion_jax import config as settings
from reversion_jax.training import prepare


def train(c, steps: int) -> None:
    c = prepare.settle(c)
    task = prepare.prepare(c)
    state = prepare.first_state(task)
    for _ in range(0, steps, c.steps_per_dispatch):
        state, _ = prepare.advance(task, state, min(steps, c.steps_per_dispatch), c.steps_per_dispatch)
    state.rows.block_until_ready()


def measure(runs: int, at_once: int, steps: int) -> list[float]:
    """Returns the seconds of each job, including loading and compiling.

    `at_once` is the number of runs per pass through the networks. 0 means that each run is a separate job, and the jobs
    run one after another.
    """
    c = settings.get_config()
    c.model, c.relation, c.verb_weight = settings.MINIATURE, "hug", 0.8
    if at_once:
        c.runs, c.samples_at_once = tuple({"seed": seed} for seed in range(runs)), 8 * at_once
    seconds = []
    for seed in range(1 if at_once else runs):
        c.seed = seed
        start = time.perf_counter()
        train(c, steps)
        seconds.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--at_once", type=int, nargs="+", default=[5], help="numbers of runs per pass to compare")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        print(json.dumps(measure(given.runs, given.child, given.steps)))
        return
    found = {}
    for _ in range(given.rounds):
        for at_once in (0, *given.at_once):
            command = [sys.executable, __file__, f"--runs={given.runs}", f"--steps={given.steps}", f"--child={at_once}"]
            seconds = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            found[at_once] = min(found.get(at_once, seconds), seconds, key=sum)
            print(f"{at_once or 'one'} at once: {sum(seconds):.0f} s", flush=True)
    alone = found.pop(0)
    print(
        f"{given.runs} runs one after another: {sum(alone):.0f} s, the first {alone[0]:.0f}, the last {alone[-1]:.0f}"
    )
    for at_once, (seconds,) in found.items():
        print(
            f"in one program, {at_once} at once: {seconds:.0f} s, {sum(alone) / seconds:.2f} times as fast; "
            f"compared with {given.runs} commands that each compile: {given.runs * alone[0] / seconds:.2f} times"
        )


if __name__ == "__main__":
    main()
