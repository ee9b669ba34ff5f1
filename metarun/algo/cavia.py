"""CAVIA, fast context adaptation (Zintgraf, Shiarlis, Kurin, Hofmann and Whiteson, ICML 2019)."""

from typing import Any

from torch import Tensor, nn

from metarun.algo.algorithm import one_head
from metarun.algo.gradient_learner import UnrolledLearner
from metarun.algo.rules import Descent, Rule
from metarun.config import ConfigError, require
from metarun.episodes import Examples, TaskSpec
from metarun.model.network import NetworkFactory, Weights
from metarun.model.norm import Norm


class CAVIA(UnrolledLearner):
    """Adapt a few context parameters that start at zero; all weights are shared by all tasks (Algorithm 1).

    A linear layer maps the context to a shift of hidden layers before their ReLU, and with ``scale`` to a factor as well (FiLM,
    section 3.2). A shift alone is the paper's network for regression, where the context is joined to a layer's input. Since all
    tasks share the weights, an update is one ordinary batch.

    The factor is 1 plus what the context gives, so that the network begins as one without context; in the released code
    (github.com/lmzintgraf/cavia) it is what the context gives, with a bias.

    Args:
        spec, network: the tasks, and the configured `model`.
        inner_lr: rate of the inner steps on the context, on the mean support loss.
        context: number of context parameters.
        layers: hidden layers that they modulate, from 0.
        scale: whether they scale as well as shift.
        test_steps: inner steps in validation and test.
        common: see `UnrolledLearner`.
    """

    def __init__(
        self,
        spec: TaskSpec,
        network: NetworkFactory,
        inner_lr: float,
        context: int = 5,
        layers: tuple[int, ...] = (0,),
        scale: bool = False,
        *,
        test_steps: int = 5,
        **common: Any,
    ) -> None:
        super().__init__(spec, network(one_head(spec)), test_steps=test_steps, **common)
        require(inner_lr > 0, "inner_lr", inner_lr, "a number above 0")
        require(context > 0, "context", context, "1 or more")
        self.inner_lr, self.context, self.modulations = inner_lr, context, ("shift", "scale") if scale else ("shift",)
        film = self.network.film
        if not film:
            raise ConfigError("model: cavia modulates hidden layers, which mlp, conv4 and resnet12 allow; this network has none")
        require(bool(layers) and all(str(i) in film for i in layers), "layers", list(layers), f"some of {', '.join(film)}")
        self.layers = layers
        self.film = nn.ModuleList(nn.Linear(context, len(self.modulations) * film[str(i)], bias=False) for i in layers)

    def initial(self, support: Examples) -> Weights:
        return {"context": next(self.parameters()).new_zeros(self.context)}

    def rule(self) -> Rule:
        return Descent(self.inner_lr)

    def forward_task(self, step: int, weights: Weights, x: Tensor, norm: Norm) -> Tensor:
        modulated = self.network.weights()
        for layer, film in zip(self.layers, self.film, strict=True):
            given = film(weights["context"]).chunk(len(self.modulations), -1)
            for part, values in zip(self.modulations, given, strict=True):
                modulated[f"film.{layer}.{part}"] = 1 + values if part == "scale" else values
        return self.network(modulated, x, norm)
