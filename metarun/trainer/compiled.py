"""The learner's part of an update as compiled programs: inner and outer gradients, traced together to flat lists of operations.

A compiled function cannot be differentiated twice, but it need not be: what is traced here is the function of the weights and the
tasks that *contains* the inner gradients and the outer one, so its program is run without autograd.
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch._inductor
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from metarun.algo.algorithm import Algorithm, weighted
from metarun.config import first_line
from metarun.episodes import Episodes, Examples

log = logging.getLogger(__name__)

Build = Callable[[GraphModule, Sequence[Tensor]], Callable[..., Sequence[Tensor]]]
"""Makes a program of a trace and example inputs."""

ROUNDING = 1e-2
"""Largest difference between results of a program and of the eager computation, relative to the largest number of a tensor."""
MOST_PROGRAMS = 8
"""Forms of chunks that are compiled at most; chunks of further forms are computed eagerly."""


class NotCompiled(Exception):
    """Why a chunk has no program."""


class Programs:
    """`Algorithm.backward` by compiled programs, one for each form of a chunk of tasks.

    The form of a chunk decides which operations are computed: shapes and types of its tensors, which weights have gradients, the
    learner's `phase`. Where a program cannot be had, or gives another result than the eager computation does, chunks are computed
    eagerly, and the reason is logged once.

    Args:
        algorithm: the learner.
        build: compiles a trace.
    """

    def __init__(self, algorithm: Algorithm, build: Build | None = None) -> None:
        self.algorithm, self.build = algorithm, build or by_inductor
        self._programs: dict[tuple[Any, ...], _Program | None] = {}
        self._said: set[str] = set()

    def backward(self, episodes: Episodes) -> Tensor:
        """Add the outer gradient to the gradients of the slow weights → the tasks' losses (T,), see `Algorithm.backward`."""
        return self.algorithm.backward(episodes, self._chunk)

    def _chunk(self, part: Episodes, tasks: int) -> Tensor:
        """`Algorithm.backward_chunk` by its program, if there is one."""
        if self.algorithm.phase is None:
            return self.algorithm.backward_chunk(part, tasks)
        form = self._form(part, tasks)
        if form not in self._programs:
            self._programs[form] = self._made(part, tasks)
        program = self._programs[form]
        return self.algorithm.backward_chunk(part, tasks) if program is None else program.backward(part)

    def _form(self, part: Episodes, tasks: int) -> tuple[Any, ...]:
        weights = tuple((name, w.shape, w.requires_grad) for name, w in self.algorithm.named_parameters())
        tensors = tuple((x.shape, x.dtype) for x in _tensors(part))
        device = part.query.x.device.type
        autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        return weights, tensors, part.support.ways, part.query.ways, tuple(part.context), tasks, autocast, self.algorithm.phase

    def _made(self, part: Episodes, tasks: int) -> "_Program | None":
        """A program for chunks like ``part``, once it has given what the eager computation gives; None: there is none."""
        draws, pending = torch.get_rng_state(), self.algorithm.take_pending()
        try:
            if len(self._programs) >= MOST_PROGRAMS:
                raise NotCompiled(f"there are more than {MOST_PROGRAMS} forms of updates")
            program = _Program(self.algorithm, part, tasks, self.build)
            torch.set_rng_state(draws)
            program.check(part, draws)
        except NotCompiled as reason:
            if str(reason) not in self._said:
                self._said.add(str(reason))
                log.warning("trainer.compile: updates are computed eagerly: %s", reason)
            return None
        finally:
            torch.set_rng_state(draws)
            self.algorithm.take_pending()
            self.algorithm.add_pending(pending)
        return program


class _Result(NamedTuple):
    """What a chunk contributes to an update."""

    losses: Tensor
    """(T,)"""
    gradients: dict[str, Tensor]
    """By parameter; those of parameters that play no part are missing."""
    pending: Any
    """See `Algorithm.take_pending`."""


class _Chunk(nn.Module):
    """A function of the learner's tensors and a chunk's, so that `functional_call` can give it both."""

    def __init__(self, algorithm: Algorithm) -> None:
        super().__init__()
        self.algorithm = algorithm

    def forward(self, part: Episodes, tasks: int) -> _Result:
        algorithm, gradients = self.algorithm, {}
        losses, given = algorithm.gradients(part)
        names = {id(w): name for name, w in algorithm.named_parameters()}
        slow = algorithm.network.weights() if given else {}
        for name, gradient in given.items():
            gradients[names[id(slow[name])]] = weighted(gradient.detach(), part).sum(0) / tasks
        if losses.requires_grad:
            others = {name: w for name, w in algorithm.named_parameters() if w.requires_grad and name not in gradients}
            found = torch.autograd.grad(weighted(losses, part).sum() / tasks, list(others.values()), allow_unused=True)
            gradients |= {name: g for name, g in zip(others, found, strict=True) if g is not None}
        return _Result(losses.detach(), gradients, algorithm.take_pending())


