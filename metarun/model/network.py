"""Networks used functionally: ``network(weights, x)``, for one set of weights or one set a task."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from metarun.config import ConfigError, nearest
from metarun.model.context import current_norm, normalising, replacements
from metarun.model.norm import Norm, RunningStatistics, Statistics

Weights = dict[str, Tensor]
"""Parameters by name: of the parameters' own shapes, or all with a leading task axis."""


class NetworkFactory(Protocol):
    """What an algorithm is given to make its networks: the configured `model`, for a number of outputs."""

    def __call__(self, outputs: int | None, input_shape: tuple[int, ...] | None = None) -> "Network":
        """A network with ``outputs`` outputs, or an embedding without a head for None; ``input_shape`` None: the data's."""
        ...


class Network(nn.Module):
    """A network whose parameters are the initial (slow) weights and whose forward pass takes weights from outside.

    Subclasses bring a form batched by hand; `Vectorised` makes one from any `nn.Module`.

    Attributes:
        widest: numbers in the widest layer for one example, where memory traffic bounds the work; None: it does not.
        film: width of each hidden layer that can be modulated before its ReLU (Perez et al. 2018): the weights given may hold
            `film.LAYER.scale` and `film.LAYER.shift`, (T, width) each.
        fixed: names of the weights that the model's constructor made with ``requires_grad=False``: neither loop moves them. They
            are noted at the beginning, since the flag is cleared for other reasons later, in a copy that is only tested, say.
        head_names: names of the weights of the head, the last layer, which gives the outputs; empty: an embedding has none.
        statistics: running statistics of the batch norms.
    """

    widest: int | None = None
    film: dict[str, int]
    fixed: frozenset[str] = frozenset()
    head_names: frozenset[str] = frozenset()

    def weights(self) -> Weights:
        """The slow weights, shared by all tasks; under `metarun.model.context.replaced` others in the place of some."""
        return dict(self.named_parameters()) | replacements(self)

    @property
    def parts(self) -> dict[str, frozenset[str]]:
        """Names of the weights of the "body", which embeds inputs, and of the "head" on top of it."""
        return {"body": frozenset(self.weights()) - self.head_names, "head": self.head_names}

    def forward(self, weights: Weights, x: Tensor, norm: Norm | None = None) -> Tensor:
        """``x`` (T, n, *input_shape) → (T, n, outputs); ``norm`` None: batch norms use each task's own batch."""
        raise NotImplementedError

    if TYPE_CHECKING:  # torch types a module's call as returning anything

        def __call__(self, weights: Weights, x: Tensor, norm: Norm | None = None) -> Tensor: ...

    def add_running_statistics(self, channels: dict[str, int]) -> None:
        """Make room for running statistics of the batch norms named."""
        self.statistics = RunningStatistics(channels)


