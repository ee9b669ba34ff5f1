"""The configuration keys of `search`."""

import re
from typing import Literal

from metarun.config import require


class Options:
    """Options of a search.

    Args:
        params: the search space: keys, with values as on the command line, such as ``tag(log, interval(0.001, 1))``; overrides on
            the command line are added.
        trials: number of trials, including pruned ones.
        at_once: number of trials handed to the launcher together; it waits for all of them. To add workers, start the same
            command again in parallel.
        sampler: tpe or random.
        pruning: median or none.
        test_seeds: seeds for the test of the chosen values, which are not used in the search.
        warm_start: folder of earlier runs; the best configurations on similar tasks are tried first. null: no warm start.
        warm_trials: number of these configurations.
        name: of the study's folder; null: derived from the configuration, so that the same command resumes the study.
    """

    def __init__(
        self,
        *,
        params: dict[str, str],
        trials: int = 40,
        at_once: int = 1,
        sampler: Literal["tpe", "random"] = "tpe",
        pruning: Literal["median", "none"] = "median",
        test_seeds: tuple[int, ...] = (1000, 1001, 1002),
        warm_start: str | None = None,
        warm_trials: int = 8,
        name: str | None = None,
    ) -> None:
        for key, value in {"trials": trials, "at_once": at_once, "warm_trials": warm_trials}.items():
            require(value > 0, key, value, "1 or more")
        plain = name is None or re.fullmatch(r"[\w+-][\w.+-]*", name)  # it becomes the name of a folder
        require(bool(plain), "name", name, "letters, digits and . + - _, or null")
        self.params, self.trials, self.at_once = params, trials, at_once
        self.sampler, self.pruning, self.test_seeds = sampler, pruning, test_seeds
        self.warm_start, self.warm_trials, self.name = warm_start, warm_trials, name
