"""Ensures that only one job at a time writes to a workdir. While the job runs, WORKDIR/owner.json names it.

This job is the owner of the workdir. The owner renews the file every few seconds. Another job takes the folder over
only if the owner is gone: a process on this machine that has ended, or a process on another machine that no longer
renews the file. Cloud storage cannot create a file "only if it does not exist", so two jobs that start within the same
second can both take the folder. The job whose file was replaced notices this before it writes again, and stops.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from etils import epath

from reversion_jax.runtime import files, parallel

NAME = "owner.json"
# All in seconds.
BEAT_S = 10.0  # the time between renewals
EXPIRY_S = 60.0  # after this time without a renewal, the owner is gone
_LONG_AGO_S = 3600.0  # longer than the difference between the clocks of two machines
_SETTLE_S = 0.3  # if two jobs take a folder at once, the later job is known after this time


@contextlib.contextmanager
def owned(folder: epath.Path) -> Iterator[Callable[[], None]]:
    """Makes this job the owner of `folder` while the body runs. Creates the folder if it does not exist.

    Yields a function that raises OSError if another job has taken the folder over. If the job has several processes,
    the first process is the owner for all processes. At the end, a folder that this function created is removed if it
    is empty. Raises ValueError, with a message of one line, if another running job is the owner, and OSError if writing
    fails.
    """
    owner, error = None, None
    made = [] if files.is_remote(folder) else [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        if parallel.is_first():
            owner = _Owner(folder)
    except (ValueError, OSError) as refused:
        error = refused
    try:
        if parallel.any_process(error is not None):
            raise error or ValueError(f"the first process cannot take {folder}: see the error that it prints")
        yield owner.check if owner else lambda: None
    finally:
        if owner:
            owner.release()
        for place in made if parallel.is_first() else ():
            with contextlib.suppress(OSError, ValueError):  # a folder that is not empty stays
                place.rmdir()


class _Owner:
    """This process as the owner of a folder."""

    def __init__(self, folder: epath.Path):
        self._folder, self._path = folder, folder / NAME
        self._record = {**_this_process(), "since": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())}
        self._record["token"] = secrets.token_hex(8)
        self._make_folder()
        self._take()
        self._checked = time.monotonic()
        self._ended = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._renew_until_the_end, name="owner of a workdir", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises OSError if another job has taken the folder over, for example because this job was paused."""
        if not files.is_remote(self._folder) or time.monotonic() - self._checked > 2 * BEAT_S:
            self._update_lost()
        if self._lost:
            raise OSError(
                f"another job has taken {self._folder} over while this job was paused: nothing more is written there"
            )

    def release(self) -> None:
        """Ends the renewals and deletes owner.json, unless it belongs to another job by now."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError, ValueError):
            self._update_lost()
            if not self._lost:
                self._path.unlink(missing_ok=True)

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise OSError(f"{self._folder} is a file, or a part of its path is one: give another --workdir") from error
        except OSError as error:
            raise OSError(f"cannot write to {self._folder} ({error.strerror}): give another --workdir") from error

    def _take(self) -> None:
        """Writes owner.json. Raises ValueError if the folder's owner is another job that runs."""
        if not files.is_remote(self._folder):
            try:
                handle = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                pass
            except OSError as error:
                raise OSError(f"cannot write to {self._folder} ({error.strerror}): give another --workdir") from error
            else:
                with os.fdopen(handle, "w") as file:
                    file.write(self._text())
                return
        if (there := _read(self._path)) is not None:
            _wait_until_gone(self._folder, there)
        self._renew()
        time.sleep(_SETTLE_S)
        self._update_lost()
        if self._lost:
            raise ValueError(_refusal(self._folder, _read(self._path) or {}))

    def _update_lost(self) -> None:
        """Reads owner.json and notes whether another job has replaced it."""
        there = _read(self._path)
        # If the file was deleted or damaged, this job still owns the folder: the next renewal writes the file again.
        self._lost = bool(there and there.get("token") != self._record["token"])
        self._checked = time.monotonic()

    def _text(self) -> str:
        return json.dumps(self._record | {"beat": time.time()}) + "\n"

    def _renew(self) -> None:
        files.write(self._path, self._text())

    def _renew_until_the_end(self) -> None:
        while not self._ended.wait(BEAT_S):
            with contextlib.suppress(OSError, ValueError):  # storage may fail for a moment; `check` will look again
                self._update_lost()
                if self._lost:
                    return
                self._renew()


def _wait_until_gone(folder: epath.Path, there: dict[str, Any]) -> None:
    """Returns as soon as the owner is known to be gone. Raises ValueError as soon as the owner is known to run."""
    mine = _this_process()
    if there.get("machine") == mine["machine"]:
        if _is_running(there):
            raise ValueError(_refusal(folder, there))
        return
    beat = there.get("beat")
    if isinstance(beat, int | float) and abs(time.time() - beat) > _LONG_AGO_S:
        return
    # Another machine's clock may be wrong, so the time in the file proves nothing. The owner runs if the file changes.
    whose = _refusal(folder, there).rpartition(": ")[0]
    print(f"{whose}: waiting up to {EXPIRY_S:.0f} s to see whether it still runs", file=sys.stderr, flush=True)
    deadline = time.monotonic() + EXPIRY_S
    while time.monotonic() < deadline:
        time.sleep(min(1.0, EXPIRY_S / 10))
        if (now := _read(folder / NAME)) is None:
            return
        if now != there:
            raise ValueError(_refusal(folder, now))


def _refusal(folder: epath.Path, there: dict[str, Any]) -> str:
    """Returns the error message for a folder that another job owns; `there` is the content of owner.json."""
    whose = f"process {there.get('pid', '?')} on {there.get('host', 'an unknown host')} since {there.get('since', '?')}"
    return f"{folder} belongs to {whose}: wait for it, stop it, or give another --workdir"


def _read(path: epath.Path) -> dict[str, Any] | None:
    """Returns the content of owner.json; {} if it is damaged or half written, None if it does not exist."""
    try:
        found = files.from_json(path.read_text())
        return found if isinstance(found, dict) else {}
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    except OSError:
        if not files.is_remote(path):
            raise
        return None  # storage drivers raise different errors for files that do not exist


def _this_process() -> dict[str, Any]:
    """Returns this process's host, machine, pid and start time.

    The start time distinguishes the process from a later process with the same pid. The machine is identified by the
    host's name, the id of its last start and the container's pid namespace; pids can be compared only if all three are
    equal.
    """
    parts = [socket.gethostname(), _text_of("/proc/sys/kernel/random/boot_id")]
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    pid = os.getpid()
    return {"host": parts[0], "machine": " ".join(parts), "pid": pid, "started": _start_time(pid)}


def _is_running(there: dict[str, Any]) -> bool:
    """Returns whether the owner, a process on this machine, still runs."""
    pid = there.get("pid")
    if not isinstance(pid, int) or pid < 1:
        return False
    if Path("/proc/self/stat").exists():
        started = _start_time(pid)
        return started is not None and started == there.get("started")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _start_time(pid: int) -> str | None:
    """Returns when a process started, in clock ticks since Linux started; None if it has ended or there is no /proc."""
    text = _text_of(f"/proc/{pid}/stat")
    fields = text.rpartition(")")[2].split()  # the process's name, in parentheses, may contain any characters
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else None


def _text_of(path: str) -> str:
    """Returns the text of a file; "" if it cannot be read."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
