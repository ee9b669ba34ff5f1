"""Run lock: one process at a time in a run directory, even on network file systems with unreliable locks. Imports no torch.

A lease by the local clock is kept beside the lock file, since clocks of different machines need not agree.
"""

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
"""Seconds between two heartbeats of an owner."""
PATIENCE = 30.0
"""Seconds without a heartbeat after which an owner on another machine is considered dead."""
SETTLING = 1.0
"""Seconds after which, if several machines take over at once, the last one to write can be sure that it was the last."""

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
"""Error numbers of a file system without locks."""


class Busy(ConfigError):
    """Another process is working on the run."""


class Claim:
    """The claim of this process to ``folder``, see `claimed`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / OWNER
        self.token = uuid.uuid4().hex
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="claim", daemon=True)

    def check(self) -> None:
        """Check, before a write, that the folder exists and that this process still owns it.

        Raises:
            ConfigError: the folder does not exist any more.
            Busy: another machine considered this process dead and has taken over the run.
        """
        owner = _owner(self.path)
        if owner is not None and owner.get("token") != self.token:
            raise _busy(self.folder, owner)
        if owner is None and not self.folder.is_dir():
            raise ConfigError(f"{self.folder}: the run directory has been removed, with everything written so far")

    def take(self, *, locked: bool) -> None:
        """Become the owner; ``locked``: this machine's lock is held, so no other process here is the owner.

        An owner on another machine is recognised by its heartbeats only, which are timed by this machine's clock.
        """
        while True:
            owner = _owner(self.path)
            if owner is not None and not (locked and owner.get("machine") == _machine()):
                self._watch(owner)
            try:
                self._write(0, new=owner is None)
                break
            except FileExistsError:  # another process was faster
                continue
        if owner is not None and owner.get("machine") != _machine():
            time.sleep(SETTLING)
            self.check()
        self._thread.start()

    def leave(self) -> None:
        """Give up ownership."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        if (_owner(self.path) or {}).get("token") == self.token:
            self.path.unlink(missing_ok=True)

    def _watch(self, owner: dict[str, Any]) -> None:
        log.info(
            "%s: started on %s; checking for %g seconds whether it is still running there",
            self.folder,
            owner.get("host", "?"),
            PATIENCE,
        )
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
            with suppress(OSError):  # the file system may be away for a while; `check` reports it at the next write
                owner = _owner(self.path)
                if owner is not None and owner.get("token") != self.token:
                    return
                self._write(beats, new=owner is None)

    def _write(self, beats: int, *, new: bool) -> None:
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "machine": _machine(), "token": self.token, "beats": beats}
        beside = self.path.with_name(f"{OWNER}.{self.token}{WRITING}")
        beside.write_text(json.dumps(owner) + "\n")
        try:
            if new:  # a link fails if the file exists, also on network file systems
                os.link(beside, self.path)
            else:
                beside.replace(self.path)
        except FileExistsError:
            raise
        except OSError:
            if not new:
                raise
            with self.path.open("x") as file:  # this file system has no links
                file.write(beside.read_text())
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def claimed(folder: Path) -> Iterator[Claim]:
    """Exclude other processes from ``folder`` within the block. A killed process loses its claim.

    On one machine a system lock is used, which is released when its process ends. Between machines, where such locks may not work,
    the owner refreshes a file every `BEAT` seconds.

    Raises:
        Busy: another process is working in the folder.
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
    """Whether a process of this machine is working in ``folder``."""
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True


def _busy(folder: Path, owner: dict[str, Any]) -> Busy:
    who = f" ({owner['host']}, process {owner['pid']})" if "host" in owner else ""
    return Busy(f"{folder}: another process is at work on this run{who}")


def _owner(path: Path) -> dict[str, Any] | None:
    """The owner's record of itself; None if there is no owner, empty if the record cannot be read."""
    try:
        owner = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


@cache
def _machine() -> str:
    """Identifies this machine since its last boot, as processes from before the boot are no longer running."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.is_file() else ''}".strip()
