"""Deferred handling of signals that ask a run to stop, so that it can write a checkpoint first. Imports no torch."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from types import FrameType
from typing import Any

NUMBERS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))
"""Ctrl-C, termination, and the signals that clusters send before a job's time limit or preemption."""

stopping: list[int] = []
"""Signals that have stopped a run of this process; the remaining runs of a sweep are then not started."""


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to stop. A `KeyboardInterrupt`, so that a sweep stops with it."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(number, message)
        self.number, self.message = number, message

    def __str__(self) -> str:
        return self.message


class Signals:
    """Within the block the first signal of `NUMBERS` is only recorded in `caught`; a second one acts as usual.

    A handler installed earlier, such as that of a cluster's client, which requeues the job, is called at the end of the block.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in NUMBERS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.caught is not None:
            stopping.append(self.caught)
            listener = self._before.get(self.caught)
            if callable(listener) and listener.__module__ not in ("_signal", __name__):
                listener(self.caught, None)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.caught = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def stop_if_asked() -> None:
    """Raise `Interrupted` if a signal has stopped an earlier run of this process."""
    if stopping:
        raise Interrupted(stopping[0], "stopped")


@contextmanager
def passed_on() -> Iterator[None]:
    """While a sweep waits for its jobs, forward the first signal to its child processes and wait for their checkpoints.

    Without child processes, as on a cluster, the sweep ends and its jobs continue. A second signal acts as usual.
    """

    def handler(number: int, _: FrameType | None) -> None:
        children = active_children()
        first = not stopping
        stopping.append(number)
        if not (first and children):
            raise Interrupted(number, "stopped")
        for child in children:
            if child.pid is not None:  # the terminal has already sent them Ctrl-C; a second SIGINT would end them at once
                os.kill(child.pid, signal.SIGTERM if number == signal.SIGINT else number)

    before: dict[int, Callable[..., Any] | int | None] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, handler) for number in NUMBERS}
    try:
        yield
        stop_if_asked()
    finally:
        for number, old in before.items():
            signal.signal(number, old)
