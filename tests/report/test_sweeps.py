"""The sweeps of the tables."""

from metarun.config import CONFIGS
from metarun.report import sweeps


def test_every_cell_of_every_table_is_a_choice():
    for name in sweeps.names():
        for grid in sweeps.read(name).grids:
            for group, values in grid.items():
                if (CONFIGS / group).is_dir():
                    for value in values:
                        assert (CONFIGS / group / f"{value}.yaml").is_file(), (name, value)
