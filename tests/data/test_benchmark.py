import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from places import SHARED

from reversion_jax.data import benchmark, exemplars
from reversion_jax.inversion import prompts

EXPLICIT = {"text": "a photo of {subject} {} {object}, at night", "subject": "cat", "object": "stone"}


def _images(count):
    return np.random.default_rng(count).integers(0, 256, (count, 10, 14, 3), np.uint8)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with prompts, an empty folder, and three relations. "under" is not in the published benchmark."""
    root = tmp_path / "reversion_benchmark_v1"
    exemplars.write_folder(root / "under", _images(1), [["cat {} hat"]])
    exemplars.write_folder(root / "inside", _images(2), [["cat {} box", "a photo of cat {} box"], [EXPLICIT]])
    exemplars.write_folder(root / "hug", _images(3), [["owl {} fox"], ["fox {} owl"], ["ape {} owl"]])
    (root / "notes").mkdir()
    (root / "scenarios.json").write_text(json.dumps({"hug": {"subjects": ["owl", "ape"], "objects": ["fox", "dog"]}}))
    return root


def _same(records, others) -> bool:
    return all(
        one[:2] == two[:2] and one.templates == two.templates and np.array_equal(one.image, two.image)
        for one, two in zip(records, others, strict=True)
    )


def test_records_come_in_the_order_of_the_benchmark(folder):
    records = list(benchmark.read_records(folder))
    assert [record[:2] for record in records] == [
        *[("hug", "0.png"), ("hug", "1.png"), ("hug", "2.png")],
        *[("inside", "0.png"), ("inside", "1.png"), ("under", "0.png")],
    ]
    assert records[3].templates == ("cat {} box", "a photo of cat {} box")
    assert records[4].templates == (EXPLICIT,)
    np.testing.assert_array_equal(np.stack([record.image for record in records[:3]]), _images(3))


def test_a_benchmark_is_found_inside_a_folder_or_an_archive(folder):
    records = list(benchmark.read_records(folder))
    assert _same(benchmark.read_records(folder.parent), records)
    archive = Path(shutil.make_archive(folder.parent / "downloaded", "zip", folder.parent, folder.name))
    assert _same(benchmark.read_records(archive), records)
    shutil.move(archive, folder / "notes")
    assert _same(benchmark.read_records(folder / "notes"), records)


def test_pictures_are_turned_upright_as_their_exif_data_says(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored with 14 × 10 px, and shown turned by 90° with 10 × 14 px
    Image.fromarray(_images(1)[0]).save(folder / "under" / "0.png", exif=exif)
    (record,) = (record for record in benchmark.read_records(folder) if record.relation == "under")
    np.testing.assert_array_equal(record.image, np.rot90(_images(1)[0], -1))


def test_an_error_about_a_benchmark_names_the_folder_or_file(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        benchmark.relation_folders(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="notes: no relation found"):
        benchmark.relation_folders(folder / "notes")
    with pytest.raises(ValueError, match=r"scenarios\.json: no relation found"):
        benchmark.relation_folders(folder / "scenarios.json")
    archive = folder.parent / "broken.zip"
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("hug/text.json", '{"0.png": ["owl {} fox"]}')
        out.writestr("hug/0.png", b"no picture")
    with pytest.raises(ValueError, match=re.escape("broken.zip/hug/0.png: unreadable picture")):
        list(benchmark.read_records(archive))
    archive.write_bytes(archive.read_bytes().replace(b"no picture", b"no_picture"))
    with pytest.raises(ValueError, match="CRC"):
        list(benchmark.read_records(archive))
    (folder / "hug" / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1\.png: missing"):
        list(benchmark.read_records(folder))


def test_the_package_has_a_hundred_prompts_for_each_relation():
    """The prompts combine ten subjects with ten objects. No subject is also an object. Every prompt can be inverted."""
    found = benchmark.read_prompts()
    assert tuple(found) == benchmark.RELATIONS
    for templates in found.values():
        pairs = [(p.subject, p.object) for p in map(prompts.parse, templates)]
        subjects, objects = (list(dict.fromkeys(side)) for side in zip(*pairs, strict=True))
        assert len(subjects) == len(objects) == 10
        assert pairs == [(subject, other) for subject in subjects for other in objects]
        assert not set(subjects) & set(objects)


def test_prompts_are_read_from_the_users_copy_of_the_benchmark(folder, tmp_path):
    by_product = {"hug": ("owl {} fox", "owl {} dog", "ape {} fox", "ape {} dog")}
    assert benchmark.read_prompts(benchmark.find_prompts(folder)) == by_product
    assert benchmark.find_prompts(folder.parent) == folder / "scenarios.json"
    assert benchmark.find_prompts(folder / "notes") is None
    file = tmp_path / "benchmark_scenarios.py"
    file.write_text(
        f"import os\nos.remove({str(folder / 'scenarios.json')!r})\n"
        "inference_templates = {\n    'hug': [\n        'owl {} fox', 'owl {} dog',\n"
        "        'ape {} fox', \"ape {} dog\"],\n}\n"
    )
    assert benchmark.read_prompts(file) == by_product
    assert (folder / "scenarios.json").is_file()  # the Python file was read, not executed


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.json", "{", "not readable as prompts"),
        ("a.json", "[]", "must contain {relation"),
        ("a.json", '{"hug": []}', "hug: must be a list"),
        ("a.json", '{"hug": "owl {} fox"}', "hug: must be a list"),
        ("a.json", '{"hug": ["owl hugs fox"]}', "hug: 'owl hugs fox' must contain {} once"),
        ("a.json", '{"hug": {"subjects": ["owl"], "objects": [1]}}', "hug, objects: must be a list"),
        ("a.json", '{"hug": {"subjects": ["owl", "owl"], "objects": ["fox"]}}', "'owl' is repeated"),
        ("a.py", "print('hello')", "assigns no dict"),
        ("a.py", "a = {'hug': list('ab')}", "malformed node"),
        ("a.py", "a = {", "was never closed"),
    ],
)
def test_an_error_about_prompts_names_the_file_and_the_place(tmp_path, name, text, says):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(ValueError, match=re.escape(says)) as error:
        benchmark.read_prompts(file)
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"scenarios\.json"):
        benchmark.read_prompts(tmp_path / "nowhere.json")


@pytest.fixture(scope="module")
def tfds():
    pytest.importorskip("importlib_resources", reason="TFDS asks for it: pip install '.[tfds]'")
    return pytest.importorskip("tensorflow_datasets", reason="no TFDS: pip install '.[tfds]'")


def _build(tfds, manual: Path, data: Path):
    from reversion_jax.data.benchmark_tfds import ReversionBenchmark

    builder = ReversionBenchmark(data_dir=data)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual))
    return ReversionBenchmark(data_dir=data)  # a new builder, as a later process would make it


def _records(builder, relations):
    from reversion_jax.data.benchmark_tfds import to_record

    return [to_record(example) for relation in relations for example in builder.as_data_source(relation)]


def test_tfds_gives_the_same_records_as_the_folder(tfds, folder, tmp_path):
    builder = _build(tfds, folder, tmp_path / "data")
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "hug": 3,
        "inside": 2,
        "under": 1,
    }
    assert _same(_records(builder, ["hug", "inside", "under"]), benchmark.read_records(folder))
    assert builder.info.metadata["prompts"] == {"hug": ["owl {} fox", "owl {} dog", "ape {} fox", "ape {} dog"]}
    assert builder.info.metadata["prompts_from"] == "scenarios.json"


def test_tfds_uses_the_packages_prompts_if_the_user_has_no_prompts(tfds, folder, tmp_path):
    (folder / "scenarios.json").unlink()
    builder = _build(tfds, folder.parent, tmp_path / "data")
    assert builder.info.metadata["prompts"] == {name: list(own) for name, own in benchmark.read_prompts().items()}
    assert builder.info.metadata["prompts_from"] == "reversion_jax"


def test_tfds_reads_real_exemplars(tfds, tmp_path):
    folder = SHARED / "exemplars"
    if not folder.is_dir():
        pytest.skip("no shared/exemplars beside the repository")
    records = list(benchmark.read_records(folder))
    assert [record.relation for record in records] == ["painted_on"] * 9 + ["carved_by"] * 9 + ["inside"] * 9
    builder = _build(tfds, folder, tmp_path / "data")
    assert _same(_records(builder, ["painted_on", "carved_by", "inside"]), records)
    read = exemplars.read_folder(folder / "inside", 240)
    np.testing.assert_array_equal(
        np.stack([record.image for record in records[18:]]), np.rint((read.images + 1) * 127.5)
    )


def test_prompts_of_reversions_authors_are_read_and_are_not_in_the_package():
    file = SHARED / "benchmark" / "scenarios.json"
    if not file.is_file():
        pytest.skip("no shared/benchmark beside the repository")
    found, own = benchmark.read_prompts(file), benchmark.read_prompts()
    assert tuple(found) == benchmark.RELATIONS
    for relation, templates in found.items():
        assert len({(p.subject, p.object) for p in map(prompts.parse, templates)}) == 100
        # The prompts of ReVersion's authors have another licence than the package.
        assert not set(templates) & set(own[relation])
