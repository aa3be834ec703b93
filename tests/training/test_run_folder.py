"""Tests the folder of a run, which can be used without the job, the model and the checkpoints."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from places import ROOT
from safetensors.numpy import load_file
from tiny_run import changed

from reversion_jax.runs import checkpoints, export, folder, history
from reversion_jax.runtime.errors import Caution
from reversion_jax.training import loop, prepare, resume
from reversion_jax.weights.fingerprint import fingerprint


def files(place: Path) -> set[str]:
    """Returns the names of all files in a folder, except checkpoints."""
    found = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith("checkpoints/")}


def make_old(workdir: Path, *names: str) -> None:
    """Removes the files and values that runs did not have before version 0.2."""
    for place in (workdir, *(workdir / name for name in names)):
        shutil.rmtree(place / "rows", ignore_errors=True)
        (place / "rows.safetensors").unlink(missing_ok=True)
    for name in names:
        (workdir / name / "config.json").unlink()
    edit_settings(workdir, lambda values: values.pop("origin"))


def edit_settings(workdir: Path, change) -> None:
    path = workdir / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of the finished run that the test may change."""
    return shutil.copytree(finished[0], tmp_path / "run")


@pytest.fixture(scope="module")
def job_config(config):
    """The config of two runs of four steps. The second run has no inverse prompts."""
    runs = ({"seed": 1}, {"relation": "under", "method": "reversion"})
    return changed(config, steps=4, preview_every_steps=0, runs=runs)


