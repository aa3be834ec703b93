import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from PIL import Image
from places import ROOT

from reversion_jax import config as settings
from reversion_jax.data import exemplars
from reversion_jax.drawing import pictures, plots
from reversion_jax.inversion import words
from reversion_jax.runs import export, history, owner
from reversion_jax.runs import folder as runs
from reversion_jax.runtime import files
from reversion_jax.runtime.errors import Caution
from reversion_jax.weights import embeddings

HERE = Path(__file__).parent


class Bucket(MemoryFileSystem):
    """Cloud storage in memory, which epath uses for gs:// paths. Like gcsfs, this class cannot append to an object."""

    protocol = ("gs", "gcs")
    store, pseudo_dirs = {}, [""]  # so that Bucket shares no files with its parent class

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("gs://"))

    def rename(self, *_, **__):
        raise AssertionError("renaming is copying")

    def _open(self, path, mode="rb", **kwargs):
        assert "a" not in mode
        return super()._open(path, mode, **kwargs)


@pytest.fixture
def bucket(monkeypatch):
    if importlib.util.find_spec("tensorflow"):
        pytest.skip("with TensorFlow installed epath takes its drivers")
    monkeypatch.setitem(_registry, "gcs", Bucket)
    Bucket.store.clear()
    folder = epath.Path("gs://bucket/run")
    folder._backend._get_filesystem.cache_clear()
    yield folder
    folder._backend._get_filesystem.cache_clear()


@pytest.fixture(params=["local", "cloud"])
def folder(request, tmp_path):
    return epath.Path(tmp_path) if request.param == "local" else request.getfixturevalue("bucket")


def test_files_are_written_and_appended_to(folder):
    files.write(folder / "a.txt", "one\n")
    files.write(folder / "a.txt", "zwölf\n")
    files.append(folder / "a.txt", "two\n")
    files.append(folder / "b.txt", "three\n")
    assert (folder / "a.txt").read_bytes() == "zwölf\ntwo\n".encode()
    assert (folder / "b.txt").read_text() == "three\n"
    assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "b.txt"]


def test_pictures_histories_and_embeddings_are_written_and_read(folder):
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    pictures.save_png(folder / "previews" / "a.png", picture, {"seed": "7"})
    records = [{"step": 1, "denoising": 0.5, "control": 1.0, "nearest": [["on", 0.5]], "distance": 0.1}]
    files.write(folder / "metrics.jsonl", json.dumps(records[0]) + "\n{")
    plots.plot_history(history.read(folder / "metrics.jsonl"), folder / "training.png", "title")
    drawn = Image.open(io.BytesIO((folder / "previews" / "a.png").read_bytes()))
    assert drawn.text == {"seed": "7"}
    np.testing.assert_array_equal(drawn, picture)
    assert (folder / "training.png").read_bytes().startswith(b"\x89PNG")

    rows = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    for path in embeddings.write({"<R>": rows[:1], "<R-inv>": rows[1:]}, "hug", folder / "embeddings"):
        (found,) = embeddings.read(path).values()
        np.testing.assert_array_equal(found[0], rows[1 if "-inv" in path.name else 0])


def test_settings_and_rows_of_every_checkpoint_are_written_read_and_exported(folder):
    """The folder has the newest rows and the rows of each checkpoint. The exported words have the rows' numbers."""
    settled = settings.settle(settings.get_config())
    origin = {"model": settled.model, "model_hash": "0123456789abcdef"}
    runs.write_settings(folder / "hug", settled, origin)
    assert runs.read_settings(folder / "hug") == (settled, origin)
    rows = np.random.default_rng(0).normal(size=(2, 2, 8)).astype(np.float32)
    for step, learned in zip((500, 1000), rows, strict=True):
        runs.write_rows(folder / "hug", learned, step)
    names = ["config.json", "rows", "rows.safetensors"]
    assert sorted(path.name for path in (folder / "hug").iterdir()) == names
    kept = sorted(path.name for path in (folder / "hug" / "rows").iterdir())
    assert kept == ["step_000500.safetensors", "step_001000.safetensors"]
    for asked, step, learned in ((None, 1000, rows[1]), (1000, 1000, rows[1]), (500, 500, rows[0])):
        found = runs.read(folder / "hug", asked)
        assert (found.settings, found.step) == (settled, step)
        np.testing.assert_array_equal(found.rows, learned)
    with pytest.raises(ValueError, match=r"holds no rows of step 700: give one of the steps 500, 1000$"):
        runs.read(folder / "hug", 700)
    with pytest.raises(ValueError, match=r"^no training run in .*nothing"):
        runs.read(folder / "nothing")
    with pytest.warns(Caution, match="500 of 3000 steps trained"):
        export.export(folder / "hug", folder / "hug" / "embeddings", 500)
    (found,) = embeddings.read(folder / "hug" / "embeddings" / "relation-inv.safetensors").values()
    np.testing.assert_array_equal(found[0], rows[0, 1])


@pytest.mark.parametrize("there", ["", "empty folder"])
def test_a_new_folder_appears_only_when_it_is_complete(tmp_path, there):
    place = tmp_path / "new" / "folder"
    if there:
        place.mkdir(parents=True)
    with files.new_folder(place) as draft:
        (draft / "a.txt").write_text("one")
        assert not (place / "a.txt").exists()
    assert [path.name for path in place.iterdir()] == ["a.txt"]
    assert list((tmp_path / "new").iterdir()) == [place]


