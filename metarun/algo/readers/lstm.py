"""A recurrent network as a learner (Hochreiter, Younger and Conwell, "Learning to learn using gradient descent", ICANN 2001)."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from metarun.algo.metalearner import perceptron
from metarun.algo.readers.stream import State, StreamReader
from metarun.config import require
from metarun.episodes import TaskSpec
from metarun.model.network import NetworkFactory


class LSTM(StreamReader):
    """An LSTM whose state is what it has learned of a task; labels come shifted by one step.

    Args:
        hidden: units of a layer.
        layers: of the LSTM.
        common: see `StreamReader`.
    """

    def __init__(
        self,
        spec: TaskSpec,
        model: NetworkFactory,
        *,
        hidden: int = 128,
        layers: int = 1,
        **common: Any,
    ) -> None:
        super().__init__(spec, model, **common)
        require(hidden > 0, "hidden", hidden, "1 or more")
        require(layers > 0, "layers", layers, "1 or more")
        self.lstm = nn.LSTM(self.input_size, hidden, layers, batch_first=True)
        self.head = perceptron(hidden, hidden, self.spec.outputs)

    def head_weights(self) -> Iterable[Tensor]:
        return self.head[-1].parameters()

    def start(self, like: Tensor) -> State:
        empty = like.new_zeros(len(like), self.lstm.num_layers, self.lstm.hidden_size)
        return empty, empty

    def run(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        # torch has the layers first, then the batch.
        hidden, cell = (part.transpose(0, 1).contiguous() for part in state)
        out, (hidden, cell) = self.lstm(inputs, (hidden, cell))
        return self.head(out), (hidden.transpose(0, 1), cell.transpose(0, 1))
