"""Runs of two methods over two seeds."""

import pytest
from page_runs import curve, write


@pytest.fixture
def runs(tmp_path):
    for seed in range(2):
        write(tmp_path / f"a{seed}", "maml", seed, [0.5, 0.7, 0.9], metrics=curve(0.5 + 0.1 * seed, 0.6))
        write(tmp_path / f"b{seed}", "protonet", seed, [0.6, 0.9, 0.8], metrics=curve(0.8, 0.9))
    write(tmp_path / "b1" / "eval" / "x", "protonet", 1, [0.1])  # a test of a run is no run
    write(tmp_path / "old" / "superseded" / "1", "protonet", 3, [0.1])
    return tmp_path
