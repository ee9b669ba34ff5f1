"""Features of task distributions: the same for all seeds but for noise, and landmarks that tell easy tasks from hard ones."""

import time

import pytest
import torch
from runs import composed

from metarun.parts import features_of

CPU = torch.device("cpu")


def features(*overrides):
    return features_of(composed(*overrides))


def test_landmarks_tell_lines_from_waves():
    lines, waves = features("data=linear", "data.noise=0.01"), features("data=sine")
    assert lines.keys() == waves.keys()
    assert lines["linear_error"] < 0.02 < 0.5 < waves["linear_error"]
    assert (waves["kind"], waves["shots"], waves["stages"]) == (0, 10, 1)
    assert features("data=sine", "data.stages=4")["stages"] == 4


def test_they_are_a_function_of_the_configuration_and_quickly_made():
    first = features("data=sine", "data.amplitude=[1,2]")
    begun = time.process_time()
    assert features("data=sine", "data.amplitude=[1,2]") == first
    assert time.process_time() - begun < 0.6  # most of it the composing
    assert features("data=sine")["target_std"] > first["target_std"] * 1.1


@pytest.mark.parametrize("data", ["omniglot", "split_mnist"])
def test_on_images(data, data_root):
    algo = "supervised" if data == "split_mnist" else "protonet"
    found = features(f"algo={algo}", f"data={data}", "data.train_ways=5" if data == "omniglot" else "seed=1")
    assert found["kind"] == 1
    assert 0 < found["nearest_error"] < 0.6
    assert all(value == value for value in found.values())
