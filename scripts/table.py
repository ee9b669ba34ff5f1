"""Print a table of `configs/table/` from finished runs, and draw their matrices R.

python scripts/table.py split_mnist outputs                        the table, beside the published figures
python scripts/table.py continual_meta outputs docs/picture.png    the table, and R of every row, the mean over seeds
"""

import sys
from pathlib import Path

import numpy as np

from metarun.config import CONFIGS
from metarun.report import figures
from metarun.report.table import rows_of, table


def draw(name: str, folder: Path, path: Path) -> None:
    _, rows = rows_of(name, folder)
    metric = "accuracy" if any("accuracy" in run["test"] for runs in rows.values() for run in runs) else "mse"
    found = {" ".join(what): np.mean([run["continual"]["R"] for run in runs], 0).tolist() for what, runs in rows.items()}
    figures.save(figures.stage_matrices(found, metric), path)


if __name__ == "__main__":
    names = sorted(path.stem for path in (CONFIGS / "table").glob("*.yaml"))
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in names:
        sys.exit(f"usage: python scripts/table.py TABLE FOLDER [PICTURE], TABLE one of {', '.join(names)}")
    print(table(sys.argv[1], Path(sys.argv[2])))
    if len(sys.argv) == 4:
        draw(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
