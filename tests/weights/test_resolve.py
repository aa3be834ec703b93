"""Tests which files belong to a model, and whether the files come from a folder, the cache or the hub."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest

from reversion_jax.weights import layout
from reversion_jax.weights import resolve as resolving
from reversion_jax.weights.resolve import resolve

CONFIGS = [
    "model_index.json",
    layout.OWN_SETTINGS,
    "scheduler/scheduler_config.json",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    *(f"{part}/config.json" for part in layout.WEIGHT_FILES),
]
NEVER = [
    "README.md",
    "v1-5-pruned.ckpt",
    "v1-5-pruned.safetensors",
    "safety_checker/model.safetensors",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "text_encoder/pytorch_model.bin",
    "vae/diffusion_pytorch_model.fp16.bin",
]
FULL = [f"{part}/{stem}.safetensors" for part, stem in layout.WEIGHT_FILES.items()]
HALF = [f"{part}/{stem}.fp16.safetensors" for part, stem in layout.WEIGHT_FILES.items()]
FLAX = [f"{part}/{name}" for part, name in layout.FLAX_FILES.items()]


@pytest.mark.parametrize(
    ("listed", "wanted"), [(FULL + HALF + FLAX, FULL), (HALF + FLAX, HALF), (FLAX, FLAX), (HALF[:2] + FULL[2:],) * 2]
)
def test_only_one_kind_of_weights_is_downloaded(listed, wanted):
    found = layout.snapshot_files(CONFIGS + NEVER + listed, "owner/name")
    assert sorted(found) == sorted(CONFIGS + wanted)


SHARDS = ["1-of-00002", "2-of-00002"]
WHOLE = [f"diffusion_pytorch_model-0000{n}.safetensors" for n in SHARDS]
NEW_HALF = [f"diffusion_pytorch_model.fp16-0000{n}.safetensors" for n in SHARDS]
OLD_HALF = [f"diffusion_pytorch_model-0000{n}.fp16.safetensors" for n in SHARDS]
INDEX = "diffusion_pytorch_model.safetensors.index.json"
HALF_INDEX = "diffusion_pytorch_model.safetensors.index.fp16.json"
OLD_INDEX = "diffusion_pytorch_model.safetensors.fp16.index.json"


@pytest.mark.parametrize(
    "files",
    [[INDEX, *WHOLE], [HALF_INDEX, *NEW_HALF], [HALF_INDEX, *OLD_HALF], [OLD_INDEX, *OLD_HALF]],
)
def test_all_shards_of_the_preferred_kind_are_chosen(files):
    others = ["config.json", "diffusion_pytorch_model.bin.index.json", layout.FLAX_FILES["unet"]]
    assert layout.weight_files("unet", [*others, *files], "unet") == files
    if files[0] == INDEX:
        half = ["diffusion_pytorch_model.fp16.safetensors", HALF_INDEX, *NEW_HALF]
        assert layout.weight_files("unet", [*half, *files], "unet") == files


def test_a_repository_with_only_single_files_is_refused_with_advice():
    with pytest.raises(ValueError, match=r"hf download owner/name v1-5-pruned\.safetensors"):
        layout.snapshot_files([name for name in NEVER if "/" not in name], "owner/name")


def test_a_folder_resolves_to_itself_and_invalid_names_are_refused(tmp_path):
    assert resolve(str(tmp_path)) == tmp_path
    for name in (str(tmp_path / "absent"), "one-word", "../owner/name", "owner/name@", "owner/na me"):
        with pytest.raises(ValueError, match="neither a folder"):
            resolve(name)


class Hub:
    """A fake hub that records requests and downloads. Every repository and branch has the same files."""

    def __init__(self, folder: Path, monkeypatch):
        self.folder, self.asked, self.downloads = folder, [], []
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", self.info)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot)

    def info(self, repository, revision, timeout):
        self.asked.append((repository, revision))
        files = [path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()]
        return huggingface_hub.ModelInfo(id=repository, siblings=[{"rfilename": file} for file in files])

    def snapshot(self, repository, revision, allow_patterns):
        self.downloads.append(sorted(allow_patterns))
        return str(self.folder)


@pytest.fixture
def online(recorded, tmp_path, monkeypatch):
    resolving._from_hub.cache_clear()
    folder = shutil.copytree(recorded.folder, tmp_path / "remote")
    for name in NEVER:
        if name != "v1-5-pruned.safetensors":
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).touch()
    yield Hub(folder, monkeypatch)
    resolving._from_hub.cache_clear()


@pytest.mark.parametrize(("model", "revision"), [("o/m", None), ("o/m@flax", "flax"), ("o/m@refs/pr/3", "refs/pr/3")])
def test_a_model_is_downloaded_once_and_without_unneeded_files(model, revision, online):
    for _ in range(2):
        assert resolve(model) == online.folder
    assert online.asked == [("o/m", revision)]
    configs, everything = online.downloads
    assert set(configs) < set(everything)
    assert all(name.endswith(".json") for name in configs)
    assert set(everything) >= set(FULL)
    assert not set(everything) & set(NEVER)


def test_another_model_family_is_refused_before_its_weights_are_downloaded(online):
    config = json.loads((online.folder / "unet/config.json").read_text())
    (online.folder / "unet/config.json").write_text(json.dumps({**config, "cross_attention_dim": 2048}))
    with pytest.raises(ValueError, match="Stable Diffusion XL"):
        resolve("o/m")
    assert len(online.downloads) == 1


def test_the_config_of_a_hub_model_is_read_without_its_weights(online, recorded):
    assert resolving.read_config("o/m") == recorded.model.config
    assert all(name.endswith(".json") for configs in online.downloads for name in configs)
    (online.folder / FULL[1]).unlink()
    with pytest.raises(ValueError, match=r"no folder o/m, and no diffusion_pytorch_model\.safetensors in o/m/unet"):
        resolving.read_config("o/m")


def test_the_config_of_a_folder_is_read(recorded):
    assert resolving.read_config(str(recorded.folder)) == recorded.model.config
    with pytest.raises(ValueError, match="'one-word' is neither a folder"):
        resolving.read_config("one-word")


def test_a_hub_model_with_only_pickles_is_refused(online):
    (online.folder / FULL[1]).unlink()
    with pytest.raises(ValueError, match=r"o/m/unet, only diffusion_pytorch_model\.bin, a pickle"):
        resolve("o/m")
    assert not online.downloads


def test_an_error_about_an_interrupted_download_is_one_line_with_advice(online, monkeypatch):
    def interrupted(*args, **kwargs):
        raise OSError("No space left on device\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", interrupted)
    with pytest.raises(ValueError, match=r"No space left on device\).*--revision flax") as raised:
        resolve("o/m@flax")
    assert "\n" not in str(raised.value)


@pytest.fixture
def cached(recorded, tmp_path, monkeypatch):
    """The folder of a model in the hub's cache. conftest.py makes the hub's library work offline."""
    resolving._from_hub.cache_clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--o--m"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    yield shutil.copytree(recorded.folder, folder / "snapshots" / ("0" * 40))
    resolving._from_hub.cache_clear()


def test_a_model_is_read_from_the_cache_without_an_internet_connection(cached, capsys, recorded):
    assert resolving.read_config("o/m") == recorded.model.config
    for _ in range(2):
        assert resolve("o/m").samefile(cached)
    told = capsys.readouterr()
    assert told.err.startswith("o/m: using the cached copy")
    assert told.err.count("\n") == 1
    assert not told.out


@pytest.mark.parametrize("model", ["o/m", "o/m@flax", "o/absent"])
def test_an_incomplete_copy_is_refused_without_an_internet_connection(model, cached):
    (cached / FULL[0]).unlink()
    with pytest.raises(ValueError, match="hf download o/") as raised:
        resolve(model)
    assert "\n" not in str(raised.value)
    assert "\\n" not in str(raised.value)


def test_small_files_of_a_local_model_are_in_its_folder(recorded, tmp_path):
    assert resolving.small_files(str(recorded.folder)) == recorded.folder
    assert resolving.small_files("miniature") == resolving.MINIATURE_FOLDER
    (tmp_path / "model.safetensors").touch()
    for name in (str(tmp_path / "model.safetensors"), str(tmp_path / "absent"), "one-word", "../owner/name"):
        assert resolving.small_files(name) is None


def test_the_settings_in_a_hub_model_are_downloaded_without_its_weights(online):
    (online.folder / layout.OWN_SETTINGS).write_text("{}")
    assert resolving.small_files("o/m@flax") == online.folder
    assert online.asked == [("o/m", "flax")]
    assert {name for names in online.downloads for name in names} == {layout.OWN_SETTINGS}


def test_nothing_is_downloaded_from_a_hub_model_that_has_no_settings(online):
    folder = resolving.small_files("o/m")
    assert folder is None or not (folder / layout.OWN_SETTINGS).exists()
    assert not [names for names in online.downloads if names]


@pytest.mark.parametrize("model", ["o/m", "o/absent"])
def test_small_files_are_looked_up_without_output_if_there_is_no_internet_connection(model, cached, capsys):
    (cached / layout.OWN_SETTINGS).write_text("{}")
    folder = resolving.small_files(model)
    assert (folder / layout.OWN_SETTINGS).samefile(cached / layout.OWN_SETTINGS) if model == "o/m" else folder is None
    assert capsys.readouterr() == ("", "")
