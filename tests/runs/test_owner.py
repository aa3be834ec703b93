"""Tests that only one job at a time may write to a workdir."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from etils import epath
from places import ROOT

from reversion_jax.runs import owner

HOLD = """if True:
    import sys, time
    from etils import epath
    from reversion_jax.runs import owner
    with owner.owned(epath.Path(sys.argv[1])):
        print("owned", flush=True)
        time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path):
    """Starts another process, which owns the folder "run"."""
    command = [sys.executable, "-c", HOLD, tmp_path / "run"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "owned\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def quick(monkeypatch):
    """Shortens the waiting times from many seconds to tenths of a second."""
    monkeypatch.setattr(owner, "BEAT_S", 0.1)
    monkeypatch.setattr(owner, "EXPIRY_S", 0.6)
    monkeypatch.setattr(owner, "_SETTLE_S", 0.05)


def take(folder: Path) -> None:
    with owner.owned(epath.Path(folder)) as check:
        check()


def record(folder: Path, **changes) -> None:
    """Writes an owner.json that names this process as the owner, with some values changed."""
    folder.mkdir(parents=True, exist_ok=True)
    values = owner._this_process() | {"since": "yesterday", "token": "another", "beat": time.time()} | changes
    (folder / owner.NAME).write_text(json.dumps(values))


def test_a_free_folder_is_owned_and_then_released(tmp_path):
    place = tmp_path / "a" / "run"
    with owner.owned(epath.Path(place)) as check:
        check()
        assert json.loads((place / owner.NAME).read_text())["pid"] == os.getpid()
        with pytest.raises(ValueError, match=rf"belongs to process {os.getpid()} on .* since .*: wait for it, stop it"):
            take(place)
        check()
    assert not list(tmp_path.iterdir())  # folders without results are removed


def test_files_of_the_job_stay_after_the_folder_is_released(tmp_path):
    with owner.owned(epath.Path(tmp_path / "run")):
        (tmp_path / "run" / "metrics.jsonl").write_text("")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["metrics.jsonl"]


def test_a_folder_is_refused_until_the_process_that_owns_it_ends(holder, tmp_path):
    before = json.loads((tmp_path / "run" / owner.NAME).read_text())
    with pytest.raises(ValueError, match=rf"{tmp_path}/run belongs to process {holder.pid} on ") as error:
        take(tmp_path / "run")
    assert "\n" not in str(error.value)
    assert json.loads((tmp_path / "run" / owner.NAME).read_text())["token"] == before["token"]
    holder.kill()
    holder.wait()
    take(tmp_path / "run")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads Linux's /proc")
def test_a_zombie_process_is_no_longer_the_owner(holder, tmp_path):
    holder.kill()
    time.sleep(0.2)
    take(tmp_path / "run")


def test_a_paused_process_on_this_machine_stays_the_owner(holder, tmp_path, quick):
    holder.send_signal(signal.SIGSTOP)
    time.sleep(1)
    with pytest.raises(ValueError, match="belongs to process"):
        take(tmp_path / "run")
    holder.send_signal(signal.SIGCONT)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads Linux's /proc")
def test_a_process_that_reuses_the_owners_process_number_is_not_the_owner(tmp_path):
    record(tmp_path / "run", started="1")
    take(tmp_path / "run")


def test_a_folder_is_refused_while_an_owner_on_another_machine_renews_its_file(tmp_path, quick, capsys, monkeypatch):
    elsewhere = {"machine": "elsewhere", "host": "elsewhere"}
    record(tmp_path / "run", **elsewhere)
    monkeypatch.setattr(owner.time, "sleep", lambda _: record(tmp_path / "run", **elsewhere, beat=time.time() + 1))
    with pytest.raises(ValueError, match=r"belongs to process .* on elsewhere since yesterday: wait for it"):
        take(tmp_path / "run")
    assert "on elsewhere since yesterday: waiting up to 1 s" in capsys.readouterr().err


@pytest.mark.parametrize("there", ["silent", "hours ago", "damaged", "empty"])
def test_a_folder_is_taken_over_when_its_owner_no_longer_renews_the_owner_file(tmp_path, quick, there):
    """A machine that has restarted under another name can continue the run that it had started."""
    record(tmp_path / "run", machine="elsewhere", beat=time.time() - 7200 * (there == "hours ago"))
    if there in ("damaged", "empty"):
        (tmp_path / "run" / owner.NAME).write_text('{"pid' * (there == "damaged"))
    started = time.monotonic()
    take(tmp_path / "run")
    assert (time.monotonic() - started < 0.5) == (there == "hours ago")
    assert not list((tmp_path / "run").iterdir())


def test_a_job_whose_folder_was_taken_over_stops_writing(tmp_path):
    with owner.owned(epath.Path(tmp_path / "run")) as check:
        record(tmp_path / "run", token="of another")
        with pytest.raises(OSError, match=r"another job has taken .*run over while this job was paused: nothing more"):
            check()
    assert json.loads((tmp_path / "run" / owner.NAME).read_text())["token"] == "of another"


def test_the_owner_renews_its_file_regularly(tmp_path, quick):
    with owner.owned(epath.Path(tmp_path / "run")) as check:
        first = (tmp_path / "run" / owner.NAME).read_text()
        (tmp_path / "run" / owner.NAME).unlink()
        time.sleep(0.5)
        assert (tmp_path / "run" / owner.NAME).read_text() != first
        check()


@pytest.mark.parametrize("below", ["file", "file/run"])
def test_a_workdir_at_or_below_a_file_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=r"is a file, or a part of its path is one: give another --workdir"):
        take(tmp_path / below)
    assert (tmp_path / "file").read_text() == "mine"
