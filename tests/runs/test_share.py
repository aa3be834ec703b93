"""Pushes a run's words to a fake hub on the loopback address, and draws and trains with words that are on this hub."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import yaml
from etils import epath
from fake_hub import TOKEN, FakeHub
from huggingface_hub import constants
from places import ROOT
from tiny_run import changed

from reversion_jax import config as settings
from reversion_jax.drawing import pictures, samples, words
from reversion_jax.runs import export, folder
from reversion_jax.runs.share import Push, share
from reversion_jax.runtime.errors import Caution
from reversion_jax.training import prepare
from reversion_jax.weights import embeddings

D = 32  # the width of the tiny models' text embeddings
SENT = {"on.safetensors", "on-inv.safetensors", "learned_embeds.bin", "README.md", "preview.png"}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A fake hub that this process and its child processes use in place of the Hugging Face Hub."""
    server = FakeHub()
    told = {"ENDPOINT": server.address, "HF_HUB_OFFLINE": False, "HF_HUB_CACHE": str(tmp_path / "cache")}
    told["HUGGINGFACE_CO_URL_TEMPLATE"] = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    told["HF_TOKEN_PATH"] = str(tmp_path / "no_token")  # so that no test uses the user's own token
    for name, value in told.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


def write_run(place, origin=None, **changes):
    """Writes a training run's folder with previews of steps 0, 200 and 400, and rows of steps 200 and 400."""
    config = settings.get_config()
    config.update({"model": "someone/base@v2", "relation": "on", "steps": 400} | changes)
    config = settings.settle(config)
    workdir = epath.Path(place / "run")
    of_model = {"model": config.model, "model_is_local": False, "model_hash": "0123456789abcdef"}
    folder.write_settings(workdir, config, of_model | {"versions": {"reversion_jax": "0.4.0"}} | (origin or {}))
    for step in (200, 400):
        rows = np.random.default_rng(step).normal(size=(2 * config.rows_per_token, D)).astype(np.float32)
        folder.write_rows(workdir, rows, step)
    for step in (0, 200, 400):
        grid = np.full((8, 8, 3), step // 2, np.uint8)
        pictures.save_png(workdir / "previews" / f"step_{step:06d}.png", grid, {"prompts": f"cat <R> dog\n{step}"})
    pictures.save_png(workdir / "contact_sheet.png", np.full((8, 8, 3), 7, np.uint8))
    return workdir


def front_matter(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_a_push_sends_embedding_files_a_preview_and_a_card(hub, tmp_path):
    workdir = write_run(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "diary.txt").write_text("not for others")
    said = share(workdir, epath.Path(tmp_path / "out"), Push("me/on", license="cc-by-4.0"))
    (tmp_path / "out" / "diary.txt").unlink()
    assert said.splitlines()[-1].startswith(f"{hub.address}/me/on has on.safetensors, ")
    assert f'pipe.load_textual_inversion("{tmp_path}/out/on.safetensors", token="<R>")' in said
    sent = dict(hub.files["me/on"])
    assert sent.pop(".gitattributes") == b""
    assert set(sent) == SENT
    assert sent == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert (hub.private, hub.commits) == ({"me/on": False}, ["on by inv_reversion, 400 of 400 steps trained"])
    assert sent["preview.png"] == (workdir / "previews" / "step_000400.png").read_bytes()
    assert not [name for name, content in sent.items() if str(tmp_path).encode() in content]

    card = sent["README.md"].decode()
    about = front_matter(card)
    assert (about["base_model"], about["base_model_relation"]) == ("someone/base", "adapter")
    assert about["license"] == "cc-by-4.0"
    assert {"textual_inversion", "text-to-image", "reversion_jax"} <= set(about["tags"])
    for line in (
        "| relation | on |",
        "| method | [Inv-ReVersion](https://doi.org/10.3390/app14083338) |",
        "| steps | 400 of 400 |",
        "| base model | [someone/base@v2](https://huggingface.co/someone/base) |",
        "| hash of its weights | `0123456789abcdef` |",
        "cat <R> dog\n400",
        'pipe = StableDiffusionPipeline.from_pretrained("someone/base", revision="v2")',
        'pipe.load_textual_inversion("me/on", weight_name="on.safetensors", token="<R>")',
        'pipe.load_textual_inversion("me/on", weight_name="on-inv.safetensors", token="<R-inv>")',
        'pipe("stone <R-inv> <R> cat").images[0]',
        "Prompts: `cat on stone`, `stone on-inv on cat`.",
        "Prompts: `cat embedding:on stone`, `stone embedding:on-inv embedding:on cat`.",
        'reversion_jax.sample --model someone/base@v2 --embedding me/on --prompt "cat <R> stone"',
        "`--config.initialiser=me/on`",
    ):
        assert line in card


@pytest.mark.filterwarnings("ignore:Use 'content=<:DeprecationWarning")  # by huggingface_hub
def test_embedding_files_go_to_the_large_file_storage_if_the_hub_asks(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the fake hub does not have Xet's protocol
    hub.lfs = True
    share(write_run(tmp_path), epath.Path(tmp_path / "out"), Push("me/on"))
    assert len(hub.objects) == 3
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert hub.files["me/on"] == {".gitattributes": b"", **written}
    hub.lose = True
    with pytest.raises(ValueError, match=r"cannot push to me/other: Error while uploading .* Bad request:$") as error:
        share(write_run(tmp_path, method="reversion", seed=1), None, Push("me/other"))
    assert "\n" not in str(error.value)


def test_a_readme_of_the_user_is_not_overwritten(hub, tmp_path):
    (tmp_path / "README.md").write_text("# my project\n")
    with pytest.raises(ValueError, match=r"README\.md is not a card of ours .*: give another --out$"):
        share(write_run(tmp_path), epath.Path(tmp_path), Push("me/on"))
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "# my project\n"
    for _ in range(2):
        share(epath.Path(tmp_path / "run"), epath.Path(tmp_path / "out"), Push("me/on"))
    assert hub.commits


def test_a_second_push_replaces_the_files_of_the_first(hub, tmp_path):
    """The second push sends the words of an earlier checkpoint and the preview of the same step.

    The relation word has two rows, and there is no inverse word.
    """
    workdir = write_run(tmp_path, method="reversion", rows_per_token=2)
    share(workdir, None, Push("me/on"))
    with pytest.warns(Caution, match="200 of 400 steps"):
        share(workdir, None, Push("me/on"), 200, onetrainer=True)
    sent = hub.files["me/on"]
    assert set(sent) == {".gitattributes", "onetrainer/on.safetensors", *SENT} - {"on-inv.safetensors"}
    assert len(hub.commits) == 2
    assert sent["preview.png"] == (workdir / "previews" / "step_000200.png").read_bytes()
    card = sent["README.md"].decode()
    assert "| steps | 200 of 400 |" in card
    assert 'weight_name="on.safetensors", token="<r>")' in card
    assert "on-inv.safetensors" not in card
    assert "<R-inv>" not in card
    assert "license" not in front_matter(card)
    assert "folder `onetrainer`" in card


@pytest.mark.parametrize("model", ["/home/somebody/models/sd15", "models/sd15", "miniature"])
def test_the_card_does_not_reveal_the_path_of_a_local_model(hub, tmp_path, model):
    workdir = write_run(tmp_path, {"model_is_local": model != "miniature"}, model=model)
    (workdir / "previews" / "step_000400.png").unlink()
    with pytest.warns(Caution) if model == "miniature" else pytest.MonkeyPatch.context():
        share(workdir, None, Push("me/on"), 400 if model != "miniature" else 200)
    card = hub.files["me/on"]["README.md"].decode()
    assert "base_model" not in front_matter(card)
    assert "somebody" not in card
    assert "models/sd15" not in card
    known_as = "miniature" if model == "miniature" else "MODEL"
    assert f"--model {known_as} --embedding me/on" in card


def test_a_run_without_previews_has_a_card_without_a_picture(hub, tmp_path):
    workdir = write_run(tmp_path)
    for path in (workdir / "previews").iterdir():
        path.unlink()
    share(workdir, None, Push("me/on"))
    assert "preview.png" not in hub.files["me/on"]
    assert "![" not in hub.files["me/on"]["README.md"].decode()


def test_a_damaged_preview_is_not_pushed(hub, tmp_path):
    workdir = write_run(tmp_path)
    (workdir / "previews" / "step_000400.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"step_000400\.png is damaged: delete it, and the preview before it .* used$"):
        share(workdir, None, Push("me/on"))
    assert hub.asked == []


def test_a_private_push_makes_a_private_repository_and_refuses_a_public_repository(hub, tmp_path):
    workdir = write_run(tmp_path)
    share(workdir, None, Push("me/secret", private=True))
    assert hub.private == {"me/secret": True}
    share(workdir, None, Push("me/secret", private=True))
    share(workdir, None, Push("me/on"))
    with pytest.raises(ValueError, match="me/on: it exists and is public: make it private") as error:
        share(workdir, None, Push("me/on", private=True))
    assert "\n" not in str(error.value)
    assert len(hub.commits) == 3


def test_an_export_without_a_push_and_a_dry_run_send_nothing(hub, tmp_path):
    workdir, out = write_run(tmp_path), epath.Path(tmp_path / "out")
    export.export(workdir, out, onetrainer=True)
    said = share(workdir, epath.Path(tmp_path / "dry"), Push("me/on", dry_run=True))
    assert said.splitlines()[-1].startswith("nothing was sent; me/on would get on.safetensors, ")
    assert {path.name for path in (tmp_path / "dry").iterdir()} == SENT
    assert "me/on" in (tmp_path / "dry" / "README.md").read_text()
    assert hub.asked == []
    with pytest.raises(ValueError, match="give a folder for them with --out"):
        share(workdir, None, Push("me/on", dry_run=True))
    with pytest.raises(ValueError, match="can only send from local folders"):
        share(workdir, epath.Path("gs://bucket/on"), Push("me/on"))


@pytest.mark.parametrize(
    "name", ["on", "me/on/on.safetensors", "me/on@main", "me/o--n", "me/on.git", "https://hub/on", ""]
)
def test_names_that_no_repository_can_have_are_refused(hub, tmp_path, name):
    with pytest.raises(ValueError, match=re.escape(repr(name))) as error:
        share(write_run(tmp_path), epath.Path(tmp_path / "out"), Push(name))
    assert "\n" not in str(error.value)
    assert hub.asked == []
    assert not (tmp_path / "out").exists()


def test_a_push_without_a_token_is_refused_with_advice(hub, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match=r"no access token for the .* hub: run hf auth login, or set HF_TOKEN$"):
        share(write_run(tmp_path), None, Push("me/on"))
    assert hub.asked == []


@pytest.mark.parametrize("why", ["another token", "no right", "no hub", "offline"])
def test_the_error_of_a_failed_push_is_one_line_without_the_token(hub, tmp_path, monkeypatch, why):
    token, says = TOKEN, r"the hub refuses me/on \(.*40[13].*\): use another token \(hf auth login or HF_TOKEN\)$"
    if why == "another token":
        token = "hf_anotherOne"
        monkeypatch.setenv("HF_TOKEN", token)
    elif why == "no right":
        hub.refuse = 403
    elif why == "no hub":
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        says = "cannot push to me/on: .*[Cc]onnection refused"
    else:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        says = "cannot push to me/on: .*offline"
    with pytest.raises(ValueError, match=says) as error:
        share(write_run(tmp_path), None, Push("me/on"))
    assert "\n" not in str(error.value)
    assert token not in str(error.value)
    assert "me/on" not in hub.files


def test_the_export_command_pushes(hub, tmp_path):
    workdir = write_run(tmp_path)
    told = {
        "HF_ENDPOINT": hub.address,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(ROOT),
    }
    line = [sys.executable, "-m", "reversion_jax.export", "--workdir", str(workdir), "--push_to_hub", "me/on"]
    done = subprocess.run(line, env=os.environ | told, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert set(hub.files["me/on"]) == {".gitattributes", *SENT}
    assert TOKEN not in done.stdout + done.stderr
    assert done.stdout.splitlines() == [f"{hub.address}/me/on has {', '.join(hub_order())}"]


def hub_order():
    return ["on.safetensors", "on-inv.safetensors", "learned_embeds.bin", "README.md", "preview.png"]


def pushed(tmp_path, name="me/on", **changes):
    """Pushes a run and returns its words."""
    workdir = write_run(tmp_path, **changes)
    share(workdir, None, Push(name), onetrainer=True)
    return folder.read(workdir).words()


def test_words_on_the_hub_are_found_by_repository_or_by_file(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    both = pushed(tmp_path)
    names = lambda name: [path.name for path in embeddings.find(name)]
    assert names("me/on") == names("me/on@main") == ["on.safetensors", "on-inv.safetensors"]
    for name, token, wanted in (
        ("me/on/on.safetensors", "<R>", "<R>"),
        ("me/on@main/on-inv.safetensors", "<R-inv>", "<R-inv>"),
        ("me/on/learned_embeds.bin", "<R>", "<R>"),
        ("me/on/onetrainer/on-inv.safetensors", "on-inv", "<R-inv>"),
    ):
        (path,) = embeddings.find(name)
        found = embeddings.read(path)
        assert list(found) == [token]
        np.testing.assert_array_equal(found[token], both[wanted])
    with pytest.raises(ValueError, match=r"no file me/on/off\.safetensors, and me/on has no file off\.safetensors$"):
        embeddings.find("me/on/off.safetensors")

    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        assert names("me/on") == ["on.safetensors", "on-inv.safetensors"]
    pushed(tmp_path, relation="under")
    with pytest.raises(ValueError, match=r"holds 2 relations: name the file of one, such as me/on/on.safetensors$"):
        embeddings.find("me/on")
    pushed(tmp_path, "me/alone", method="reversion")
    assert names("me/alone") == ["learned_embeds.bin"]


def test_a_mistyped_path_is_not_looked_up_on_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("runs/hug/on.safetensors", "on.safetensors", "words/on.bin", "/nowhere/at/all.pt", "gs://b/c/on.bin"):
        if "://" not in name:
            assert embeddings.find(name) == [epath.Path(name)]
    assert hub.asked == []


def test_sample_draws_with_words_from_the_hub(hub, small, tmp_path):
    both = pushed(tmp_path)
    found = words.read(None, str(small), ["me/on"])
    assert list(found.tokens) == ["<R>", "<R-inv>"]
    for token, rows in both.items():
        np.testing.assert_array_equal(found.tokens[token], rows)
    chosen = {"resolution": 16, "sample_steps": 1, "guidance_scale": 1.0, "precision": "float32"}
    source = samples.Source(None, None, str(small), ["me/on/on.safetensors"], chosen)
    grid = samples.sample(source, ["cat <R> dog"], str(tmp_path / "out"), num_images=1, seed=0)
    assert pictures.read_metadata(grid)["words"].startswith("<R> from ")


@pytest.mark.parametrize(
    "name", ["me/on", "me/on/on.safetensors", "me/on/learned_embeds.bin", "me/on/onetrainer/on.safetensors"]
)
def test_training_starts_from_words_on_the_hub(hub, config, tmp_path, name):
    both = pushed(tmp_path)
    job = prepare.prepare(prepare.settle(changed(config, initialiser=name)))
    inverse = both["<R-inv>"] if name == "me/on" else both["<R>"]
    np.testing.assert_array_equal(np.asarray(job.first_rows[0]), np.concatenate([both["<R>"], inverse]))


def test_initial_words_are_read_from_a_folder(tmp_path):
    both = {token: np.full((1, D), value, np.float32) for token, value in (("<R>", 1), ("<R-inv>", 2))}
    embeddings.write(both, "on", tmp_path / "words")
    found = embeddings.initial_words(str(tmp_path / "words"))
    assert {token: rows[0, 0] for token, rows in found.items()} == {"<R>": 1, "<R-inv>": 2}
    assert embeddings.initial_words("and") is None
    embeddings.write(both, "under", tmp_path / "words")
    with pytest.raises(ValueError, match=r"words holds <R-inv> twice, also in under-inv\.safetensors: name one"):
        embeddings.initial_words(str(tmp_path / "words"))


@pytest.mark.long
def test_diffusers_loads_the_words_by_the_commands_on_the_card(hub, recorded, tmp_path):
    pytest.importorskip("diffusers")
    import torch_tiny

    both = pushed(tmp_path)
    commands = re.findall(r"pipe\.load_textual_inversion\(.+\)", hub.files["me/on"]["README.md"].decode())
    assert len(commands) == 2
    pipe = torch_tiny.pipeline(recorded.folder)
    for command in commands:
        exec(command, {"pipe": pipe})
    table = pipe.text_encoder.get_input_embeddings().weight.detach().numpy()
    for token, rows in both.items():
        np.testing.assert_array_equal(table[pipe.tokenizer.convert_tokens_to_ids(token)], rows[0])
