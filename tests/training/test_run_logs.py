"""Tests that the logs in TensorBoard and Weights & Biases have every step once, also if the run was resumed."""

import dataclasses
import importlib.machinery
import io
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from PIL import Image
from tiny_run import changed

from reversion_jax import config as settings
from reversion_jax.runs import history
from reversion_jax.runtime.errors import Caution
from reversion_jax.training import loop, previews, run_logs

NAMES = ("seed1", "under-reversion")
LOSSES = ("denoising", "control")


def events(run: Path) -> list:
    """Returns the events of a run's TensorBoard log, parsed with tensorboardX's protocol-buffer classes."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for path in sorted((run / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:  # each record has a length, a checksum, the event and a checksum
            (length,) = struct.unpack("<Q", content[:8])
            found.append(event_pb2.Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return found


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Returns the (step, value) pairs of each scalar by its name, in the order in which the pairs were written."""
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events(run):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def pictures(run: Path) -> dict[int, np.ndarray]:
    shown = [(e.step, v.image) for e in events(run) for v in e.summary.value if v.HasField("image")]
    assert len(dict(shown)) == len(shown)
    return {step: np.asarray(Image.open(io.BytesIO(image.encoded_image_string))) for step, image in shown}


class Server(types.ModuleType):
    """Replaces the package wandb and the server of W&B.

    Keeps a history for each run id and refuses steps that are older than the newest step.
    """

    def __init__(self):
        super().__init__("wandb")
        self.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        self.asked, self.histories, self.exit_codes, self.open = [], {}, [], 0

    def init(self, **asked):
        self.asked.append(asked)
        assert (Path(asked["dir"]) / "metrics.jsonl").is_file()
        return Session(self, self.histories.setdefault(asked["id"], []))

    @staticmethod
    def Image(image):
        return np.asarray(image)


