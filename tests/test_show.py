"""`metarun show`: what it cannot draw."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from metarun import show
from metarun.config import ConfigError
from metarun.data.sine import Sine
from metarun.kinds import CLASSIFICATION


def test_classes_of_vectors_are_refused_in_one_line(monkeypatch):
    data = Sine(0)
    data.spec = replace(data.spec, kind=CLASSIFICATION, input_shape=(4,), name="table")
    monkeypatch.setattr(show, "build", lambda *args, **keys: data)
    with pytest.raises(ConfigError, match=r"^data=table: expected images or curves to draw, found inputs of shape \(4,\)$"):
        show.show(SimpleNamespace(data={}, seed=0), "table")