class _Program:
    """The contribution of a chunk of one form, compiled."""

    def __init__(self, algorithm: Algorithm, part: Episodes, tasks: int, build: Build) -> None:
        self.algorithm, self.tasks = algorithm, tasks
        self.state = [*algorithm.named_parameters(), *algorithm.named_buffers()]
        self.names: list[str] = []
        self.pending: Any = None
        inputs = [x.detach().clone() for x in self._inputs(part)]
        try:
            trace = make_fx(lambda *tensors: self._flat(part, tensors))(*inputs)
        except Exception as error:  # a learner's own code may raise anything
            raise NotCompiled(f"they cannot be traced ({first_line(error)})") from None
        captured = _captured(trace)
        if captured:
            shapes = ", ".join(map(str, captured))
            raise NotCompiled(f"the learner keeps tensors that are no parameters and no buffers, of shapes {shapes}")
        try:
            with torch.no_grad():
                self.run = build(trace, inputs)
        except Exception as error:  # no C++ compiler, say
            raise NotCompiled(f"they cannot be compiled ({first_line(error)})") from None

    def _flat(self, part: Episodes, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The chunk's contribution as a list, as a function of the learner's tensors and those of the chunk."""
        count = len(self.state)
        given = {
            f"algorithm.{name}": tensor.detach().requires_grad_(own.requires_grad)
            for (name, own), tensor in zip(self.state, tensors[:count], strict=True)
        }
        with torch.enable_grad():
            result = functional_call(_Chunk(self.algorithm), given, (_with_tensors(part, tensors[count:]), self.tasks))
        self.names = list(result.gradients)
        leaves, form = tree_flatten(result.pending)
        self.pending = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves], form
        return [result.losses, *result.gradients.values(), *(leaf for leaf in leaves if isinstance(leaf, Tensor))]

    def _inputs(self, part: Episodes) -> list[Tensor]:
        return [*(tensor for _, tensor in self.state), *(x.contiguous() for x in _tensors(part))]

    def _result(self, part: Episodes) -> _Result:
        with torch.no_grad():
            losses, *others = self.run(*self._inputs(part))
        gradients = dict(zip(self.names, others, strict=False))
        rest, (leaves, form) = iter(others[len(self.names) :]), self.pending
        pending = tree_unflatten([next(rest) if leaf is None else leaf for leaf in leaves], form)
        return _Result(losses, gradients, pending)

    def backward(self, part: Episodes) -> Tensor:
        """Add the chunk's gradients → its losses."""
        result = self._result(part)
        for name, w in self.algorithm.named_parameters():
            gradient = result.gradients.get(name)
            if gradient is not None:
                w.grad = gradient if w.grad is None else w.grad + gradient
        self.algorithm.add_pending(result.pending)
        return result.losses

    def check(self, part: Episodes, draws: Tensor) -> None:
        """Compare with the eager computation.

        Raises:
            NotCompiled: they differ by more than rounding.
        """
        buffers = [buffer.clone() for buffer in self.algorithm.buffers()]
        found = self._result(part)
        for buffer, before in zip(self.algorithm.buffers(), buffers, strict=True):
            buffer.data.copy_(before)
        torch.set_rng_state(draws)
        expected = _Chunk(self.algorithm)(part, self.tasks)
        for buffer, before in zip(self.algorithm.buffers(), buffers, strict=True):
            buffer.data.copy_(before)
        pairs = {"the losses": (found.losses, expected.losses)}
        pairs |= {f"the gradient of {name}": (found.gradients[name], g) for name, g in expected.gradients.items()}
        for what, (compiled, eager) in pairs.items():
            if not _same(compiled, eager):
                raise NotCompiled(f"{what} would be others than those computed eagerly")


def by_inductor(trace: GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """The program that Inductor makes of a trace; random draws are torch's own, so that they are those of the eager computation."""
    with torch._inductor.config.patch(fallback_random=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        program: Callable[..., Sequence[Tensor]] = torch._inductor.compile(trace, list(inputs))
    return program


def _tensors(part: Episodes) -> list[Tensor]:
    return [part.support.x, part.support.y, part.query.x, part.query.y, *part.context.values()]


def _with_tensors(part: Episodes, tensors: Sequence[Tensor]) -> Episodes:
    support_x, support_y, query_x, query_y, *context = tensors
    support, query = Examples(support_x, support_y, part.support.ways), Examples(query_x, query_y, part.query.ways)
    return Episodes(support, query, dict(zip(part.context, context, strict=True)))


def _captured(trace: GraphModule) -> list[tuple[int, ...]]:
    """Shapes of the tensors in a trace that are neither inputs nor created by it: a program would keep their present values."""
    made = {torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default}
    attributes = [node for node in trace.graph.nodes if node.op == "get_attr"]
    names = dict.fromkeys(str(node.target) for node in attributes if any(user.target not in made for user in node.users))
    tensors = {id(value): value for name in names if isinstance(value := getattr(trace, name), Tensor)}
    return [tuple(value.shape) for value in tensors.values()]


def _same(compiled: Tensor, eager: Tensor) -> bool:
    """Equal up to rounding; what is not finite in one is not finite in the other."""
    finite = eager.isfinite()
    if not torch.equal(finite, compiled.isfinite()):
        return False
    difference = (compiled - eager)[finite].abs()
    return bool((difference <= ROUNDING * eager[finite].abs().max().clamp(min=1e-6)).all()) if difference.numel() else True
