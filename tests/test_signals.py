"""Signals: noted, told to who listened before, passed on to the processes of a sweep."""

import multiprocessing
import os
import signal
import time

import pytest

from metarun import signals
from metarun.signals import NUMBERS, Interrupted, Signals, passed_on, stop_if_asked


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(signals, "stopping", [])


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_is_noted_and_no_further_run_is_begun(number):
    before = signal.getsignal(number)
    with Signals() as noted:
        os.kill(os.getpid(), number)
        assert noted.caught == number
    assert signal.getsignal(number) is before
    with pytest.raises(Interrupted, match="stopped"):
        stop_if_asked()


def test_a_cluster_that_listens_for_it_hears_of_it_after_the_checkpoint():
    heard = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: heard.append(number))
    try:
        with Signals():
            os.kill(os.getpid(), signal.SIGUSR2)
            assert heard == []
        assert heard == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)


def child(ready, seen):
    with Signals() as noted:
        ready.set()
        while noted.caught is None:
            time.sleep(0.01)
    seen.value = noted.caught


def test_a_sweep_passes_it_on_to_its_processes_and_waits():
    context = multiprocessing.get_context("spawn")
    ready, seen = context.Event(), context.Value("i", 0)
    process = context.Process(target=child, args=(ready, seen))
    process.start()
    assert ready.wait(60)
    waited = []

    def sweep():
        with passed_on():
            os.kill(os.getpid(), signal.SIGTERM)
            process.join(60)
            waited.append(seen.value)

    with pytest.raises(Interrupted):
        sweep()
    assert waited == [signal.SIGTERM]
    with pytest.raises(Interrupted):
        sweep()  # nobody to wait for: it strikes
    assert waited == [signal.SIGTERM]
