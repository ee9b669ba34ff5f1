"""Budgets: how many updates and test tasks are left, by hand."""

import pytest
import torch
from runs import composed

from metarun import choices  # noqa: F401 registers the resolver of the folder's name
from metarun.build import build
from metarun.config import ConfigError, RangeError
from metarun.parts import build_parts
from metarun.trainer.budget import Budget


def on_cpu(*overrides):
    return composed("trainer.device=cpu", *overrides, hydra_part=True)


def test_the_scarcer_of_share_and_operations_counts():
    assert Budget("full").iterations(60_000, 1e9) == 60_000
    assert Budget("short", share=0.1).iterations(60_000, 1e9) == 6_000
    assert Budget("short", share=0.1, operations=2e12).iterations(60_000, 1e9) == 2_000
    assert Budget("smoke", operations=1.0).iterations(60_000, 1e9) == 1
    assert Budget("smoke", share=0.5).iterations(0, 1e9) == 0  # of a learner that trains nothing
    assert (Budget("short", test_tasks=400).tests(10_000), Budget("full").tests(10_000)) == (400, 10_000)


def test_mistakes_are_said():
    with pytest.raises(ConfigError, match=r"budget\.share=0\.0: expected a number above 0, at most 1"):
        build({"_target_": "metarun.trainer.budget.Budget", "name": "mine", "share": 0.0}, key="budget")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        *(("share", value, "a number above 0, at most 1") for value in (0.0, 1.1)),
        *(("operations", value, "a number above 0, or null") for value in (0.0, -1.0)),
        ("test_tasks", 0, "1 or more, or null"),
    ],
)
def test_a_value_out_of_range_is_named(key, value, expected):
    with pytest.raises(RangeError) as caught:
        Budget("mine", **{key: value})
    assert str(caught.value) == f"{key}={value}: expected {expected}"


def test_the_least_and_the_most_are_in_range():
    assert Budget("mine", share=1.0, operations=1e-3, test_tasks=1).iterations(9, 0.0) == 1
    assert Budget("mine", operations=5.0).iterations(9, 1.0) == 5


def test_a_budget_cuts_the_protocol_and_names_itself():
    parts = build_parts(on_cpu("+paper=maml_sine_5shot", "budget=smoke"))
    assert parts.trainer.iterations == 70
    assert parts.trainer.test_tasks == 20
    assert parts.budget == {"name": "smoke", "share": 0.001}
    whole = build_parts(on_cpu("+paper=maml_sine_5shot"))
    assert (whole.trainer.iterations, whole.trainer.test_tasks, whole.budget) == (70_000, 6_000, {"name": "full", "share": 1.0})


def test_what_follows_from_the_number_of_updates_follows():
    schedule = "trainer.scheduler={_target_: torch.optim.lr_scheduler.CosineAnnealingLR, T_max: '${trainer.iterations}'}"
    parts = build_parts(on_cpu(schedule, "budget=smoke", "budget.share=0.01"))
    assert parts.trainer.scheduler["T_max"] == parts.trainer.iterations == 150


def test_a_full_budget_leaves_the_folders_name_as_it_was():
    names = [
        on_cpu(*said).hydra.run.dir for said in ((), ("budget=full",), ("budget=short",), ("budget=short", "budget.share=0.5"))
    ]
    assert names[0] == names[1]
    assert len(set(names)) == 3


def test_passes_are_counted_as_each_learner_makes_them():
    def passes(*said):
        parts = build_parts(on_cpu(*said))
        return parts.algorithm.passes(parts.stages[0].train.sample(torch.arange(1)))

    assert passes("algo=maml", "data=sine", "algo.inner_steps=5") == 6.0
    assert passes("algo=anil", "data=sine", "algo.inner_steps=5") == 1.0  # its steps are the head's alone
    assert passes("algo=finetune", "data=sine") == 1.0
    assert passes("algo=reptile", "data=sine", "algo.inner_batch=5", "algo.inner_steps=8", "data.shots=20") == 2.0
