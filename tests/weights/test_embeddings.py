"""Tests embedding files: their bytes, reading them with PyTorch and diffusers, and the text that `export` prints."""

import io
import json
import os
import pickletools
import re
import subprocess
import sys
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from etils import epath
from places import ROOT, SHARED
from safetensors.numpy import load_file, save_file

from reversion_jax import config as settings
from reversion_jax.drawing import texts
from reversion_jax.models.tokenizer import Tokenizer
from reversion_jax.runs import export, folder
from reversion_jax.runtime.errors import Caution
from reversion_jax.weights import embeddings, floats

D = 32  # width of the text embeddings of the model in recorded/
PROMPTS = ["photo of cat <R> dog", "dog <R-inv> <R> cat", "<R>", "cat on top of dog"]


def some_rows(count, width=D):
    return np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)


def some_words(per_token, width=D):
    """Returns random rows of both words of a run, by token."""
    return dict(zip(("<R>", "<R-inv>"), np.split(some_rows(2 * per_token, width), 2), strict=True))


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="the formats are also tested without it")


@pytest.mark.parametrize("per_token", [1, 2])
def test_each_embedding_file_has_one_token(tmp_path, per_token):
    words = some_words(per_token)
    doubles = {token: rows.astype(np.float64) for token, rows in words.items()}
    files = embeddings.write(doubles, "hug", tmp_path / "new" / "folder")
    assert [path.name for path in files] == ["hug.safetensors", "hug-inv.safetensors", "learned_embeds.bin"]
    assert {path.parent for path in files} == {tmp_path / "new" / "folder"}
    for path, (token, wanted) in zip(files, words.items(), strict=False):
        stored = load_file(path)
        assert list(stored) == [token]
        assert stored[token].dtype == np.float32
        np.testing.assert_array_equal(stored[token], wanted)
        np.testing.assert_array_equal(embeddings.read(path)[token], wanted)


def test_without_inverse_rows_there_is_no_inverse_file(tmp_path):
    files = embeddings.write({"<R>": jnp.asarray(some_rows(2))}, "hug", tmp_path)
    assert [path.name for path in files] == ["hug.safetensors", "learned_embeds.bin"]
    assert sorted(tmp_path.iterdir()) == sorted(files)


def test_equal_rows_give_equal_files(tmp_path):
    once = embeddings.write(some_words(1), "hug", tmp_path / "a")
    again = embeddings.write(some_words(1), "hug", tmp_path / "b")
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]


@pytest.mark.parametrize("per_token", [1, 2, 3])
def test_a_bin_file_has_three_uncompressed_members_and_three_pickle_globals(tmp_path, per_token):
    words = some_words(per_token)
    path = embeddings.write(words, "hug", tmp_path)[-1]
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        # A1111's scanner for unsafe pickles accepts only files with these member names. Similar scanners need the
        # folder name "archive", or the pickle as the first member.
        assert [m.filename for m in members] == ["archive/data.pkl", "archive/data/0", "archive/version"]
        assert {m.compress_type for m in members} == {zipfile.ZIP_STORED}
        pickle = archive.read("archive/data.pkl")
        assert archive.read("archive/data/0") == words["<R>"].tobytes()
    whole = path.read_bytes()
    assert whole.index(words["<R>"].tobytes()) % 64 == 0
    assert whole.index(pickle) % 64 == 0
    opcodes = list(pickletools.genops(pickle))
    assert {argument for opcode, argument, _ in opcodes if opcode.name == "GLOBAL"} == {
        "torch._utils _rebuild_tensor_v2",
        "torch FloatStorage",
        "collections OrderedDict",
    }
    assert not {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "BUILD"} & {opcode.name for opcode, _, _ in opcodes}
    pickletools.dis(pickle, out=io.StringIO())  # raises if the stack or the memo is wrong


def test_a_bin_file_has_the_bytes_of_reversions_file(tmp_path):
    reference = SHARED / "reference" / "reversion_painted_on_learned_embeds.bin"
    if not reference.is_file():
        pytest.skip("no shared/reference beside the repository")
    with zipfile.ZipFile(reference) as theirs:
        row = np.frombuffer(theirs.read("archive/data/0"), "<f4")
        ours = zipfile.ZipFile(embeddings.write({"<R>": row[None]}, "painted_on", tmp_path)[-1])
        with ours:
            assert ours.namelist() == theirs.namelist()
            assert all(ours.read(name) == theirs.read(name) for name in theirs.namelist())


