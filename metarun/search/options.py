"""The keys of `search` in a configuration."""

import re
from typing import Literal

from metarun.config import require


class Options:
    """How to search.

    Args:
        params: what to search over: keys, and values as on the command line, such as ``tag(log, interval(0.001, 1))``; those of
            the command line are added.
        trials: runs, pruned ones included.
        at_once: trials handed to the launcher together; it waits for all of them. More workers: the same command again beside it.
        sampler: tpe, or random.
        pruning: median, or none.
        test_seeds: seeds for the test of the values chosen, none of which has had a say in choosing them.
        warm_start: a folder of earlier runs, whose best on similar tasks are tried first; null: from nothing.
        warm_trials: how many of them.
        name: of the study's folder; null: from the configuration, so that the same command goes on with it.
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
