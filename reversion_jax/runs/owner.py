"""Whose a workdir is: one job at a time writes there. WORKDIR/owner.json says which, while it runs.

The owner renews the file every few seconds. A job that finds it takes the folder over only if its owner is gone: a
process of this machine that has ended, or another machine's that renews it no more. In a bucket no file can be made
"only if it is not there", so two jobs that start within the same second can both take it; the one whose file was
replaced finds that out before it writes again, and stops.
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
BEAT_S = 10.0  # between renewals
EXPIRY_S = 60.0  # without a renewal: the owner is gone
_LONG_AGO_S = 3600.0  # more than clocks of different machines differ by
_SETTLE_S = 0.3  # until of two that take over at once the last one is known


@contextlib.contextmanager
def owned(folder: epath.Path) -> Iterator[Callable[[], None]]:
    """Takes the folder, made if need be, for the body; yields a function that raises OSError if it was taken away.

    Of several processes the first one takes it for all. ValueError, one line, if it belongs to a job that runs.
    OSError if it cannot be written. A folder that was made for nothing goes again.
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
            raise error or ValueError(f"the first process cannot have {folder}: see what it says")
        yield owner.check if owner else lambda: None
    finally:
        if owner:
            owner.release()
        for place in made if parallel.is_first() else ():
            with contextlib.suppress(OSError, ValueError):  # what holds something stays
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
        """OSError if another job has taken the folder over: this one was silent for too long."""
        if not files.is_remote(self._folder) or time.monotonic() - self._checked > 2 * BEAT_S:
            self._look()
        if self._lost:
            raise OSError(
                f"another job has taken {self._folder} over while this one stood still: nothing more is written there"
            )

    def release(self) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError, ValueError):
            self._look()
            if not self._lost:
                self._path.unlink(missing_ok=True)

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise OSError(f"{self._folder} is a file, or lies below one: give another --workdir") from error
        except OSError as error:
            raise OSError(f"cannot write to {self._folder} ({error.strerror}): give another --workdir") from error

    def _take(self) -> None:
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
        self._look()
        if self._lost:
            raise ValueError(_refusal(self._folder, _read(self._path) or {}))

    def _look(self) -> None:
        there = _read(self._path)
        # A file that was deleted or damaged is put back by the next renewal.
        self._lost = bool(there and there.get("token") != self._record["token"])
        self._checked = time.monotonic()

    def _text(self) -> str:
        return json.dumps(self._record | {"beat": time.time()}) + "\n"

    def _renew(self) -> None:
        files.write(self._path, self._text())

    def _renew_until_the_end(self) -> None:
        while not self._ended.wait(BEAT_S):
            with contextlib.suppress(OSError, ValueError):  # storage that is away for a moment; `check` will see
                self._look()
                if self._lost:
                    return
                self._renew()


def _wait_until_gone(folder: epath.Path, there: dict[str, Any]) -> None:
    """Returns once the owner is known to be gone; ValueError once it is known to run."""
    mine = _this_process()
    if there.get("machine") == mine["machine"]:
        if _runs(there):
            raise ValueError(_refusal(folder, there))
        return
    beat = there.get("beat")
    if isinstance(beat, int | float) and abs(time.time() - beat) > _LONG_AGO_S:
        return
    # Another machine's clock may be wrong: what counts is whether the file still changes.
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
    whose = f"process {there.get('pid', '?')} on {there.get('host', 'an unknown host')} since {there.get('since', '?')}"
    return f"{folder} belongs to {whose}: wait for it, stop it, or give another --workdir"


def _read(path: epath.Path) -> dict[str, Any] | None:
    """What owner.json says; {} if it is damaged or half written, None if it is not there."""
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
        return None  # a bucket's driver has errors of its own for what is not there


def _this_process() -> dict[str, Any]:
    """Host, machine, pid, and when the process started, which tells it from a later one of the same pid.

    The machine is the host since it was started, and a container's own process numbers: what pids can be compared in.
    """
    parts = [socket.gethostname(), _text_of("/proc/sys/kernel/random/boot_id")]
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    pid = os.getpid()
    return {"host": parts[0], "machine": " ".join(parts), "pid": pid, "started": _started(pid)}


def _runs(there: dict[str, Any]) -> bool:
    """Whether the owner, a process of this machine, still runs."""
    pid = there.get("pid")
    if not isinstance(pid, int) or pid < 1:
        return False
    if Path("/proc/self/stat").exists():
        started = _started(pid)
        return started is not None and started == there.get("started")
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _started(pid: int) -> str | None:
    """When a process started, in Linux's own time; None if it has ended, or there is no /proc."""
    text = _text_of(f"/proc/{pid}/stat")
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else None


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
