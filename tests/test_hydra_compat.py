"""metarun leans on names that Hydra keeps private: in one file, checked with one version."""

import ast
from importlib.metadata import version
from pathlib import Path

import metarun
from metarun import hydra_compat

ROOT = Path(metarun.__file__).parent


def test_hydra_is_the_version_that_its_private_names_were_checked_with():
    assert version("hydra-core") == hydra_compat.CHECKED_WITH, (
        "read metarun/hydra_compat.py against this version, then say so there"
    )


def private(module: str) -> bool:
    return module.startswith(("hydra.", "omegaconf.")) and any(part.startswith("_") for part in module.split("."))


def test_no_other_file_imports_what_is_private_to_hydra():
    users = set()
    for path in [*ROOT.rglob("*.py"), *(ROOT.parent / "hydra_plugins").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            users |= {path.name for name in names if private(name)}
    assert users == {"hydra_compat.py"}
