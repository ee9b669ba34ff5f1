"""One process at a time in a run directory, on network file systems, too, whose locks cannot be relied on. Imports no torch."""

import errno
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from metarun.config import ConfigError
from metarun.files import WRITING

log = logging.getLogger(__name__)

LOCK, OWNER = ".lock", ".owner"
BEAT = 5.0
"""Seconds between an owner's signs of life."""
PATIENCE = 30.0
"""Seconds without one after which an owner on another machine is taken for dead."""
SETTLING = 1.0
"""Seconds until, of several machines that take over at once, the last one to write knows that it was the last."""


NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
"""What a file system says that has no locks."""


class Busy(ConfigError):
    """Another process is at work on the run."""


class Claim:
    """What this process holds of ``folder``, from `claimed`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / OWNER
        self.token = uuid.uuid4().hex
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="claim", daemon=True)

    def check(self) -> None:
        """Before something is written: that the folder is there, and still ours.

        Raises:
            ConfigError: it is gone.
            Busy: another machine has taken this process for dead, and gone on with the run.
        """
        owner = _owner(self.path)
        if owner is not None and owner.get("token") != self.token:
            raise _busy(self.folder, owner)
        if owner is None and not self.folder.is_dir():
            raise ConfigError(f"{self.folder}: the run directory has vanished, and with it what the run had written")

    def take(self, *, locked: bool) -> None:
        """Become the owner; ``locked``: the machine's own lock says that no other process here is.

        An owner elsewhere is known by its signs of life alone, watched by this machine's clock: clocks need not agree.
        """
        while True:
            owner = _owner(self.path)
            if owner is not None and not (locked and owner.get("machine") == _machine()):
                self._watch(owner)
            try:
                self._write(0, new=owner is None)
                break
            except FileExistsError:  # somebody was faster
                continue
        if owner is not None and owner.get("machine") != _machine():
            time.sleep(SETTLING)
            self.check()
        self._thread.start()

    def leave(self) -> None:
        """Be the owner no longer."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        if (_owner(self.path) or {}).get("token") == self.token:
            self.path.unlink(missing_ok=True)

    def _watch(self, owner: dict[str, Any]) -> None:
        log.info("%s: begun on %s; looking for %g seconds whether it goes on there", self.folder, owner.get("host", "?"), PATIENCE)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            time.sleep(min(BEAT / 10, PATIENCE / 10))
            now = _owner(self.path)
            if now is None:
                return
            if now != owner:
                raise _busy(self.folder, now)

    def _beat(self) -> None:
        beats = 0
        while not self._over.wait(BEAT):
            beats += 1
            with suppress(OSError):  # a file system that is away for a while; `check` says so where something is to be written
                owner = _owner(self.path)
                if owner is not None and owner.get("token") != self.token:
                    return
                self._write(beats, new=owner is None)

    def _write(self, beats: int, *, new: bool) -> None:
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "machine": _machine(), "token": self.token, "beats": beats}
        beside = self.path.with_name(f"{OWNER}.{self.token}{WRITING}")
        beside.write_text(json.dumps(owner) + "\n")
        try:
            if new:  # to link fails where there is one, on network file systems, too
                os.link(beside, self.path)
            else:
                beside.replace(self.path)
        except FileExistsError:
            raise
        except OSError:
            if not new:
                raise
            with self.path.open("x") as file:  # no links here
                file.write(beside.read_text())
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def claimed(folder: Path) -> Iterator[Claim]:
    """For the length of the block no other process may work in ``folder``. A killed process holds nothing.

    On one machine a lock of the system's tells, which dies with its process. Between machines, where such locks may not hold,
    a file tells: its owner gives a sign of life every `BEAT` seconds.

    Raises:
        Busy: another process does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, locked, claim = FileLock(folder / LOCK), False, Claim(folder)
    try:
        try:
            lock.acquire(timeout=0)
            locked = True
        except Timeout:
            raise _busy(folder, _owner(claim.path) or {}) from None
        except (NotImplementedError, OSError) as error:
            if getattr(error, "errno", None) not in (None, *NO_LOCKS):
                raise
            log.debug("%s: no locks on this file system", folder)
        try:
            claim.take(locked=locked)
            yield claim
        finally:
            claim.leave()
    finally:
        lock.release()


def held(folder: Path) -> bool:
    """Whether a process of this machine is at work in ``folder``."""
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True


def _busy(folder: Path, owner: dict[str, Any]) -> Busy:
    who = f" ({owner['host']}, process {owner['pid']})" if "host" in owner else ""
    return Busy(f"{folder}: another process is at work on this run{who}")


def _owner(path: Path) -> dict[str, Any] | None:
    """What the owner says of itself; None where there is none, nothing known where it cannot be read."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@cache
def _machine() -> str:
    """The machine that this is, as long as it has not been started anew: what was at work before then is not any more."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.is_file() else ''}".strip()