def test_a_failed_write_of_a_folder_leaves_nothing(tmp_path):
    def fail():
        with files.new_folder(tmp_path / "folder") as draft:
            (draft / "a.txt").write_text("one")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_exemplars_in_a_bucket_are_read_like_local_exemplars(bucket, tmp_path):
    shown = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    exemplars.write_folder(tmp_path / "hug", shown, [["cat {} dog"]] * 2)
    for path in (tmp_path / "hug").iterdir():
        files.write(bucket / path.name, path.read_bytes())
    here, there = (exemplars.read_folder(place, 8) for place in (tmp_path / "hug", bucket))
    np.testing.assert_array_equal(here.images, there.images)
    assert here.templates == there.templates


def test_storage_that_cannot_be_reached_is_refused_in_one_line(monkeypatch):
    with pytest.raises(ValueError, match=r"^nowhere://bucket: unknown kind of storage; give a folder, or gs://"):
        files.place("nowhere://bucket")

    def refuse(*_):
        raise RuntimeError("Anonymous caller has no access\n to it")

    monkeypatch.setattr(type(epath.Path("gs://bucket")), "exists", refuse)
    with pytest.raises(ValueError, match=r"^cannot reach gs://bucket/run: Anonymous caller has no access$"):
        files.place("gs://bucket/run")
    assert files.place("no such folder") == epath.Path("no such folder")


def test_a_run_in_a_bucket_equals_a_local_run(small, tmp_path):
    """An emulator serves the bucket by Google's protocol. The run in the bucket is stopped, resumed and exported."""
    for package in ("gcsfs", "gcp_storage_emulator"):
        pytest.importorskip(package, reason="pip install gcsfs gcp-storage-emulator")
    shown = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    exemplars.write_folder(tmp_path / "exemplars", shown, [["cat {} dog"]] * 2)
    (tmp_path / "words.txt").write_text("on\ntop\nof\n")
    c = settings.get_config()
    c.model, c.exemplars, c.relation = str(small), str(tmp_path / "exemplars"), "hug"
    c.prepositions = c.verbs = str(tmp_path / "words.txt")
    c.resolution, c.steps, c.accumulation, c.positives_per_sample, c.initialiser = 16, 4, 1, 2, "on"
    c.steps_per_dispatch, c.sample_steps, c.preview_prompts = 1, 2, ("cat <R> dog",)
    c.checkpoint_every_steps = 2
    command = [sys.executable, str(HERE / "bucket_run.py"), c.to_json(), str(tmp_path / "run")]
    environment = tiny.environment() | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    here, there = json.loads(done.stdout.splitlines()[-1])
    assert [record["step"] for record in here["history"]] == [1, 2, 3, 4]
    assert {"config.json", "metrics.jsonl", "rows", "rows.safetensors"} <= set(here["left"])
    ((relation, inverse),) = here["rows"]
    assert relation == here["exported"] != inverse
    # The rows of the checkpoints at steps 2 and 4 are in the folder and can be read.
    assert here["kept"] == ["step_000002.safetensors", "step_000004.safetensors"]
    newest, earlier = here["read"]
    assert newest == [4, here["rows"][0]]
    assert earlier[0] == 2
    assert earlier[1] != newest[1]
    assert there == here


def test_a_tilde_in_a_path_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "words.txt").write_text("on\nin\n")
    assert files.place("~/runs/x") == epath.Path(tmp_path / "runs" / "x")
    assert words.load("~/words.txt") == ("on", "in")
    assert embeddings.find("~/hug.safetensors") == [epath.Path(tmp_path / "hug.safetensors")]
    for program in ("sample", "export"):
        given = ["--workdir=~/nothing", "--out=~/out"]
        line = [sys.executable, "-m", f"reversion_jax.{program}", *given]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, env=environment, cwd=tmp_path)
        assert done.returncode == 2
        assert str(tmp_path / "nothing") in done.stderr or program == "sample"
    assert not (tmp_path / "~").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_does_not_count_as_a_file(tmp_path):
    os.mkfifo(tmp_path / "x.safetensors")
    assert not files.is_file(tmp_path / "x.safetensors")
    assert files.is_file(Path(__file__))
    with pytest.raises(FileNotFoundError):
        embeddings.read(tmp_path / "x.safetensors")


def test_a_folder_in_a_bucket_has_one_owner(bucket, monkeypatch):
    monkeypatch.setattr(owner, "_SETTLE_S", 0.0)
    with owner.owned(bucket) as check:
        check()
        with (
            pytest.raises(ValueError, match=r"gs://bucket/run belongs to process \d+ on .*: wait"),
            owner.owned(bucket),
        ):
            pass
        (bucket / owner.NAME).write_text(json.dumps({"token": "of another"}))
        monkeypatch.setattr(owner, "BEAT_S", -1.0)
        with pytest.raises(OSError, match="another job has taken gs://bucket/run over"):
            check()
    assert json.loads((bucket / owner.NAME).read_text())["token"] == "of another"


def test_the_default_workdir_depends_on_the_config_file_and_its_variant():
    names = ("configs/evaluation.py", "/elsewhere/evaluation.py:easy", "mine.py")
    assert [files.default_workdir(name) for name in names] == ["runs/evaluation", "runs/evaluation-easy", "runs/mine"]