@pytest.mark.parametrize(("per_token", "width"), [(1, 32), (1, 768), (2, 768), (5, 1024), (90, 768)])
def test_a_bin_file_equals_what_torch_saves_and_is_loaded_by_torch(tmp_path, torch, per_token, width):
    rows = some_rows(per_token, width)
    wanted = torch.from_numpy(rows[0] if per_token == 1 else rows)
    path = embeddings.write({"<R>": rows}, "hug", tmp_path)[-1]
    for mmap in (False, True):
        found = torch.load(path, weights_only=True, mmap=mmap)
        assert list(found) == ["<R>"]
        assert found["<R>"].dtype == torch.float32
        assert torch.equal(found["<R>"], wanted)
        assert not found["<R>"].requires_grad
    saved = io.BytesIO()
    torch.save({"<R>": wanted}, saved)
    with zipfile.ZipFile(path) as ours, zipfile.ZipFile(saved) as theirs:
        assert ours.read("archive/data.pkl") == theirs.read("archive/data.pkl")


def ours_and_theirs(recorded, pipe, rows, per_token, prompts):
    """Returns the text encoder's states of prompts, from texts.encode_text and from diffusers' pipeline."""
    model = recorded.model
    tokenizer = Tokenizer.load(
        model.tokenizer_folder,
        {"<R>": per_token, "<R-inv>": per_token},
        vocab_size=model.config.text.vocab_size,
        length=model.config.text.max_position_embeddings,
    )
    ours = texts.encode_text(model.params, model.config, tokenizer(prompts), jnp.asarray(rows))
    # `usage` advises lower case for words of several rows.
    prompts = [prompt if per_token == 1 else prompt.lower() for prompt in prompts]
    theirs, _ = pipe.encode_prompt(prompts, "cpu", 1, False)
    return np.asarray(ours), theirs.detach().numpy()


def loaded(recorded, advice):
    """Returns diffusers' pipeline after it ran the lines that `usage` prints."""
    pytest.importorskip("diffusers")
    import torch_tiny

    pipe = torch_tiny.pipeline(recorded.folder)
    for path, token in re.findall(r'pipe\.load_textual_inversion\("(.+)", token="(.+)"\)', advice):
        pipe.load_textual_inversion(path, token=token)
    return pipe


@pytest.mark.parametrize("per_token", [1, 2])
@pytest.mark.parametrize("of_relation", [0, 2], ids=["safetensors", "bin"])
def test_diffusers_encodes_prompts_with_learned_words_like_us(tmp_path, recorded, torch, per_token, of_relation):
    rows = some_rows(2 * per_token)
    files = embeddings.write(some_words(per_token), "hug", tmp_path)
    advice = [export.usage(files[i], "hug", per_token) for i in (of_relation, 1)]
    pipe = loaded(recorded, "\n".join(advice))
    ours, theirs = ours_and_theirs(recorded, pipe, rows, per_token, PROMPTS)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    # Other rows change the states of the three prompts that hold learned words.
    other, _ = ours_and_theirs(recorded, pipe, rows[::-1], per_token, PROMPTS)
    assert (np.abs(other - theirs).max(axis=(1, 2)) > 1e-2).tolist() == [True, True, True, False]


def test_diffusers_reads_the_tokens_from_the_files(tmp_path, recorded, torch):
    files = embeddings.write(some_words(1), "hug", tmp_path)
    pipe = loaded(recorded, "")
    pipe.load_textual_inversion(str(tmp_path))  # diffusers takes learned_embeds.bin from a folder
    pipe.load_textual_inversion(str(files[1]))
    np.testing.assert_allclose(*ours_and_theirs(recorded, pipe, some_rows(2), 1, PROMPTS), atol=1e-5)