@pytest.fixture(scope="module")
def job(job_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("several") / "job"
    return workdir, loop.train(job_config, workdir)


NAMES = ("seed1", "under-reversion")


def test_a_run_folder_has_the_words_and_their_origin(config, finished):
    workdir, rows = finished
    expected = {"config.json", "rows.safetensors", "metrics.jsonl", "contact_sheet.png", "training.png"}
    expected |= {f"rows/step_00000{step}.safetensors" for step in (2, 4, 6)}
    expected |= {f"previews/step_00000{step}.png" for step in (0, 3, 6)}
    assert files(workdir) == expected | {"startup.json"}
    run = folder.read(workdir)
    np.testing.assert_array_equal(run.rows, rows[0])
    assert (run.step, run.settings.relation, run.settings.steps) == (6, "on", 6)
    assert run.describe() == "on by inv_reversion, 6 of 6 steps trained"
    words = load_file(workdir / "rows.safetensors")
    assert {token: own.shape for token, own in words.items()} == {"<R>": (1, 32), "<R-inv>": (1, 32)}
    origin = json.loads((workdir / "config.json").read_text())["origin"]
    assert origin["model"] == config.model
    assert origin["model_is_local"] is True
    assert re.fullmatch("[0-9a-f]{16}", origin["model_hash"])
    assert origin["model_hash"] == fingerprint(Path(config.model))
    assert origin["versions"]["jax"] == jax.__version__
    assert {"python", "reversion_jax", "transformers"} <= origin["versions"].keys()
    assert origin["device"] == jax.devices()[0].device_kind


def test_the_rows_of_every_checkpoint_can_be_read(config, finished, tmp_path):
    kept = {step: folder.read(finished[0], step).rows for step in (2, 4, 6)}
    shutil.copytree(finished[0] / "checkpoints", tmp_path / "checkpoints")
    for step in (6, 4):
        assert checkpoints.steps(tmp_path / "checkpoints")[-1] == step
        rows = checkpoints.read_rows(tmp_path / "checkpoints", step)
        np.testing.assert_array_equal(kept[step], rows[0])
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    np.testing.assert_array_equal(loop.train(changed(config, steps=2), tmp_path / "shorter")[0], kept[2])
    assert np.abs(kept[2] - kept[4]).min() > 0


def test_automatic_settings_are_kept_when_a_run_is_resumed(config, finished):
    """The first start chose the precision and the number of samples at once for its machine."""
    settings = folder.read(finished[0]).settings
    assert (settings.precision, settings.samples_at_once) == ("float32", 2)
    again = resume.check(prepare.settle(changed(config, steps=8)), finished[0])
    assert again.samples_at_once == 2
    assert resume.check(prepare.settle(changed(config, samples_at_once=1)), finished[0]).samples_at_once == 1
    with pytest.raises(ValueError, match=r"with another precision \(float32, not bfloat16\): give"):
        resume.check(prepare.settle(changed(config, precision="bfloat16")), finished[0])


@pytest.mark.parametrize(("device", "precision"), [("cpu", "float32"), ("NVIDIA H100", "tensorfloat32")])
def test_settings_of_version_0_3_keep_their_meaning(copied, device, precision):
    """In version 0.3, "float32" meant products in TensorFloat-32 on GPUs."""

    def as_it_was(values):
        del values["samples_at_once"]
        values |= {"runs_at_once": 3, "precision": "float32", "origin": values["origin"] | {"device": device}}

    edit_settings(copied, as_it_was)
    settings = folder.read(copied).settings
    assert (settings.precision, settings.samples_at_once, settings.batch_size) == (precision, 6, 2)


def test_rows_of_an_earlier_checkpoint_are_read(finished):
    run = folder.read(finished[0], step=4)
    assert run.step == 4
    assert run.describe() == "on by inv_reversion, 4 of 6 steps trained"
    assert (run.rows != finished[1][0]).any()
    with pytest.raises(ValueError, match="holds no rows of step 3: give one of the steps 2, 4, 6") as error:
        folder.read(finished[0], step=3)
    assert "\n" not in str(error.value)


def test_the_word_of_an_earlier_checkpoint_is_exported_with_a_warning(finished, tmp_path):
    with pytest.warns(Caution, match="^on by inv_reversion, 2 of 6 steps trained: not fully trained$"):
        told = export.export(finished[0], tmp_path / "early", step=2)
    assert str(tmp_path / "early" / "on-inv.safetensors") in told
    np.testing.assert_array_equal(
        load_file(tmp_path / "early" / "on.safetensors")["<R>"], folder.read(finished[0], step=2).rows[:1]
    )


def test_exporting_does_not_import_jax(finished, tmp_path):
    code = """if True:
        import sys
        from etils import epath
        from reversion_jax.runs import export
        export.export(*map(epath.Path, sys.argv[1:]))
        assert not {"jax", "orbax"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", code, finished[0], tmp_path / "out"], cwd=ROOT, check=True, timeout=60)
    assert (tmp_path / "out" / "on.safetensors").is_file()


def test_a_run_of_a_job_can_be_used_without_the_jobs_folder(job, tmp_path):
    workdir, rows = job
    for name, own in zip(NAMES, rows, strict=True):
        alone = shutil.copytree(workdir / name, tmp_path / "elsewhere" / name)
        expected = {"config.json", "rows.safetensors", "metrics.jsonl", "contact_sheet.png", "training.png"}
        assert files(alone) == expected | {f"rows/step_00000{step}.safetensors" for step in (2, 4)}
        run = folder.read(alone)
        np.testing.assert_array_equal(run.rows, own)
        assert (run.step, run.settings.runs) == (4, ())
        assert folder.read(alone, step=2).step == 2
        _, origin = folder.read_settings(alone)
        assert origin == folder.read_settings(workdir)[1]
    assert files(workdir) == {"config.json", "startup.json"} | {
        f"{name}/{file}" for name in NAMES for file in files(workdir / name)
    }
    told = export.export(tmp_path / "elsewhere" / NAMES[0], tmp_path / "out")
    assert [line.split("/")[-1] for line in told.splitlines() if line.startswith(str(tmp_path))] == [
        *("on.safetensors", "on-inv.safetensors", "learned_embeds.bin"),
    ]
    np.testing.assert_array_equal(load_file(tmp_path / "out" / "on.safetensors")["<R>"], rows[0, :1])
    told = export.export(tmp_path / "elsewhere" / NAMES[1], tmp_path / "out")
    assert "no file for <R-inv>: the run had no inverse prompts" in told
    assert not (tmp_path / "out" / "under-inv.safetensors").exists()


def test_only_a_run_with_inverse_prompts_has_an_inverse_word(job):
    assert list(folder.read(job[0] / NAMES[0]).words()) == ["<R>", "<R-inv>"]
    assert list(folder.read(job[0] / NAMES[1]).words()) == ["<R>"]


def test_folders_that_hold_no_run_or_several_runs_are_refused(finished, job, tmp_path):
    with pytest.raises(ValueError, match=f"no training run in {tmp_path}: train one with"):
        folder.read(tmp_path)
    with pytest.raises(ValueError, match=f"no training run in {finished[0]}/previews: train one with"):
        folder.read(finished[0] / "previews")
    with pytest.raises(ValueError, match=f"{job[0]} holds 2 runs: give the folder of one of them, such as seed1"):
        folder.read(job[0])
    with pytest.raises(ValueError, match=f"{job[0]} holds 2 runs"):
        folder.read(job[0] / "another")


DAMAGE = {"cut short": lambda whole: whole[:-9], "empty": lambda whole: b"", "no file of ours": lambda whole: b"x" * 99}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_rows_are_replaced_by_the_newest_intact_rows(finished, copied, tmp_path, damage):
    newest, kept = copied / "rows.safetensors", copied / "rows"
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.warns(Caution, match=r"rows\.safetensors holds no rows .* The rows of step 6 are used .*000006"):
        np.testing.assert_array_equal(folder.read(copied).rows, finished[1][0])
    (kept / "step_000006.safetensors").write_bytes(damage(newest.read_bytes()))
    with pytest.warns(Caution, match="The rows of step 4 are used"), pytest.warns(Caution, match="not fully trained"):
        export.export(copied, tmp_path / "out")
    found = load_file(tmp_path / "out" / "on.safetensors")["<R>"]
    np.testing.assert_array_equal(found, folder.read(finished[0], step=4).rows[:1])
    with pytest.warns(Caution, match="The rows of step 6 are used instead, from a checkpoint"):
        np.testing.assert_array_equal(folder.read(copied, step=6).rows, finished[1][0])
    shutil.rmtree(copied / "checkpoints")
    with pytest.raises(ValueError, match=r"step_000006\.safetensors holds no rows"):
        folder.read(copied, step=6)


def damage_checkpoint(place: Path, how: str) -> None:
    """Damages the checkpoint in the folder `place`."""
    data = max((path for path in place.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    whole = data.read_bytes()
    if how == "gone":
        shutil.rmtree(place / "default")
    elif how == "cut short":
        for path in place.rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        middle = len(whole) // 2
        flipped = bytes(byte ^ 0x55 for byte in whole[middle : middle + 64])
        data.write_bytes(whole[:middle] + flipped + whole[middle + 64 :])


@pytest.mark.parametrize("how", ["gone", "cut short", "flipped"])
def test_training_resumes_from_the_newest_intact_checkpoint(config, finished, copied, how):
    """The resumed run's result has the same bits as the result of an uninterrupted run."""
    damage_checkpoint(copied / "checkpoints" / "6", how)
    with pytest.warns(Caution, match=r"checkpoint 6 in .* is damaged \(.*\)(: 4 is used instead| and is removed)"):
        np.testing.assert_array_equal(loop.train(config, copied), finished[1])
    assert checkpoints.steps(copied / "checkpoints") == [4, 6]
    np.testing.assert_array_equal(loop.train(config, copied), finished[1])


def test_a_second_run_in_the_folder_of_a_run_that_trains_is_refused(config, finished, tmp_path):
    """The second run starts before the first checkpoint of the first run.

    The refused second run changes no file of the first run.
    """
    refused = []

    def start_another(progress):
        if progress.step == 2:
            before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*") if path.is_file()}
            with pytest.raises(
                ValueError, match=r"belongs to process \d+ on .*: wait for it, stop it, or give"
            ) as error:
                loop.train(changed(config, seed=5, relation="over"), tmp_path / "run")
            assert {path: path.read_bytes() for path in (tmp_path / "run").glob("*") if path.is_file()} == before
            refused.append(str(error.value))

    rows = loop.train(config, tmp_path / "run", on_progress=start_another)
    assert len(refused) == 1
    np.testing.assert_array_equal(rows, finished[1])
    assert folder.read(tmp_path / "run").settings.relation == "on"
    assert files(tmp_path / "run") == files(finished[0])


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(config, copied):
    for step in checkpoints.steps(copied / "checkpoints"):
        damage_checkpoint(copied / "checkpoints" / str(step), "cut short")
    before = files(copied)
    with pytest.raises(ValueError, match=r"no undamaged checkpoint in .*: give a new --workdir") as error:
        loop.train(config, copied)
    assert "\n" not in str(error.value)
    assert files(copied) == before


def test_a_checkpoint_with_changed_numbers_counts_as_damaged(config, finished, copied):
    """Orbax does not notice changed numbers, but the file of rows has a hash of the checkpoint's numbers."""
    path = copied / "rows" / "step_000006.safetensors"
    folder.write_rows(copied, finished[1][0], 6, "0123456789abcdef")
    with pytest.warns(Caution, match="6 .*its numbers differ from those that were written"):
        np.testing.assert_array_equal(loop.train(config, copied), finished[1])
    assert folder.read_rows(path).checkpoint not in ("", "0123456789abcdef")


def test_learned_rows_without_a_checkpoint_are_not_overwritten(config, copied):
    shutil.rmtree(copied / "checkpoints")
    with pytest.raises(ValueError, match="holds learned rows, but no checkpoint to resume from: give a new --workdir"):
        loop.train(changed(config, seed=9), copied)


def test_damaged_lines_of_the_metrics_are_left_out(config, finished, copied):
    history_file = copied / "metrics.jsonl"
    lines = history_file.read_bytes().split(b"\n")
    lines[2] = b'{"step": 3, "denoi\xff'
    lines[4] = b"[]"
    history_file.write_bytes(b"\n".join(lines))
    with pytest.warns(Caution, match="skipped damaged lines: 3, 5"):
        assert [record["step"] for record in history.read(history_file)] == [1, 2, 4, 6]


def test_an_error_about_a_damaged_config_names_the_file(copied):
    (copied / "config.json").write_text('{"relation": ')
    with pytest.raises(ValueError, match=r"config\.json is damaged") as error:
        folder.read(copied)
    assert "\n" not in str(error.value)


def test_a_folder_from_before_version_0_2_is_read_and_resumed(config, finished, tmp_path):
    workdir, early = tmp_path / "run", changed(config, steps=4)
    rows = loop.train(early, workdir)
    make_old(workdir)
    assert not {name for name in files(workdir) if "rows" in name}
    run = folder.read(workdir)
    np.testing.assert_array_equal(run.rows, rows[0])
    assert run.step == 4
    np.testing.assert_array_equal(folder.read(workdir, step=4).rows, rows[0])
    assert folder.read(workdir, step=2).step == 2
    with pytest.raises(ValueError, match="give one of the steps 2, 4"):
        folder.read(workdir, step=1)
    export.export(workdir, tmp_path / "out")
    assert (tmp_path / "out" / "on.safetensors").is_file()
    np.testing.assert_array_equal(loop.train(config, workdir), finished[1])
    np.testing.assert_array_equal(folder.read(workdir).rows, finished[1][0])
    assert {name for name in files(workdir) if "rows" in name} == {
        *("rows.safetensors", "rows/step_000004.safetensors", "rows/step_000006.safetensors"),
    }
    assert folder.read_settings(workdir)[1]["model"] == config.model


def test_a_job_from_before_version_0_2_is_read_and_resumed(job_config, job, tmp_path):
    workdir = tmp_path / "job"
    rows = loop.train(changed(job_config, steps=2), workdir)
    make_old(workdir, *NAMES)
    for name, own in zip(NAMES, rows, strict=True):
        run = folder.read(workdir / name)
        np.testing.assert_array_equal(run.rows, own)
        assert (run.step, run.settings.runs) == (2, ())
    assert folder.read(workdir / NAMES[1]).settings.method == "reversion"
    with pytest.raises(ValueError, match="holds 2 runs"):
        folder.read(workdir)
    np.testing.assert_array_equal(loop.train(job_config, workdir), job[1])
    assert files(workdir) - {f"{name}/rows/step_000002.safetensors" for name in NAMES} == files(job[0]) - {
        f"{name}/rows/step_000002.safetensors" for name in NAMES
    }
    np.testing.assert_array_equal(folder.read(workdir / NAMES[1]).rows, job[1][1])


def test_old_names_of_settings_are_understood(copied):
    edit_settings(copied, lambda values: values.update(exemplars="", model="miniature", both_ways="mean"))
    assert folder.read(copied).settings.exemplars == "drawn"


def test_a_setting_that_is_newer_than_the_run_has_its_default(config, finished, copied):
    edit_settings(copied, lambda values: [values.pop(key) for key in ("negatives", "sampler")])
    assert folder.read(copied).settings.sampler == "ddim"
    np.testing.assert_array_equal(loop.train(config, copied), finished[1])
    with pytest.raises(ValueError, match="another negatives"):
        loop.train(changed(config, negatives="vocabulary"), copied)


def test_an_old_run_with_any_token_as_negatives_is_resumed_with_these_negatives(config, copied):
    """The command that started the run also resumes it, although "vocabulary" now means whole words."""
    edit_settings(copied, lambda values: [values.update(negatives="vocabulary"), values.pop("inverse_prompts")])
    assert folder.read(copied).settings.negatives == "tokens"
    given = prepare.settle(changed(config, negatives="vocabulary"))
    assert resume.check(given, epath.Path(copied)).negatives == "tokens"
    with pytest.raises(ValueError, match="another negatives"):
        resume.check(prepare.settle(config), epath.Path(copied))


def test_a_model_that_changed_since_the_run_started_is_refused(config, finished, copied):
    edit_settings(copied, lambda values: values["origin"].update(model_hash="0123456789abcdef"))
    with pytest.raises(ValueError, match=r"holds a run on another model than the present .*: give a new") as error:
        loop.train(config, copied)
    assert "\n" not in str(error.value)
    assert json.loads((copied / "config.json").read_text())["origin"]["model_hash"] == "0123456789abcdef"
    np.testing.assert_array_equal(folder.read(copied).rows, finished[1][0])


@pytest.mark.parametrize("text", ["", "[]", "3", '{"steps": "many"}', '{"relation": 3}', '{"runs": {}}', '{"steps": '])
def test_an_error_about_an_invalid_config_names_the_file(copied, text):
    (copied / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is damaged") as error:
        folder.read(copied)
    assert "\n" not in str(error.value)


def test_a_run_is_read_by_a_string_with_or_without_a_tilde(finished, monkeypatch):
    workdir, rows = finished
    monkeypatch.setenv("HOME", str(Path(workdir).parent))
    for name in (str(workdir), f"~/{Path(workdir).name}"):
        np.testing.assert_array_equal(folder.read(name).rows, rows[0])
