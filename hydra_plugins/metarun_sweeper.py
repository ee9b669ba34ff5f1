"""Hydra looks for plugins in the package hydra_plugins, and knows them by the module that defines them."""

from metarun import sweeper


class MetarunSweeper(sweeper.Sweeper):
    """`metarun.sweeper.Sweeper`, where Hydra finds it."""
