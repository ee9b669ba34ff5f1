"""CAVIA, fast context adaptation (Zintgraf, Shiarlis, Kurin, Hofmann and Whiteson, ICML 2019)."""

from torch import Tensor, nn

from metarun.algo.algorithm import BatchNormMode
from metarun.algo.inner_loop import Descent, GradientLearner, Rule, one_head
from metarun.config import ConfigError, require
from metarun.episodes import Examples, TaskSpec
from metarun.model.network import NetworkFactory, Weights
from metarun.model.norm import Norm


class CAVIA(GradientLearner):
    """Adapt a few context parameters that start at zero; all weights are shared by all tasks (Algorithm 1).

    A linear layer maps the context to a shift of hidden layers before their ReLU, and with ``scale`` to a factor as well (FiLM,
    section 3.2). A shift alone is the paper's network for regression, where the context is joined to a layer's input. Since all
    tasks share the weights, an update is one ordinary batch.

    The factor is 1 plus what the context gives, so that the network begins as one without context; in the released code
    (github.com/lmzintgraf/cavia) it is what the context gives, with a bias.

    Args:
        inner_lr: rate of the inner steps on the context, on the mean support loss.
        inner_steps, test_steps: inner steps in training, and in validation and test.
        context: number of context parameters.
        layers: hidden layers that they modulate, from 0.
        scale: whether they scale beside shifting.
        first_order: leave out the second derivatives.
        batch_norm: see `MAML`.
        recompute: compute inner steps twice and keep one step's activations at a time.
        task_chunk: tasks taken at once, which bounds memory; null: what suits the network and the device.
    """

    def __init__(
        self,
        spec: TaskSpec,
        network: NetworkFactory,
        inner_lr: float,
        inner_steps: int = 1,
        test_steps: int = 5,
        context: int = 5,
        layers: tuple[int, ...] = (0,),
        scale: bool = False,
        first_order: bool = False,
        batch_norm: BatchNormMode = "transductive",
        recompute: bool = False,
        task_chunk: int | None = None,
    ) -> None:
        super().__init__(
            spec,
            inner_steps=inner_steps,
            test_steps=test_steps,
            first_order=first_order,
            batch_norm=batch_norm,
            recompute=recompute,
            task_chunk=task_chunk,
        )
        require(inner_lr > 0, "inner_lr", inner_lr, "a number above 0")
        require(context > 0, "context", context, "1 or more")
        self.inner_lr, self.context, self.parts = inner_lr, context, ("shift", "scale") if scale else ("shift",)
        self.network = network(one_head(spec))
        film = self.network.film
        if not film:
            raise ConfigError("model: cavia modulates hidden layers, which mlp, conv4 and resnet12 allow; this network has none")
        require(bool(layers) and all(str(i) in film for i in layers), "layers", list(layers), f"some of {', '.join(film)}")
        self.layers = layers
        self.film = nn.ModuleList(nn.Linear(context, len(self.parts) * film[str(i)], bias=False) for i in layers)

    def initial(self, support: Examples) -> Weights:
        return {"context": next(self.parameters()).new_zeros(self.context)}

    def rule(self) -> Rule:
        return Descent(self.inner_lr)

    def forward_task(self, step: int, weights: Weights, x: Tensor, norm: Norm) -> Tensor:
        modulated = self.network.weights()
        for layer, film in zip(self.layers, self.film, strict=True):
            given = film(weights["context"]).chunk(len(self.parts), -1)
            for part, values in zip(self.parts, given, strict=True):
                modulated[f"film.{layer}.{part}"] = 1 + values if part == "scale" else values
        return self.network(modulated, x, norm)
