"""Kinds of task: their losses and scores by hand, and a kind of one's own."""

import ast
import math
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from small import images, regression

from metarun.algo.algorithm import masked
from metarun.episodes import Episodes, TaskSpec
from metarun.kinds import CLASSIFICATION, REGRESSION, Regression


def test_losses_and_scores_by_hand():
    values, targets = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 4.0]]])
    assert REGRESSION.losses(values, targets).tolist() == REGRESSION.scores(values, targets).tolist() == [13 / 4]
    logits = torch.tensor([[[0.0, math.log(3.0)], [0.0, 0.0]], [[2.0, 0.0], [0.0, 2.0]]])
    y = torch.tensor([[1, 0], [1, 1]])
    right = math.log(1 + math.exp(-2))
    assert CLASSIFICATION.losses(logits, y).tolist() == pytest.approx([(math.log(4 / 3) + math.log(2)) / 2, (2 + 2 * right) / 2])
    assert CLASSIFICATION.scores(logits, y).tolist() == [1.0, 0.5]
    assert CLASSIFICATION.scores(torch.stack([logits, -logits]), y).tolist() == [[1.0, 0.5], [0.5, 0.5]]
    assert masked(logits, regression(tasks=2)) is logits


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_task_with_a_prediction_that_is_not_finite_has_no_score(bad):
    """Whatever the label: the argmax of NaN is class 0, and a test whose labels begin with it would call that right."""
    logits = torch.zeros(2, 3, 4, 5)  # looks, tasks, queries, outputs
    logits[..., 0] = 1.0
    logits[1, 2, 3, 1] = bad
    y = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]])
    scores = CLASSIFICATION.scores(logits, y)
    assert scores[0].tolist() == [1.0, 0.5, 1.0]
    assert scores[1, :2].tolist() == [1.0, 0.5]
    assert scores[1, 2].isnan()
    assert CLASSIFICATION.scores(torch.full((1, 4, 15, 5), bad), torch.zeros(4, 15, dtype=torch.int64)).isnan().all()


def test_outputs_that_are_not_active_leave_a_score():
    active = torch.tensor([[True, False, True]])
    tasks = Episodes(regression(tasks=1).support, regression(tasks=1).query, {"active": active})
    assert CLASSIFICATION.scores(masked(torch.zeros(1, 2, 3), tasks), torch.tensor([[0, 1]])).tolist() == [0.5]


def test_an_error_after_each_step_is_a_mean_over_queries_and_targets():
    y = torch.tensor([[[0.0], [0.0], [0.0]], [[1.0], [1.0], [1.0]]])  # 2 tasks, 3 queries
    after = torch.stack([torch.zeros_like(y), y, y + torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1)])
    assert REGRESSION.scores(after, y).tolist() == [[0.0, 1.0], [0.0, 0.0], pytest.approx([14 / 3, 14 / 3])]


# Nobody else asks ------------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parent.parent
DEFINED = {"metarun/kinds.py", "metarun/metric.py"}
"""Where the names of kinds and metrics are said."""
CLASSES = {"metarun/episodes.py", "metarun/data/source.py"}
"""Where it is asked whether labels are classes, for all others to ask there."""
LABELS = {"y", "query_y", "support_y", "labels", "targets"}
NAMES = {"accuracy", "mse", "classification", "regression"}


def questions(code: str) -> Iterator[tuple[int, str]]:
    """Line and text of whatever in ``code`` asks for a kind of task by a name, by `ways is None`, or by the type of a label."""
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Constant(value=str(value)) if value in NAMES:
                yield node.lineno, value
            case ast.Compare(
                left=ast.Name(id="ways") | ast.Attribute(attr="ways"),
                ops=[ast.Is() | ast.IsNot()],
                comparators=[ast.Constant(value=None)],
            ):
                yield node.lineno, "ways is None"
            case ast.Call(func=ast.Attribute(value=value, attr="is_floating_point")) if ast.unparse(value).split(".")[-1] in LABELS:
                yield node.lineno, "is_floating_point"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ('x = "accuracy" in test', ["accuracy"]),
        ('spec.kind == "regression"', ["regression"]),
        ("a.ways is None or ways is not None", ["ways is None"] * 2),
        ("query.y.is_floating_point() or y.is_floating_point()", ["is_floating_point"] * 2),
        ('"""An accuracy, of mse."""\nbuffer.is_floating_point()\nx is None', []),
    ],
)
def test_what_asks_for_a_kind_is_found(code, found):
    assert [text for _, text in questions(code)] == found


def test_nobody_asks_for_a_kind_of_task_by_a_name_or_a_type():
    """Ask the kind (`spec.kind.classes`, `.losses`, `.scores`), its metric, or the examples (`Examples.one_hot`, `.targets`)."""
    paths = [path for folder in ("metarun", "scripts", "hydra_plugins") for path in (ROOT / folder).rglob("*.py")]
    asking = [
        f"{name}:{line}: {text}"
        for path in paths
        if (name := path.relative_to(ROOT).as_posix()) not in DEFINED
        for line, text in questions(path.read_text())
        if not (text == "ways is None" and name in CLASSES)
    ]
    assert len(paths) > 100
    assert asking == []


def test_a_kind_is_one_of_its_class():
    class Absolute(Regression):
        name = "absolute"

    assert Absolute() == Absolute()
    assert len({Absolute(), Absolute(), REGRESSION}) == 2
    assert REGRESSION != CLASSIFICATION
    assert deepcopy(REGRESSION) == REGRESSION
    with pytest.raises(TypeError, match=r"^kind='regression': expected a Kind, as metarun.kinds.REGRESSION$"):
        TaskSpec("regression", (1,), 1, 1, "line")


def test_labels_one_hot_and_targets():
    tasks = regression(tasks=2)
    assert tasks.support.targets(torch.float32) is tasks.support.y
    with pytest.raises(ValueError, match="expected labels of classes, found targets"):
        tasks.support.one_hot(torch.float32)
    labelled = images(tasks=2, ways=3, shots=1).support
    assert torch.equal(labelled.targets(torch.float64), torch.eye(3, dtype=torch.float64).expand(2, 3, 3))
