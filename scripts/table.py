"""Print a table of `configs/table/` from finished runs, and draw their matrices R.

python scripts/table.py split_mnist outputs                        the table, beside the published figures
python scripts/table.py continual_meta outputs docs/picture.png    the table, and R of every row, the mean over seeds
"""

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from metarun.config import CONFIGS
from metarun.report import figures
from metarun.report.table import rows_of, table


def draw(name: str, folder: Path, path: Path) -> None:
    """R, the mean over seeds: a row of panels for all that tells runs apart but the last, which is the column."""
    found: dict[str, dict[str, list[list[float]]]] = defaultdict(dict)
    metrics = {}
    for what, runs in rows_of(name, folder)[1].items():
        *row, column = what
        title = "\n".join(row).replace(" by ", "\nby ")
        found[title][column] = np.mean([run["continual"]["R"] for run in runs], 0).tolist()
        metrics[title] = "accuracy" if "accuracy" in runs[0]["test"] else "mse"
    figures.save(figures.stage_matrices(found, metrics), path)


if __name__ == "__main__":
    names = sorted(path.stem for path in (CONFIGS / "table").glob("*.yaml"))
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in names:
        sys.exit(f"usage: python scripts/table.py TABLE FOLDER [PICTURE], TABLE one of {', '.join(names)}")
    print(table(sys.argv[1], Path(sys.argv[2])))
    if len(sys.argv) == 4:
        draw(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