def write_half(path, content):
    with path.open("wb") as file:
        file.write(content[: len(content) // 2])
    raise OSError("no space left")


def fail_to_rename(path, target):
    raise OSError("no space left")


@pytest.mark.parametrize(("method", "failing"), [("write_bytes", write_half), ("replace", fail_to_rename)])
def test_a_failed_write_leaves_the_old_files_unchanged(tmp_path, monkeypatch, method, failing):
    files = embeddings.write(some_words(1), "hug", tmp_path)
    before = {path: path.read_bytes() for path in files}
    monkeypatch.setattr(type(epath.Path(tmp_path)), method, failing)
    for relation in ("hug", "inside"):
        with pytest.raises(OSError, match="no space left"):
            embeddings.write({"<R>": some_rows(1) + 1}, relation, tmp_path)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("relation", ["", "a/b", "..", ".hug", "-hug", "<R>", "[hug]", "carved by", "été", "hug\n"])
def test_a_relation_that_cannot_be_a_file_name_is_refused(tmp_path, relation):
    with pytest.raises(ValueError, match="cannot name files") as caught:
        embeddings.write(some_words(1), relation, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "shapes", [[(D,)], [(2, 2, D)], [(0, D)], [(2, D), (1, D)], [(2, D), (2, D + 1)], [(2, D), (2 * D,)]], ids=str
)
def test_rows_of_a_wrong_shape_are_not_written(tmp_path, shapes):
    words = {token: np.zeros(shape, np.float32) for token, shape in zip(("<R>", "<R-inv>"), shapes, strict=False)}
    with pytest.raises(ValueError, match=r"need \[S, D\], equal for all words"):
        embeddings.write(words, "hug", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tokens", [[], ["<R-inv>"], ["<R>", "<hug>"]], ids=str)
def test_words_other_than_r_and_r_inv_are_not_written(tmp_path, tokens):
    with pytest.raises(ValueError, match="need <R>, and optionally <R-inv>"):
        embeddings.write(dict.fromkeys(tokens, some_rows(1)), "hug", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_half_precision_files_of_other_tools_are_read(tmp_path):
    save_file({"<hug>": some_rows(1)[0].astype(np.float16)}, tmp_path / "half.safetensors")
    ((token, array),) = embeddings.read(tmp_path / "half.safetensors").items()
    assert (token, array.shape, array.dtype) == ("<hug>", (1, D), np.float32)


def test_our_own_bin_file_is_read(tmp_path):
    rows = some_rows(2)
    *_, path = embeddings.write({"<R>": rows[:1], "<R-inv>": rows[1:]}, "hug", tmp_path)
    ((token, array),) = embeddings.read(path).items()
    assert token == "<R>"
    np.testing.assert_array_equal(array, rows[:1])


def test_the_bin_file_of_reversions_authors_is_read():
    path = SHARED / "reference" / "reversion_painted_on_learned_embeds.bin"
    if not path.is_file():
        pytest.skip("no shared/reference beside the repository")
    ((token, array),) = embeddings.read(path).items()
    assert (token, array.shape) == ("<R>", (1, 768))
    assert 0.1 < np.linalg.norm(array) < 10


def test_the_token_of_an_a1111_file_is_the_name_in_the_file(tmp_path):
    save_file({"emb_params": some_rows(2)}, tmp_path / "hug.safetensors")
    assert list(embeddings.read(tmp_path / "hug.safetensors")) == ["hug"]


@pytest.mark.parametrize("name", sorted(floats.FLOATS))
def test_every_float_type_of_safetensors_is_read(tmp_path, name):
    rows = np.abs(some_rows(2)).astype(floats.FLOATS[name])
    (tmp_path / "hug.safetensors").write_bytes(tiny.safetensors({"emb_params": (name, rows)}))
    np.testing.assert_array_equal(embeddings.read(tmp_path / "hug.safetensors")["hug"], rows.astype(np.float32))


def test_embeddings_of_onetrainer_are_read(tmp_path):
    rows = some_rows(3)
    save_file({"emp_params": rows[:2]}, tmp_path / "hug.safetensors")
    np.testing.assert_array_equal(embeddings.read(tmp_path / "hug.safetensors")["hug"], rows[:2])
    save_file({"emp_params": rows[:2], "emp_params_out": rows[2:]}, tmp_path / "hug.safetensors")
    with pytest.warns(Caution, match=r"hug\.safetensors: only emp_params is used, and emp_params_out ignored"):
        np.testing.assert_array_equal(embeddings.read(tmp_path / "hug.safetensors")["hug"], rows[:2])


@pytest.mark.parametrize("per_token", [1, 2])
def test_files_for_onetrainer_are_in_their_own_folder(tmp_path, per_token):
    """A file for OneTrainer has only the tensor emp_params [S, D].

    Reading the folder above the folder of these files does not find the files.
    """
    words = some_words(per_token)
    files = embeddings.write(words, "hug", tmp_path, onetrainer=True)
    assert [path.relative_to(tmp_path).as_posix() for path in files[3:]] == [
        "onetrainer/hug.safetensors",
        "onetrainer/hug-inv.safetensors",
    ]
    for path, (name, wanted) in zip(files[3:], {"hug": words["<R>"], "hug-inv": words["<R-inv>"]}.items(), strict=True):
        assert list(load_file(path)) == ["emp_params"]
        np.testing.assert_array_equal(load_file(path)["emp_params"], wanted)
        np.testing.assert_array_equal(embeddings.read(path)[name], wanted)
        assert "OneTrainer give it as the base embedding" in export.usage(path, "hug", per_token)
        assert "A1111" not in export.usage(path, "hug", per_token)
    assert embeddings.find(str(tmp_path)) == sorted(files[:2])
    alone = embeddings.write({"<R>": words["<R>"]}, "hug", tmp_path / "alone", onetrainer=True)
    assert [path.name for path in alone] == ["hug.safetensors", "learned_embeds.bin", "hug.safetensors"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["hug.safetensors", "learned_embeds.bin"])
def test_embeddings_with_nan_or_infinity_are_refused(tmp_path, name, value):
    words = some_words(1)
    words["<R>"][0, 3] = value
    embeddings.write(words, "hug", tmp_path)
    with pytest.raises(ValueError, match=rf"{name}: <R> holds NaN or infinity, so every picture would be black"):
        embeddings.read(tmp_path / name)


OTHERS = {
    "a LoRA": "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight",
    "a LoRA:": "unet.up_blocks.0.attentions.1.processor.to_q.lora_A.weight",
    "a whole Stable Diffusion checkpoint": "model.diffusion_model.out.2.bias",
    "a VAE": "encoder.conv_in.weight",
    "an embedding for Stable Diffusion XL": "clip_g",
    "a network's weights": "conv_in.weight",
}


@pytest.mark.parametrize(("kind", "name"), OTHERS.items(), ids=OTHERS)
def test_an_error_about_another_kind_of_file_names_the_kind(tmp_path, kind, name):
    save_file({name: some_rows(4)}, tmp_path / "x.safetensors")
    with pytest.raises(
        ValueError, match=rf"x\.safetensors is not an embedding for Stable Diffusion 1\.x but {kind}"
    ) as error:
        embeddings.read(tmp_path / "x.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt", "x.bin"])
def test_a_git_lfs_pointer_in_place_of_an_embedding_is_refused(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3819\n")
    with pytest.raises(ValueError, match=rf"{name} is a Git LFS pointer, not the file .*: fetch .* with git lfs pull"):
        embeddings.read(tmp_path / name)


def test_the_embeddings_of_a_folder_are_its_safetensors_files(tmp_path):
    first = embeddings.write(some_words(1), "hug", tmp_path)
    assert embeddings.find(str(tmp_path)) == sorted(first[:2])
    assert embeddings.find(str(first[0])) == [first[0]]
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="none holds no embedding: give a folder with a file that ends in"):
        embeddings.find(str(tmp_path / "none"))


@pytest.mark.parametrize(
    "names", [["learned_embeds.bin", "a.bin"], ["learned_embeds.bin", "learned_embeds.safetensors"]]
)
def test_an_embedding_is_fetched_from_the_hub(tmp_path, monkeypatch, names):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    asked = []

    def fetch(repository, revision, choose, *_):
        asked.append((repository, revision, choose(["README.md", "concept_images/0.bin", *names])))
        return tmp_path

    monkeypatch.setattr(embeddings.hub, "fetch", fetch)
    assert embeddings.find("sd-concepts-library/hug@main") == [tmp_path / max(names)]
    assert asked == [("sd-concepts-library/hug", "main", [max(names)])]


def test_damaged_and_missing_embeddings_are_refused(tmp_path):
    embeddings.write(some_words(1), "hug", tmp_path)
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "hug.safetensors").read_bytes()[:-5])
    save_file({"conv": np.zeros((2, 3, 3), np.float32)}, tmp_path / "conv.safetensors")
    with pytest.raises(ValueError, match=r"cannot read .*torn"):
        embeddings.read(tmp_path / "torn.safetensors")
    with pytest.raises(ValueError, match=r"conv has shape \(2, 3, 3\)"):
        embeddings.read(tmp_path / "conv.safetensors")
    with pytest.raises(FileNotFoundError, match="no embedding at"):
        embeddings.read(tmp_path / "none.safetensors")


def write_run(workdir, done=400, **changes):
    """Writes the folder of a run of 400 steps of which `done` are trained. Returns the run's rows."""
    config = settings.get_config()
    # This model does not exist, because export needs no model.
    config.update({"model": "nobody/nothing", "relation": "on", "steps": 400} | changes)
    config = settings.settle(config)
    folder.write_settings(workdir, config, {"model": config.model})
    rows = some_rows(2 * config.rows_per_token)
    folder.write_rows(workdir, rows, done)
    return rows


@pytest.fixture
def workdir(tmp_path):
    return epath.Path(tmp_path / "run")


@pytest.fixture
def out(tmp_path):
    return epath.Path(tmp_path / "out")


def test_export_prints_how_to_use_each_file(workdir, out, capsys):
    rows = write_run(workdir)
    said = export.export(workdir, out)
    np.testing.assert_array_equal(embeddings.read(out / "on.safetensors")["<R>"], rows[:1])
    np.testing.assert_array_equal(embeddings.read(out / "on-inv.safetensors")["<R-inv>"], rows[1:])
    assert capsys.readouterr() == ("", "")
    for line in (
        f'pipe.load_textual_inversion("{out}/on.safetensors", token="<R>"), then prompt "cat <R> stone"',
        'copy it into the folder embeddings of the web UI, then prompt "cat on stone"',
        'copy it into the folder models/embeddings of ComfyUI, then prompt "cat embedding:on stone"',
        f'pipe.load_textual_inversion("{out}/on-inv.safetensors", token="<R-inv>")',
        ', then prompt "stone <R-inv> <R> cat"',
        'copy it into the folder embeddings of the web UI, then prompt "stone on-inv on cat"',
        'copy it into the folder models/embeddings of ComfyUI, then prompt "stone embedding:on-inv embedding:on cat"',
        f'pipe.load_textual_inversion("{out}/learned_embeds.bin", token="<R>"), then prompt "cat <R> stone"',
        f'--only_load_embeds --model_id "{out}"',
    ):
        assert line in said


def test_export_writes_no_inverse_word_that_was_not_trained(workdir, out):
    rows = write_run(workdir, method="reversion", rows_per_token=2)
    said = export.export(workdir, out)
    assert sorted(path.name for path in out.iterdir()) == ["learned_embeds.bin", "on.safetensors"]
    np.testing.assert_array_equal(embeddings.read(out / "on.safetensors")["<R>"], rows[:2])
    assert "no file for <R-inv>" in said
    assert "inference.py" not in said  # ReVersion's inference.py takes only one row per token


def test_export_warns_of_unfinished_training(workdir, out):
    write_run(workdir, done=100)
    with pytest.warns(Caution, match="^on by inv_reversion, 100 of 400 steps trained: not fully trained$"):
        export.export(workdir, out)


def test_export_writes_the_words_of_an_earlier_checkpoint(workdir, out):
    rows = write_run(workdir, done=100)
    folder.write_rows(workdir, rows + 1, 400)
    export.export(workdir, out / "newest")
    with pytest.warns(Caution, match="100 of 400 steps"):
        export.export(workdir, out / "earlier", 100)
    for place, wanted in (("newest", rows + 1), ("earlier", rows)):
        np.testing.assert_array_equal(embeddings.read(out / place / "on.safetensors")["<R>"], wanted[:1])
    with pytest.raises(ValueError, match=r"holds no rows of step 200: give one of the steps 100, 400$"):
        export.export(workdir, out / "none", 200)


# Runs the command and prints the processor time that it used, in seconds, and the modules that it imported. Other
# programs do not change the processor time.
_COMMAND = """
import json, runpy, sys, time
try:
    runpy.run_module("reversion_jax.export", run_name="__main__")
except SystemExit as ended:
    assert not ended.code, ended.code
print(json.dumps([time.process_time(), sorted(sys.modules)]))
"""


def test_the_export_command_needs_neither_the_model_nor_jax(workdir, out):
    rows = write_run(workdir)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _COMMAND, "--workdir", str(workdir), "--out", str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    *said, found = done.stdout.splitlines()
    seconds, imported = json.loads(found)
    assert said[0] == f"{out}/on.safetensors"
    np.testing.assert_array_equal(embeddings.read(out / "on.safetensors")["<R>"], rows[:1])
    assert not {name for name in imported if name.split(".")[0] in ("jax", "jaxlib", "flax", "orbax", "transformers")}
    assert seconds < 2
