"""The modules of metarun form layers: each imports only from the layers below its own, and there are no import cycles.

Imports inside functions and for type checkers count as well. A new module directly in `metarun/` needs an entry in `LAYERS`.
"""

import ast
import subprocess
import sys
from pathlib import Path

from architecture import graph, modules

import metarun

ROOT = Path(metarun.__file__).parent

LAYERS = (
    ("__main__",),
    ("__init__", "cli"),
    ("run", "show", "sweeper", "use", "why"),
    ("results", "search"),
    ("parts",),
    ("trainer",),
    ("cl",),
    ("algo",),
    ("data", "model"),
    ("mistakes", "sweep"),
    ("help", "report", "tracking"),
    ("choices", "claim", "episodes"),
    ("build", "files", "kinds", "trust"),
    ("declared", "folder", "hydra_compat", "metric"),
    ("config", "ranks", "rng", "signals"),
)
"""Packages and modules of `metarun/`, from the command line down. Those of one layer do not import one another."""


def upward(imports: dict[str, set[str]]) -> list[str]:
    """Imports from the same or a higher layer, by another unit."""
    level = {unit: number for number, layer in enumerate(LAYERS) for unit in layer}
    found = []
    for module, others in imports.items():
        unit = module.partition(".")[0]
        for other in sorted(others):
            below = other.partition(".")[0]
            if below != unit and level[below] <= level[unit]:
                found.append(f"{module} imports {other}")
    return found


def circles(imports: dict[str, set[str]]) -> list[str]:
    """Modules that import each other, one circle a line."""
    found, done = [], set()

    def walk(module: str, way: tuple[str, ...]) -> None:
        if module in way:
            found.append(" → ".join([*way[way.index(module) :], module]))
        elif module not in done:
            for other in sorted(imports[module]):
                walk(other, (*way, module))
            done.add(module)

    for module in imports:
        walk(module, ())
    return found


def test_every_module_has_a_layer():
    named = {unit for layer in LAYERS for unit in layer}
    assert {name.partition(".")[0] for name in modules(ROOT)} == named


def test_imports_point_downwards():
    assert upward(graph(ROOT)) == []


def test_no_modules_import_each_other_in_a_circle():
    assert circles(graph(ROOT)) == []


def test_an_upward_import_and_a_circle_are_noticed(tmp_path):
    for folder in ("trainer", "model"):
        (tmp_path / folder).mkdir()
    for name, text in {
        "run.py": "from metarun.parts import build_parts\n",
        "parts.py": "from metarun.trainer import loop\n",
        "trainer/loop.py": "def late():\n    from metarun.run import run\n",
        "trainer/feed.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import metarun.trainer.meter\n",
        "trainer/meter.py": "from metarun.trainer.feed import Feed\n",
        "data.py": "from metarun.model import network\n",
        "model/__init__.py": "import torch\n",
    }.items():
        (tmp_path / name).write_text(text)
    imports = graph(tmp_path)
    assert upward(imports) == ["data imports model.__init__", "trainer.loop imports run"]
    assert circles(imports) == ["parts → trainer.loop → run → parts", "trainer.feed → trainer.meter → trainer.feed"]


def light() -> list[str]:
    """Reports, and the modules whose docstring says that they import no torch."""
    found = []
    for name, path in modules(ROOT).items():
        says = "mports no torch" in (ast.get_docstring(ast.parse(path.read_text())) or "")
        if says or name.startswith("report."):
            found.append(f"metarun.{name}".removesuffix(".__init__"))
    return found


def test_what_shall_start_fast_imports_no_torch():
    names = light()
    assert {"metarun.cli", "metarun.choices", "metarun.mistakes", "metarun.report.page", "metarun.tracking"} <= set(names)
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
