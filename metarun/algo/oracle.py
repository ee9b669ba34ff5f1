"""The oracle on regression: a network that is told the task (Finn et al. 2017, section 5.1)."""

from typing import ClassVar

import torch
from torch import Tensor

from metarun.algo.algorithm import Algorithm
from metarun.config import ConfigError
from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.kinds import Kind, Regression
from metarun.model.network import NetworkFactory


class Oracle(Algorithm):
    """A network whose input is joined by the task's true parameters (amplitude, phase, …): a bound on what adaptation can reach.

    Args:
        task_chunk: tasks taken at once, which bounds memory; null: what suits the network and the device.
    """

    kinds: ClassVar[tuple[type[Kind], ...]] = (Regression,)
    feedforward: ClassVar[bool] = True

    def __init__(self, spec: TaskSpec, network: NetworkFactory, task_chunk: int | None = None) -> None:
        super().__init__(spec, task_chunk=task_chunk)
        if not spec.parameters or len(spec.input_shape) != 1:
            raise ConfigError(f"data={spec.name}: the oracle is told a task's true parameters, and these data have none")
        self.network = network(spec.outputs, (spec.input_shape[0] + len(spec.parameters),))

    def adapt(self, support: Examples, steps: int | None = None) -> Tensor:
        raise TypeError("the oracle is told the task, it does not learn it: use predictions(episodes)")

    def predict(self, state: Tensor, x: Tensor) -> Tensor:
        """``state``: the parameters, (T, p)."""
        return self.network(self.network.weights(), torch.cat([x, state.unsqueeze(1).expand(-1, x.shape[1], -1)], -1))

    def outputs(self, episodes: Episodes) -> Tensor:
        return self.predict(self.told(episodes), episodes.query.x)

    def predictions(self, episodes: Episodes, steps: int | None = None, *, path: bool = True) -> Tensor:
        return self.outputs(episodes).unsqueeze(0)

    def network_pass(self, episodes: Episodes) -> None:
        self.predictions(episodes)

    def told(self, episodes: Episodes) -> Tensor:
        """The tasks' true parameters, (T, p)."""
        return torch.cat([episodes.context[name] for name in self.spec.parameters], 1)
