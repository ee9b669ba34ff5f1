"""Print a table of `configs/table/` from finished runs: `python scripts/table.py split_mnist outputs`."""

import sys
from pathlib import Path

from metarun.report.table import PUBLISHED, table

if __name__ == "__main__":
    if len(sys.argv) != 3 or not (PUBLISHED / f"{sys.argv[1]}.yaml").is_file():
        names = ", ".join(sorted(path.stem for path in PUBLISHED.glob("*.yaml")))
        sys.exit(f"usage: python scripts/table.py TABLE FOLDER, TABLE one of {names}")
    print(table(sys.argv[1], Path(sys.argv[2])))
