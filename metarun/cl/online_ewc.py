"""Online EWC (Schwarz et al., "Progress & Compress", ICML 2018, section 4): one running Fisher, one anchor."""

from metarun.cl.ewc import EWC, Normalise
from metarun.cl.fisher import Labels
from metarun.cl.penalty import Switch
from metarun.config import require
from metarun.model.network import Weights


class OnlineEWC(EWC):
    """F ← γ F + F of the last stage, with the anchor at the end of that stage; γ is applied once per stage, at its end.

    Args:
        strength, labels, samples, normalise, consolidate, penalise: see `EWC`.
        gamma: γ, the decay of the earlier Fisher.
    """

    def __init__(
        self,
        strength: float,
        gamma: float = 1.0,
        labels: Labels = "sampled",
        samples: int | None = None,
        normalise: Normalise = "none",
        consolidate: Switch = True,
        penalise: Switch = True,
    ) -> None:
        super().__init__(strength, labels, samples, normalise, consolidate, penalise)
        require(0 <= gamma <= 1, "gamma", gamma, "0 to 1")
        self.gamma = gamma

    def remember(self, importance: Weights, weights: Weights) -> None:
        self.move_anchor(importance, weights, self.gamma)
