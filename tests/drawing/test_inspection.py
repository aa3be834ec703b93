"""Tests which files `inspect` writes, which input it refuses, and how it draws the map of the words."""

import json
import re

import numpy as np
import pytest
from etils import epath
from matplotlib.figure import Figure
from PIL import Image

from reversion_jax.drawing import inspection, pictures, word_map
from reversion_jax.runs import folder
from reversion_jax.weights import embeddings


@pytest.fixture(scope="module")
def seen(finished):
    return inspection.read(inspection.Source(str(finished[0])))[1]


@pytest.fixture
def file(finished, tmp_path):
    embeddings.write(folder.read(finished[0]).words(), "on", tmp_path)
    return str(tmp_path / "on.safetensors")


def test_the_map_is_the_plane_of_the_principal_components(seen):
    """Compares with scikit-learn. Only prepositions and the first and last vector of each path determine the plane."""
    decomposition = pytest.importorskip("sklearn.decomposition")
    words, stops, share = word_map.project(seen)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    ends = [row.path[i].vector for row in seen.rows.values() for i in (0, -1)]
    listed = [own for word, own in zip(seen.words, seen.vectors, strict=True) if seen.kinds[word] == "preposition"]
    pca = decomposition.PCA(2, svd_solver="full").fit(unit(np.stack([*listed, *ends])))
    wanted = pca.transform(unit(seen.vectors))
    np.testing.assert_allclose(np.abs(words), np.abs(wanted), atol=1e-5)
    path = np.stack([stop.vector for stop in seen.rows["<R>"].path])
    np.testing.assert_allclose(np.abs(stops["<R>"]), np.abs(pca.transform(unit(path))), atol=1e-5)
    assert share == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-5)


def test_labels_do_not_overlap():
    figure = Figure(figsize=(4, 4))
    axes = figure.add_subplot()
    places = np.random.default_rng(0).normal(size=(60, 2))
    axes.scatter(*places.T)
    word_map._write(axes, [(f"word{i}", at, "black", 9.0) for i, at in enumerate(places)], [places[:1]])
    boxes = [text.get_window_extent() for text in axes.texts]
    assert 10 < len(boxes) < 60
    assert axes.texts[0].get_text() == "word0"
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize("change", ["whole", "without a path"])
def test_the_map_is_drawn_with_and_without_a_path(seen, change):
    if change != "whole":
        seen = seen._replace(rows={"a $odd\n词": seen.rows["<R>"]._replace(path=[])}, initialiser=None)
    image = word_map.picture(seen)
    assert image.size[0] > 1000
    colours = {c for _, c in image.convert("RGB").getcolors(1 << 20)}
    assert (31, 111, 180) in colours  # the colour of prepositions


def test_the_report_on_a_run_is_written_into_the_runs_folder(finished, capsys):
    prompt = inspection.Prompt("cat <R> dog", 3, {"sample_steps": 2, "guidance_scale": 2.0})
    out = inspection.inspect(inspection.Source(str(finished[0])), prompt)
    try:
        assert out == epath.Path(finished[0]) / "inspect"
        assert sorted(path.name for path in out.iterdir()) == [
            "attention-cat-r-dog-3.json",
            "attention-cat-r-dog-3.png",
            "cat-r-dog-3.png",
            "words.json",
            "words.png",
            "words.txt",
        ]
        said = capsys.readouterr().out
        assert "on by inv_reversion, 6 of 6 steps trained" in said
        assert (out / "words.txt").read_text() in said
        assert "attention of the words of 'cat <R> dog' (seed 3)" in said
        numbers = json.loads((out / "attention-cat-r-dog-3.json").read_text())
        assert [word["word"] for word in numbers["words"]] == ["cat", "<R>", "dog"]
        assert pictures.read_metadata(out / "cat-r-dog-3.png")["prompt"] == "cat <R> dog"
        assert np.asarray(Image.open(out / "cat-r-dog-3.png")).shape == (16, 16, 3)
        assert list(json.loads((out / "words.json").read_text())) == ["<R>", "<R-inv>"]
    finally:
        for path in out.iterdir():
            path.unlink()
        out.rmdir()


def test_the_report_on_a_file_is_written_into_the_current_folder(file, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert inspection.inspect(inspection.Source(file, str(small))) == epath.Path("inspect/on")
    assert (tmp_path / "inspect" / "on" / "words.png").is_file()
    # A folder of embedding files can replace a single embedding file.
    inspection.inspect(inspection.Source(str(tmp_path), str(small)), out="elsewhere")
    assert list(json.loads((tmp_path / "elsewhere" / "words.json").read_text())) == ["<R-inv>", "<R>"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "nowhere.pt"}, "no embedding at nowhere.pt"),
        ({"name": "EMPTY"}, "no training run in"),
        ({"name": "runs/hgu", "model": None}, "no training run in runs/hgu"),
        ({"model": None}, "give --model=FOLDER_OR_HUB_ID"),
        ({"step": 2}, "--step=2 is for training runs, but"),
        ({"model": "miniature"}, "made for another model: miniature has 128"),
        ({"initialiser": "cat dog"}, "initialiser word of 2 tokens"),
    ],
)
def test_bad_input_for_inspection_is_refused_in_one_line(changes, says, file, small, tmp_path):
    (tmp_path / "empty").mkdir()
    changes = {key: str(tmp_path / "empty") if value == "EMPTY" else value for key, value in changes.items()}
    with pytest.raises((ValueError, OSError), match=re.escape(says)) as error:
        inspection.read(inspection.Source(file, str(small))._replace(**changes))
    assert "\n" not in str(error.value)


def test_a_setting_out_of_range_is_refused_by_inspection(finished):
    found, _ = inspection.read(inspection.Source(str(finished[0])))
    with pytest.raises(ValueError, match="guidance_scale"):
        inspection.watch(found, inspection.Prompt("cat <R>", settings={"guidance_scale": -1.0}))
