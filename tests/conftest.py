"""Settings and shared fixtures of all tests."""

import json
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

# These variables must be set before Hugging Face's libraries are imported. No test may use an internet connection.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
# These variables must be set before JAX is imported. Programs compile faster with fewer optimisations, and all
# processes share a cache of compiled programs.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parents[1] / ".pytest_cache" / "compiled")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# With these flags, compiling takes a third less time. The flags are set only for versions of jaxlib that were tested,
# because XLA ends a process that sets an unknown flag.
if (0, 7) <= tuple(map(int, version("jaxlib").split(".")[:2])) <= (0, 10):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"
# PyTorch gets one thread per process. On busy cores, several threads of PyTorch would wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"

import jax
import numpy as np
import pytest
import tiny
from chromium import browser  # noqa: F401 (a fixture)
from places import SHARED, TESTS
from tiny_run import config, finished  # noqa: F401 (fixtures)

from reversion_jax.weights import folder

jax.config.update("jax_numpy_rank_promotion", "raise")
# Comparisons need full float32 precision, also on GPUs and TPUs.
jax.config.update("jax_default_matmul_precision", "float32")


# The slowest files run first, so that at the end no worker process waits for another worker process that has just
# started a slow file.
LONGEST = (
    *("training/test_processes", "runtime/test_parallel", "training/test_loop", "training/test_runs"),
    *("models/test_recorded", "miniature/test_miniature", "evaluation/test_compare", "inversion/test_step"),
    *("models/test_parity", "weights/test_sd_tiny", "training/test_dreambooth", "drawing/test_generate"),
    *("inversion/test_golden_step", "test_readme", "training/test_notebook", "test_commands"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {f"{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.relative_to(TESTS).as_posix(), len(place)))


@pytest.fixture(scope="module")
def optimised() -> Iterator[None]:
    """Makes JAX compile with all optimisations in a test file that draws many pictures."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def sd_tiny() -> Path:
    """The folder of a tiny Stable Diffusion with recorded outputs. If the folder is missing, the test is skipped."""
    folder = SHARED / "fixtures" / "sd_tiny"
    if not folder.is_dir():
        pytest.skip("no shared/fixtures/sd_tiny beside the repository")
    return folder


class Recorded(NamedTuple):
    """The tiny model whose inputs and outputs by PyTorch are stored in tests/recorded."""

    folder: Path
    model: folder.StableDiffusion
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


@pytest.fixture(scope="session")
def recorded(tmp_path_factory) -> Recorded:
    here = TESTS / "recorded"
    shapes = json.loads((here / "shapes.json").read_text())
    written = tiny.write_folder(tmp_path_factory.mktemp("recorded"), tiny.torch_weights(shapes, seed=1))
    with np.load(here / "reference.npz") as arrays:
        inputs = {name[3:]: array for name, array in arrays.items() if name.startswith("in_")}
        outputs = {name[4:]: array for name, array in arrays.items() if name.startswith("out_")}
    return Recorded(written, folder.load(written), inputs, outputs)


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """The folder of a small model with random weights, whose programs compile quickly."""
    weights = tiny.torch_weights(tiny.torch_shapes(tiny.SMALL), seed=2)
    return tiny.write_folder(tmp_path_factory.mktemp("small"), weights, tiny.SMALL)


@pytest.fixture(scope="session")
def small_model(small) -> Recorded:
    """The model of the fixture `small`, loaded. It has no recorded inputs and outputs."""
    return Recorded(small, folder.load(small), {}, {})
