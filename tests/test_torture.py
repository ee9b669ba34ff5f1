"""The short form of `scripts/torture.py`: runs killed at random, some of all kinds, and nothing lost."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_scripts import SCRIPTS, script

KINDS = ("dropout", "protonet", "ewc and replay", "sweep")


@pytest.fixture(scope="module")
def torture():
    return script("torture")


@pytest.mark.slow
def test_nothing_is_lost():
    command = [sys.executable, str(SCRIPTS / "torture.py"), "--rounds", "5", "--seed", "3", "--only", *KINDS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(kind in done.stdout for kind in KINDS)
    kills, resumed = map(int, re.search(r"(\d+) kills, (\d+) runs resumed from a checkpoint", done.stdout).groups())
    assert kills >= 5
    assert resumed >= 2
    assert "before " in done.stdout


def test_what_is_lost_is_found(torture, tmp_path):
    whole = {"w": torch.zeros(3), "a": [1.0, float("nan")], "n": {"x": np.arange(2)}, "seconds": 3.0}
    same = {"w": torch.zeros(3), "a": [1.0, float("nan")], "n": {"x": np.arange(2)}, "seconds": 4.0}
    assert torture.differences(whole, same) == []
    for key, value in {"w": -torch.zeros(3), "a": [1.0], "n": {"x": np.arange(2.0)}, "b": 1}.items():
        assert len(torture.differences(whole, {**same, key: value})) == 1, key
    (tmp_path / "results.json").write_text('{"half')
    torch.save({"a": torch.zeros(9)}, tmp_path / "last.pt")
    (tmp_path / "test.npz").write_bytes((tmp_path / "last.pt").read_bytes()[:100])
    assert sorted(line.split()[0] for line in torture.incomplete(tmp_path)) == ["results.json", "test.npz"]
