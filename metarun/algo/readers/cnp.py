"""Conditional neural processes (Garnelo et al., ICML 2018)."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from metarun.algo.metalearner import Reader, SetEncoder, perceptron
from metarun.config import require
from metarun.episodes import Episodes, TaskSpec
from metarun.model.network import NetworkFactory


class CNP(Reader):
    """The mean of the encoded support examples conditions a decoder of queries (equations 1 to 3).

    On regression the decoder gives a Gaussian for each target, whose likelihood is trained (its mean is the prediction); on
    classification the examples of each class have a mean of their own, and the decoder gives logits (section 4.3).

    Args:
        width: of the hidden layers: three of the encoder, two of the decoder.
        min_std: smallest standard deviation of the Gaussian.
        common: see `MetaLearner`.
    """

    def __init__(
        self,
        spec: TaskSpec,
        model: NetworkFactory,
        *,
        width: int = 128,
        min_std: float = 0.1,
        **common: Any,
    ) -> None:
        super().__init__(spec, model, **common)
        require(width > 0, "width", width, "1 or more")
        require(min_std > 0, "min_std", min_std, "a number above 0")
        self.gaussian, self.min_std = not spec.kind.classes, min_std
        self.encoder = SetEncoder(self.features, self.spec.outputs, width, by_class=not self.gaussian)
        numbers = self.spec.outputs * (2 if self.gaussian else 1)
        self.decoder = perceptron(self.features + self.encoder.outputs, width, width, numbers)

    def head_weights(self) -> Iterable[Tensor]:
        return () if self.gaussian else self.decoder[-1].parameters()  # a Gaussian has deviations beside its means

    def read(self, features: Tensor, labels: Tensor) -> Tensor:
        code: Tensor = self.encoder(features, labels)
        return code

    def answer(self, content: Tensor, features: Tensor) -> Tensor:
        return self._decode(content, features)[..., : self.spec.outputs]

    def losses(self, episodes: Episodes) -> Tensor:
        if not self.gaussian:
            return super().losses(episodes)
        support, query = self.embed_both(episodes)
        decoded = self._decode(self.read(support, self.labels(episodes.support)), query)
        mean, raw = decoded.chunk(2, -1)
        std = self.min_std + (1 - self.min_std) * F.softplus(raw)
        # Written out: torch's own loss asks the host whether a variance is negative.
        return (0.5 * ((episodes.query.y - mean) / std).square() + std.log()).flatten(1).mean(1)

    def _decode(self, code: Tensor, features: Tensor) -> Tensor:
        """(T, code) and (T, m, features) → (T, m, numbers)."""
        decoded: Tensor = self.decoder(torch.cat([features, code.unsqueeze(1).expand(-1, features.shape[1], -1)], -1))
        return decoded
