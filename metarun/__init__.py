"""metarun: few-shot meta-learning and continual learning from configuration files."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metarun.use import Learner


def load(run: str | Path) -> "Learner":
    """What the finished run in a directory has learned: `metarun.load(RUN).fit_predict(support_x, support_y, x)`."""
    from metarun.use import Learner  # torch is imported when it is needed

    return Learner(run)
