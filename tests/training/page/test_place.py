"""Tests which paths the page may reach in its folder, and which runs, words and models it lists."""

import dataclasses
import shutil

import numpy as np
import pytest
from etils import epath

from reversion_jax.config import SD15
from reversion_jax.runs import folder
from reversion_jax.training.page.place import Place, newest_preview, whole
from reversion_jax.weights import embeddings


@pytest.fixture
def place(tmp_path):
    (tmp_path / "runs").mkdir()
    return Place(tmp_path / "runs")


@pytest.fixture
def with_run(place, finished):
    """A folder with a finished run of the tiny model. The run is named "on"."""
    shutil.copytree(finished[0], place.folder / "on")
    return place


@pytest.mark.parametrize(
    "name",
    ["..", "../on", "on/..", "/etc", "on//x", "", ".hidden", "-x", "a b", "a\n", "a/b/c", "x" * 81, "ä", "a\\b"],
)
def test_names_that_are_invalid_in_the_pages_folder_are_refused(place, name):
    with pytest.raises(ValueError, match="is not a name in this folder"):
        place.path(name)
    with pytest.raises(ValueError, match="is not a name"):
        place.word(f"run:{name}")
    with pytest.raises(ValueError, match="is not a name"):
        place.word(f"file:{name}/x")


def test_a_link_out_of_the_folder_is_not_followed(with_run, tmp_path):
    outside = tmp_path / "outside"
    shutil.copytree(with_run.folder / "on", outside)
    (outside / "model_index.json").write_text("{}")
    embeddings.write({"<R>": np.ones((1, 32))}, "secret", outside)
    (with_run.folder / "link").symlink_to(outside)
    (with_run.folder / "embeddings").mkdir()
    (with_run.folder / "embeddings" / "link.safetensors").symlink_to(outside / "secret.safetensors")
    assert [run.name for run in with_run.runs()] == ["on"]
    assert with_run.models() == ["miniature", SD15]
    assert [key for _, key in with_run.words()] == ["run:on"]
    for reach in (with_run.run, with_run.path):
        with pytest.raises(ValueError, match="is a link out of the folder"):
            reach("link")
    with pytest.raises(ValueError, match="is a link out of the folder"):
        with_run.word("file:link.safetensors")


def test_the_list_of_runs_has_only_readable_runs(with_run):
    (run,) = with_run.runs()
    assert (run.name, run.step, run.runs) == ("on", 6, ("on",))
    assert "finished, 6 steps" in run.describe()
    assert run.wanted() == 12
    (with_run.folder / "damaged").mkdir()
    (with_run.folder / "damaged" / folder.CONFIG).write_text("{")
    (with_run.folder / "other").mkdir()
    assert [run.name for run in with_run.runs()] == ["on"]
    assert with_run.words() == [("on", "run:on")]
    assert newest_preview(with_run.folder / "on").name == "step_000006.png"
    assert newest_preview(with_run.folder / "other") is None
    with pytest.raises(ValueError, match="there is no run named other"):
        with_run.run("other")


def test_a_job_of_several_runs_is_one_entry_of_the_list(with_run):
    """Each run of the job has its own words."""
    whole = folder.read(epath.Path(with_run.folder / "on"))
    job, names = with_run.folder / "ten", ("seed0", "seed1")
    runs = tuple({"seed": seed} for seed in range(2))
    folder.write_settings(epath.Path(job), dataclasses.replace(whole.settings, runs=runs), {})
    for name in names:
        shutil.copytree(with_run.folder / "on", job / name)
    ten = next(run for run in with_run.runs() if run.name == "ten")
    assert ten.runs == ("ten/seed0", "ten/seed1")
    assert "2 runs" in ten.describe()
    assert with_run.first_run("ten") == job / "seed0"
    assert {key for _, key in with_run.words()} == {"run:on", "run:ten/seed0", "run:ten/seed1"}
    assert with_run.word("run:ten/seed1")[0] == epath.Path(job / "seed1")


def test_a_folder_in_a_bucket_is_refused():
    with pytest.raises(ValueError, match="--folder=gs://bucket: the app needs a folder of this"):
        Place("gs://bucket")


def test_a_new_run_gets_a_valid_name_that_is_not_in_use(with_run):
    assert with_run.free("shaking hands!") == "shaking_hands"
    assert with_run.free("on") == "on-2"
    assert with_run.free("../..") == "relation"


def test_an_uploaded_embedding_is_stored_under_a_valid_name(place, tmp_path):
    (written, *_) = embeddings.write({"<R>": np.ones((1, 32))}, "hug", tmp_path / "upload")
    shutil.copy(written, tmp_path / "my hug (1).safetensors")
    key = place.keep_embedding(tmp_path / "my hug (1).safetensors")
    assert place.words() == [("my_hug_1.safetensors", key)]
    workdir, (path,) = place.word(key)
    assert workdir is None
    assert embeddings.read(path)["<R>"].shape == (1, 32)


def test_an_uploaded_file_that_is_not_an_embedding_is_refused(place, tmp_path):
    (tmp_path / "photo.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"cannot read photo\.safetensors") as refused:
        place.keep_embedding(tmp_path / "photo.safetensors")
    assert str(tmp_path) not in str(refused.value)
    assert place.words() == []


def test_only_listed_models_and_hub_ids_are_accepted(place, small, tmp_path, monkeypatch):
    shutil.copytree(small, place.folder / "models" / "small")
    assert place.models() == ["miniature", SD15, "models/small"]
    assert place.model("models/small") == str(place.folder / "models" / "small")
    assert place.model("owner/name") == "owner/name"
    # "else/where" looks like a hub id, but it is a folder outside the page's folder.
    shutil.copytree(small, tmp_path / "else" / "where")
    monkeypatch.chdir(tmp_path)
    for name in ("else/where", str(small), "../x", "x.safetensors", ""):
        with pytest.raises(ValueError, match="neither in the list nor an id"):
            place.model(name)


@pytest.mark.parametrize("value", [0, 11, 1.5, None, "3", float("nan"), float("inf"), True])
def test_numbers_out_of_range_are_refused_by_the_page(value):
    assert whole(3.0, 1, 10, "steps") == 3
    with pytest.raises(ValueError, match="steps must be a whole number from 1 to 10"):
        whole(value, 1, 10, "steps")