class Vectorised(Network):
    """Any `nn.Module` as a network: `vmap` over tasks of its functional call.

    Batch norms are replaced by one written from mean, variance and rsqrt, because `vmap` over `F.batch_norm` with affine weights
    gives a wrong second-order gradient (pytorch/functorch#534). Other modules whose running state `vmap` cannot carry are
    refused.

    Args:
        module: the module.
        head: whether it has a head; see `head_layer`.
    """

    def __init__(self, module: nn.Module, *, head: bool = True) -> None:
        super().__init__()
        self.module, self.film = module, {}
        if head:
            self.head_names = frozenset(name for name, _ in module.named_parameters() if _is_in(name, head_layer(module)))
        channels = {}
        for name, child in list(module.named_modules()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                parent, _, last = name.rpartition(".")
                setattr(module.get_submodule(parent), last, _TaskBatchNorm(name, child))
                channels[name] = child.num_features
            elif isinstance(child, nn.modules.instancenorm._InstanceNorm):
                raise ConfigError(
                    f"model: {type(child).__name__} at {name!r} has a wrong second-order gradient under vmap;"
                    " use GroupNorm, LayerNorm or BatchNorm"
                )
            elif isinstance(child, nn.RNNBase):
                raise ConfigError(f"model: {type(child).__name__} at {name!r} cannot be differentiated twice on the GPU")
        self.add_running_statistics(channels)

    def weights(self) -> Weights:
        return {name.removeprefix("module."): w for name, w in self.named_parameters()} | replacements(self)

    def forward(self, weights: Weights, x: Tensor, norm: Norm | None = None) -> Tensor:
        norm = norm or Norm()
        own = {name.removeprefix("module."): w for name, w in self.named_parameters()}
        per_task = {name: w.dim() > own[name].dim() for name, w in weights.items()}
        given = norm.given or {}
        given_axes = {layer: tuple(0 if s.dim() == 2 else None for s in pair) for layer, pair in given.items()}

        def one_task(weights: Weights, x: Tensor, given: Statistics) -> tuple[Tensor, Statistics]:
            inner = Norm(given or None, norm.record)
            with normalising(inner):
                return functional_call(self.module, weights, (x,)), inner.seen

        axes = ({name: 0 if per_task[name] else None for name in weights}, 0, given_axes)
        out, seen = vmap(one_task, in_dims=axes, randomness="different")(weights, x, given)
        if norm.record:
            norm.seen.update({k: (m.detach(), v.detach()) if norm.record == "values" else (m, v) for k, (m, v) in seen.items()})
        return out


class _TaskBatchNorm(nn.Module):
    """A batch norm of one task, exact under `vmap` at every order."""

    def __init__(self, layer: str, of: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        self.layer, self.eps = layer, of.eps
        self.weight, self.bias = of.weight, of.bias

    def forward(self, x: Tensor) -> Tensor:
        norm = current_norm()
        shape = (1, -1) + (1,) * (x.dim() - 2)
        if norm.given is None:
            axes = [0, *range(2, x.dim())]
            mean, var = x.mean(axes), x.var(axes, correction=0)
            if norm.record:
                count = x.numel() / x.shape[1]
                kept = var * (count / max(count - 1, 1)) if norm.record == "values" else var
                norm.seen[self.layer] = mean, kept
        else:
            mean, var = norm.given[self.layer]
        x = (x - mean.view(shape)) * torch.rsqrt(var + self.eps).view(shape)
        if self.weight is not None:
            x = x * self.weight.view(shape) + self.bias.view(shape)
        return x


def head_layer(module: nn.Module) -> str:
    """The name of the submodule of ``module`` that is its head.

    It is the submodule called `head`; or the one that an attribute ``head: str`` names ("classifier"); or else the last one with
    parameters of its own, in the order in which submodules were registered.

    Raises:
        ConfigError: the attribute names no submodule.
    """
    declared, names = getattr(module, "head", None), [name for name, _ in module.named_modules()]
    if isinstance(declared, nn.Module):
        return "head"
    if isinstance(declared, str):
        if declared not in names:
            raise ConfigError(f"model: {type(module).__name__}.head={declared!r} names no submodule{nearest(declared, names)}")
        return declared
    layers = [name for name in names if any(True for _ in module.get_submodule(name).parameters(recurse=False))]
    return layers[-1] if layers else ""


def _is_in(name: str, layer: str) -> bool:
    """Whether the parameter ``name`` is one of the submodule ``layer``; "" is the module itself."""
    return name.startswith(f"{layer}.") if layer else "." not in name


def as_network(made: Any, key: str = "model", *, head: bool = True) -> Network:
    """``made`` as a `Network`; an ordinary `nn.Module` is vectorised.

    Args:
        made: the network or module.
        key: its place in the configuration, for messages.
        head: whether it was made with outputs, and so has a head.

    Raises:
        ConfigError: it is neither.
    """
    if not isinstance(made, nn.Module):
        raise ConfigError(f"{key}: expected a torch.nn.Module, found {type(made).__name__}")
    network = made if isinstance(made, Network) else Vectorised(made, head=head)
    network.fixed = frozenset(name for name, w in network.weights().items() if not w.requires_grad)
    return network


@torch.no_grad()
def embedding_shape(network: Network, input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of what ``network`` makes of one input, (d,) or that of feature maps."""
    weight = next(network.parameters(), torch.empty(()))
    two = weight.new_zeros(1, 2, *input_shape)  # two: a batch norm over a single value fails
    return tuple(network(network.weights(), two).shape[2:])


def embedding_width(network: Network, input_shape: tuple[int, ...]) -> int:
    """The size of the vector that ``network`` makes of one input.

    Raises:
        ConfigError: it makes something else.
    """
    shape = embedding_shape(network, input_shape)
    if len(shape) != 1:
        raise ConfigError(
            f"model: the algorithm works on vectors, and this network gives {shape}; conv4 has model.features=flatten"
        )
    return shape[0]


def matching(names: Iterable[str], patterns: Iterable[str]) -> frozenset[str]:
    """The names that match one of ``patterns`` (`norms.*`)."""
    return frozenset(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))
