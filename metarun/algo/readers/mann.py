"""Memory-augmented neural networks (Santoro, Bartunov, Botvinick, Wierstra and Lillicrap, ICML 2016)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.algo.algorithm import BatchNormMode
from metarun.algo.readers.stream import State, StreamReader
from metarun.config import require
from metarun.episodes import TaskSpec
from metarun.model.network import NetworkFactory


class MANN(StreamReader):
    """An LSTM controller with an external memory, written where it was used least recently (LRUA, equations 2 to 8).

    A presentation: the controller sees the input and what was read before and gives a key a head; each head writes its key, partly
    where it read last and partly into one of the least used slots, which is emptied first; then it reads by the cosine of its key
    with every slot. The paper gives all heads the same least used slots; here each has its own of them.

    Args:
        slots: of the memory.
        width: of a slot.
        heads: that read and write.
        hidden: units of the controller.
        decay: of usage, γ of equation 5.
        strength: learn how sharply a head reads, a factor of the cosine in its softmax, as in neural Turing machines. Without it,
            as in the paper, no slot of many can weigh more than a few percent.
        batch_norm, task_chunk: see `MetaLearner`.
    """

    def __init__(
        self,
        spec: TaskSpec,
        model: NetworkFactory,
        *,
        slots: int = 128,
        width: int = 40,
        heads: int = 4,
        hidden: int = 200,
        decay: float = 0.99,
        strength: bool = True,
        batch_norm: BatchNormMode = "running",
        task_chunk: int | None = None,
    ) -> None:
        super().__init__(spec, model, batch_norm=batch_norm, task_chunk=task_chunk)
        for key, value in {"width": width, "heads": heads, "hidden": hidden}.items():
            require(value > 0, key, value, "1 or more")
        require(slots >= heads, "slots", slots, f"as many as heads ({heads}) at least")
        require(0 <= decay <= 1, "decay", decay, "0 to 1")
        self.slots, self.width, self.heads, self.decay, self.strength = slots, width, heads, decay, strength
        self.controller = nn.LSTMCell(self.features + self.outputs + heads * width, hidden)
        self.of_heads = nn.Linear(hidden, heads * (width + 2))
        self.head = nn.Linear(hidden + heads * width, self.outputs)

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
        of_heads = self.of_heads(hidden).view(len(x), self.heads, self.width + 2)
        keys, gate, strength = of_heads[..., :-2].tanh(), of_heads[..., -2:-1].sigmoid(), 1 + F.softplus(of_heads[..., -1:])

        # Stable, so that equal usage is settled alike on every device and in every batch.
        least_used = F.one_hot(usage.argsort(dim=1, stable=True)[:, : self.heads], self.slots).to(x.dtype)
        writing = gate * reading + (1 - gate) * least_used
        memory = memory * (1 - least_used.sum(1)).unsqueeze(-1) + writing.mT @ keys

        similarity = F.normalize(keys, dim=-1, eps=1e-6) @ F.normalize(memory, dim=-1, eps=1e-6).mT
        reading = (strength * similarity if self.strength else similarity).softmax(-1)
        usage = self.decay * usage + (reading + writing).sum(1)
        read = reading @ memory
        return self.head(torch.cat([hidden, read.flatten(1)], 1)), (hidden, cell, memory, reading, usage, read)
