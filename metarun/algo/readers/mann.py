"""Memory-augmented neural networks (Santoro, Bartunov, Botvinick, Wierstra and Lillicrap, ICML 2016)."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.algo.readers.stream import State, StreamReader
from metarun.config import require
from metarun.episodes import TaskSpec, one_hot
from metarun.model.network import NetworkFactory


class MANN(StreamReader):
    """An LSTM controller with an external memory, written where it was used least recently (LRUA, equations 2 to 8).

    A presentation: the controller sees the input and what was read before; each head writes, partly where it read last and partly
    into one of the least used slots, which is emptied first; then it reads by the cosine of its key with every slot. The paper
    gives all heads the same least used slots; here each has its own of them.

    Args:
        slots: of the memory.
        width: of a slot.
        heads: that read and write.
        hidden: units of the controller.
        decay: of usage, γ of equation 5.
        content: what a head writes: its "key", as in the paper (equation 8), or a vector of its "own", as neural Turing machines
            do. An input comes a step before its label, so what is to be written is not what is looked for.
        strength: learn how sharply a head reads, a factor of the cosine in its softmax that begins near this, as in neural Turing
            machines; null: none, as in the paper, where no slot of many can weigh more than a few percent.
        common: see `StreamReader`.
    """

    def __init__(
        self,
        spec: TaskSpec,
        model: NetworkFactory,
        *,
        slots: int = 64,
        width: int = 40,
        heads: int = 2,
        hidden: int = 200,
        decay: float = 0.99,
        content: Literal["own", "key"] = "own",
        strength: float | None = 10.0,
        **common: Any,
    ) -> None:
        super().__init__(spec, model, **common)
        for key, value in {"width": width, "heads": heads, "hidden": hidden}.items():
            require(value > 0, key, value, "1 or more")
        require(slots >= heads, "slots", slots, f"as many as heads ({heads}) at least")
        require(0 <= decay <= 1, "decay", decay, "0 to 1")
        require(strength is None or strength > 0, "strength", strength, "a number above 0, or null")
        self.slots, self.width, self.heads, self.decay = slots, width, heads, decay
        self.controller = nn.LSTMCell(self.input_size + heads * width, hidden)
        self.keys, self.gates = nn.Linear(hidden, heads * width), nn.Linear(hidden, heads)
        self.contents = nn.Linear(hidden, heads * width) if content == "own" else self.keys
        self.strengths = None if strength is None else nn.Linear(hidden, heads)
        if self.strengths is not None and strength is not None:
            nn.init.constant_(self.strengths.bias, strength)
        self.head = nn.Linear(hidden + heads * width, self.spec.outputs)

    def head_weights(self) -> Iterable[Tensor]:
        return self.head.parameters()

    def start(self, like: Tensor) -> State:
        tasks, hidden = len(like), self.controller.hidden_size
        shapes = ((hidden,), (hidden,), (self.slots, self.width), (self.heads, self.slots), (self.slots,), (self.heads, self.width))
        return tuple(like.new_zeros(tasks, *shape) for shape in shapes)

    def run(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        outs = []
        for x in inputs.unbind(1):
            out, state = self.step(x, state)
            outs.append(out)
        return torch.stack(outs, 1), state

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One presentation, ``x`` (T, features + outputs)."""
        hidden, cell, memory, reading, usage, read = state
        hidden, cell = self.controller(torch.cat([x, read.flatten(1)], 1), (hidden, cell))
        keys, contents = (of(hidden).tanh().view(len(x), self.heads, self.width) for of in (self.keys, self.contents))
        gate = self.gates(hidden).sigmoid().unsqueeze(-1)

        # Stable, so that equal usage is settled alike on every device and in every batch.
        least_used = one_hot(usage.argsort(dim=1, stable=True)[:, : self.heads], self.slots, x.dtype)
        writing = gate * reading + (1 - gate) * least_used
        memory = memory * (1 - least_used.sum(1)).unsqueeze(-1) + writing.mT @ contents

        similarity = F.normalize(keys, dim=-1, eps=1e-6) @ F.normalize(memory, dim=-1, eps=1e-6).mT
        if self.strengths is not None:
            similarity = F.softplus(self.strengths(hidden)).unsqueeze(-1) * similarity
        reading = similarity.softmax(-1)
        usage = self.decay * usage + (reading + writing).sum(1)
        read = reading @ memory
        return self.head(torch.cat([hidden, read.flatten(1)], 1)), (hidden, cell, memory, reading, usage, read)