class Session:
    def __init__(self, server, steps):
        self.server, self.steps = server, steps
        self.starting_step = steps[-1][0] + 1 if steps else 0
        server.open += 1

    def log(self, data, step):
        assert step >= (self.steps[-1][0] if self.steps else 0), "W&B drops a step that is behind its newest"
        self.steps.append((step, data))

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.server.open -= 1
        self.server.exit_codes.append(int(kind is not None))


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setitem(sys.modules, "wandb", server)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return server


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Replaces previews by noise, because compiling the program that draws them takes long."""
    noise = np.random.default_rng(0)
    draw = lambda job, texts, *_: noise.integers(0, 256, (len(texts), 16, 16, 3)).astype(np.uint8)
    monkeypatch.setattr(previews, "draw", draw)
    monkeypatch.setattr(loop, "report", lambda *_: None)


def one_run(place: Path, log_to: str):
    """Returns a job of one run, with only the values that logs read. Starts an empty history in the folder `place`."""
    history.cut(epath.Path(place) / history.NAME, 0)
    config = settings.Settings(log_to=log_to)
    return types.SimpleNamespace(config=config, runs=[types.SimpleNamespace(name="", config=config)])


def test_the_logs_of_a_resumed_run_have_every_step_once(config, server, tmp_path):
    """The job stops with a checkpoint at step 4. A crash then truncates the logs, and the job resumes.

    The job draws previews at steps 0, 3 and 6.
    """
    workdir = tmp_path / "job"
    runs = ({"seed": 1}, {"relation": "under", "method": "reversion"})
    both = changed(config, runs=runs, log_to="tensorboard, wandb")
    loop.train(changed(both, steps=4), workdir)
    for name, on_wandb in zip(NAMES, server.histories.values(), strict=True):
        (log,) = (workdir / name / "tensorboard").iterdir()
        log.write_bytes(log.read_bytes()[:-9])
        log.rename(log.with_name("events.out.tfevents.0.torn"))  # this name sorts before the log of the resumed job
        del on_wandb[-3:]  # W&B did not get steps 3 and 4, which the checkpoint has
        assert on_wandb[-1][0] == 2
    loop.train(both, workdir)
    assert (server.exit_codes, server.open, len(server.histories)) == ([0] * 4, 0, 2)

    for name, on_wandb in zip(NAMES, server.histories.values(), strict=True):
        records = history.read(workdir / name / history.NAME)
        assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
        found = scalars(workdir / name)
        assert set(found) == {*LOSSES, "norm", "distance"}
        for of, logged in found.items():
            wanted = [(record["step"], record[of]) for record in records if of in record]
            assert logged == [(step, np.float32(value)) for step, value in wanted]
            assert [(step, data[of]) for step, data in on_wandb if of in data] == wanted
        assert found["norm"][-1][0] == 6
        shown = pictures(workdir / name)
        assert list(shown) == [0, 3, 6]
        shown_on_wandb = [(step, data["previews"]) for step, data in on_wandb if "previews" in data]
        assert [step for step, _ in shown_on_wandb] == [0, 3, 6]
        for step, image in shown_on_wandb:
            kept = np.asarray(Image.open(workdir / name / "previews" / f"step_{step:06d}.png"))
            np.testing.assert_array_equal(image, kept)
            np.testing.assert_array_equal(shown[step], kept)
        word, cosine = records[-1]["nearest"][0]
        assert on_wandb[-2][1]["nearest_words"].startswith(f"{word} {cosine:.2f}, ")

    assert [asked["id"] for asked in server.asked[:2]] == [asked["id"] for asked in server.asked[2:]]
    for name, asked in zip(NAMES, server.asked, strict=False):
        assert (asked["project"], asked["name"], asked["group"]) == ("reversion_jax", f"job/{name}", "job")
        assert (asked["dir"], asked["resume"], asked["reinit"]) == (str(workdir / name), "allow", "create_new")
        assert asked["id"] == (workdir / name / "wandb_id.txt").read_text().strip()
    assert server.asked[1]["config"]["method"] == "reversion"


def test_a_log_that_is_switched_on_later_is_complete(tmp_path):
    pytest.importorskip("tensorboardX")
    job, folder = one_run(tmp_path, "tensorboard"), epath.Path(tmp_path)
    history.append(folder / history.NAME, [{"step": step, "denoising": step / 8} for step in (1, 2, 3, 4)])
    (tmp_path / "previews").mkdir()
    for step in (0, 2, 6):  # a crashed process drew the last preview, which will be redrawn
        Image.new("RGB", (3, 2), (step, 0, 0)).save(tmp_path / "previews" / f"step_{step:06d}.png")
    with run_logs.opened(job, folder, 4) as (log,):
        log.metrics([{"step": 5, "denoising": 5 / 8}])
    assert scalars(tmp_path) == {"denoising": [(step, step / 8) for step in (1, 2, 3, 4, 5)]}
    assert {step: tuple(image[0, 0]) for step, image in pictures(tmp_path).items()} == {0: (0, 0, 0), 2: (2, 0, 0)}


def test_logging_packages_are_imported_only_if_the_config_names_them(tmp_path, monkeypatch):
    for package in ("tensorboardX", "wandb"):
        monkeypatch.setitem(sys.modules, package, None)
    job = one_run(tmp_path, "")
    run_logs.check(job.config, epath.Path(tmp_path))
    with run_logs.opened(job, epath.Path(tmp_path), 0) as (log,):
        log.metrics([{"step": 1, "denoising": 1.0}])
        log.picture(np.zeros((2, 2, 3), np.uint8), 1)
    assert [path.name for path in tmp_path.iterdir()] == [history.NAME]


def test_a_damaged_preview_is_left_out_of_the_logs(server, tmp_path):
    job = one_run(tmp_path, "wandb")
    (tmp_path / "previews").mkdir()
    (tmp_path / "previews" / "step_000001.png").write_bytes(b"no picture")
    (tmp_path / "previews" / "step_mine.png").write_bytes(b"of somebody else")
    history.append(epath.Path(tmp_path) / history.NAME, [{"step": step, "denoising": 0.1} for step in (1, 2)])
    with (
        pytest.warns(Caution, match=r"step_000001\.png cannot be read"),
        run_logs.opened(job, epath.Path(tmp_path), 2),
    ):
        pass
    assert [step for step, _ in next(iter(server.histories.values()))] == [1, 2]


def test_steps_that_wandb_has_are_not_sent_again(server, tmp_path):
    """After a crash W&B may have steps beyond the checkpoint. Training repeats these steps with the same results."""
    job = one_run(tmp_path, "wandb")
    for first, done in ((1, 0), (3, 2)):  # the first process reached step 4; its checkpoint has step 2
        history.cut(epath.Path(tmp_path) / history.NAME, done)
        with run_logs.opened(job, epath.Path(tmp_path), done) as (log,):
            for step in range(first, 5 if first == 1 else 7):
                record = {"step": step, "denoising": step / 10}
                history.append(epath.Path(tmp_path) / history.NAME, [record])
                log.metrics([record])
    (on_wandb,) = server.histories.values()
    assert [step for step, _ in on_wandb] == [1, 2, 3, 4, 5, 6]
    with run_logs.opened(job, epath.Path(tmp_path), 0) as (log,):  # a new start, perhaps with other settings
        log.metrics([{"step": 1, "denoising": 9.0}])
    assert list(server.histories.values())[1:] == [[(1, {"denoising": 9.0})]]


def test_only_the_first_process_logs(config, server, tmp_path, monkeypatch):
    monkeypatch.setattr(run_logs, "is_first", lambda: False)
    job = types.SimpleNamespace(
        config=settings.Settings(log_to="tensorboard,wandb"), runs=[types.SimpleNamespace(name="")]
    )
    with run_logs.opened(job, epath.Path(tmp_path), 4) as (log,):
        log.metrics([{"step": 5, "denoising": 1.0}])
        log.picture(np.zeros((2, 2, 3), np.uint8), 5)
    assert not list(tmp_path.iterdir())
    assert not server.asked


def test_a_failed_run_is_marked_as_failed_on_wandb(server, tmp_path):
    with (
        pytest.raises(FloatingPointError),
        run_logs.opened(one_run(tmp_path, "wandb"), epath.Path(tmp_path), 0),
    ):
        raise FloatingPointError
    assert server.exit_codes == [1]
    assert server.open == 0


def test_an_error_of_wandb_is_one_line_with_advice(server, tmp_path, monkeypatch):
    def refuse(**_):
        raise RuntimeError("No API key configured.\nUse `wandb login` to log in.")

    monkeypatch.setattr(server, "init", refuse)
    wanted = r"W&B does not accept the run \(No API key configured\.\): run wandb login, or set WANDB_MODE=offline$"
    with (
        pytest.raises(ValueError, match=wanted),
        run_logs.opened(one_run(tmp_path, "wandb"), epath.Path(tmp_path), 0),
    ):
        pass


@pytest.mark.parametrize(("log_to", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_logging_package_is_reported_before_anything_is_read(config, log_to, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"log_to='{log_to}' needs {package} .*: pip install {package}$") as error:
        loop.train(changed(config, log_to=log_to, exemplars="nowhere"), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_tensorboard_needs_a_folder_of_this_machine():
    pytest.importorskip("tensorboardX")
    with pytest.raises(ValueError, match="needs a folder of this machine"):
        run_logs.check(settings.Settings(log_to="tensorboard"), epath.Path("gs://bucket/run"))


@pytest.mark.parametrize(
    ("log_to", "logs"), [("", ()), ("wandb", ("wandb",)), ("tensorboard, wandb", ("tensorboard", "wandb"))]
)
def test_log_to_is_a_list_of_tools(log_to, logs):
    assert settings.Settings(log_to=log_to).logs == logs


def test_an_unknown_logging_tool_is_refused():
    c = settings.settle(settings.get_config())
    with pytest.raises(ValueError, match=r"config\.log_to='wandb,tb': 'tb' is not known, use tensorboard, wandb"):
        settings.check(dataclasses.replace(c, log_to="wandb,tb"))
