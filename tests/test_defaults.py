"""A default of a constructor is the value in the YAML of the same name, so that Python and the command line build the same."""

from collections.abc import Iterator, Mapping
from inspect import Parameter
from typing import Any

import pytest
import yaml

from metarun.build import config_parameters
from metarun.config import CONFIGS
from metarun.declared import locate

GIVEN = {"algo": 2, "data": 1, "model": 2, "cl": 0, "trainer": 1, "budget": 0, "search": 0}
"""How many arguments the code passes to the classes of a group; the others are keys."""
VARIANTS = {"data/omniglot_stream", "data/permuted_mnist", "data/rotated_mnist", "data/split_mnist", "data/split_cifar100"} | {
    *("budget/short", "budget/smoke", "search/ewc_strength", "search/inner_lr")
}
"""Other values for a class that has a YAML of its own name."""
CODE_ALONE = {("model/conv4", "halvings")}  # what a network must have for one algorithm, configs/presets/relationnet_images.yaml


def nodes() -> Iterator[tuple[str, Mapping[str, Any], int]]:
    """Every node that names a class: its place, its keys, and how many of the class's arguments the code passes."""
    for group, given in GIVEN.items():
        for path in sorted((CONFIGS / group).glob("*.yaml")):
            content = yaml.safe_load(path.read_text())
            node = content.get(group, content)
            if "_target_" in node and f"{group}/{path.stem}" not in VARIANTS:
                yield f"{group}/{path.stem}", node, given
            for name, inner in (node.get("networks") or {}).items():
                yield f"{group}/{path.stem}/{name}", inner, given


NODES = {place: (node, given) for place, node, given in nodes()}


def plain(value: Any) -> Any:
    """Tuples as lists, as YAML has them; no mapping and an empty one are the same."""
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value or None if value == {} else value


def disagreements(target: Any, node: Mapping[str, Any], given: int) -> dict[str, tuple[Any, Any]]:
    """Keys whose default in the constructor is not the node's value, with both; a node without the key says `…`."""
    schema = config_parameters(target, given, {})
    defaults = {name: plain(of.default) for name, of in schema.items() if of.default is not Parameter.empty}
    return {name: (value, node.get(name, ...)) for name, value in defaults.items() if plain(node.get(name, ...)) != value}


@pytest.mark.parametrize("place", NODES)
def test_constructor_and_yaml_agree(place):
    node, given = NODES[place]
    found = disagreements(locate(node["_target_"]), node, given)
    inherited = {"batch_norm", "task_chunk"} if place.count("/") == 2 else set()  # of the learner that the network is part of
    assert {name for name in found if (place, name) not in CODE_ALONE and name not in inherited} == set(), found


def test_a_disagreement_would_be_found():
    def made(first: int, rate: float = 0.1, sizes: tuple[int, ...] = (1, 2), absent: int = 3) -> None: ...

    node = {"rate": 0.2, "sizes": [1, 2]}
    assert disagreements(made, node, 1) == {"rate": (0.1, 0.2), "absent": (3, ...)}
    assert len(NODES) > 50
