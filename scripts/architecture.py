"""Draws docs/architecture.svg from the imports of metarun's modules: `python scripts/architecture.py`.

With `--check` nothing is written: the exit status is 1 where the picture is not that of the code, or where docs/architecture.md
leaves out a package or module of `metarun/`.
"""

import argparse
import ast
import sys
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "metarun"
PICTURE, PAGE = ROOT / "docs/architecture.svg", ROOT / "docs/architecture.md"
ENTRIES = ("__init__", "__main__")
"""They pass on to `use` and `cli`, and are not drawn."""

BOX, GAP, ROW, MARGIN = (104, 30), 24, 72, 20
"""Width and height of a box, what is between two of them, from one row to the next, and the rim, in pixels."""
SWEEPS = 8


# The graph --------------------------------------------------------------------------------------------------------------------


def modules(root: Path) -> dict[str, Path]:
    """`trainer.feed` → its file; a package is `trainer.__init__`."""
    return {".".join(path.relative_to(root).with_suffix("").parts): path for path in sorted(root.rglob("*.py"))}


def imported(path: Path, known: set[str]) -> Iterator[str]:
    """Those of the ``known`` modules that a file imports anywhere in it, within functions and for type checkers, too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports are not checked"  # noqa: S101
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] != "metarun":
                continue
            places = (".".join(parts[1:count]) for count in range(len(parts), 1, -1))
            candidates = (module for place in places for module in (place, f"{place}.__init__"))
            yield next((module for module in candidates if module in known), "__init__")


def graph(root: Path) -> dict[str, set[str]]:
    """Module → the modules that it imports."""
    found = modules(root)
    return {name: set(imported(path, set(found))) - {name} for name, path in found.items()}


def units(imports: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The same for packages, and for modules that are in none: `trainer` → {`cl`, `algo`, …}."""
    found: dict[str, set[str]] = {}
    for module, others in imports.items():
        unit = module.partition(".")[0]
        found.setdefault(unit, set()).update({other.partition(".")[0] for other in others} - {unit, *ENTRIES})
    return {unit: found[unit] for unit in sorted(found) if unit not in ENTRIES}


def below(unit: str, imports: Mapping[str, set[str]]) -> set[str]:
    """All that a unit rests on, directly or not."""
    return imports[unit].union(*(below(other, imports) for other in imports[unit]))


def direct(imports: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Without the imports of what another imported unit rests on: the fewest arrows that say who rests on whom."""
    return {
        unit: {other for other in others if not any(other in below(between, imports) for between in others)}
        for unit, others in imports.items()
    }


# The picture ------------------------------------------------------------------------------------------------------------------


def rows(imports: Mapping[str, set[str]]) -> list[list[str]]:
    """From the top down: each unit in the row right below the lowest of those that import it."""
    depth: dict[str, int] = {}

    def of(unit: str) -> int:
        if unit not in depth:
            depth[unit] = 1 + max((of(user) for user, others in imports.items() if unit in others), default=-1)
        return depth[unit]

    found: list[list[str]] = [[] for _ in range(1 + max(map(of, imports)))]
    for unit in imports:
        found[of(unit)].append(unit)
    return found


def with_bends(layers: list[list[str]], arrows: Mapping[str, set[str]]) -> tuple[list[list[str]], dict[str, set[str]]]:
    """Let an arrow to a lower row bend in each row that it crosses, so that it runs between boxes: rows and arrows with the bends.

    Arrows to one unit share their bends, which are named `unit@row`.
    """
    row = {unit: number for number, layer in enumerate(layers) for unit in layer}
    bent, joined = [list(layer) for layer in layers], {unit: set[str]() for unit in arrows}
    for unit, others in arrows.items():
        for other in others:
            before = unit
            for number in range(row[unit] + 1, row[other]):
                bend = f"{other}@{number}"
                if bend not in joined:
                    bent[number].append(bend)
                    joined[bend] = set()
                joined[before].add(bend)
                before = bend
            joined[before].add(other)
    return bent, joined


def centres(layers: list[list[str]], arrows: Mapping[str, set[str]]) -> dict[str, tuple[float, float]]:
    """Where each box and bend stands: a few sweeps bring it near to those that it is joined to, so that few arrows cross."""
    near = {unit: set(others) | {user for user in arrows if unit in arrows[user]} for unit, others in arrows.items()}
    x: dict[str, float] = {}

    def place(layer: list[str]) -> None:
        widths = [GAP + BOX[0] * ("@" not in unit) for unit in layer]
        left = -sum(widths) / 2
        for unit, width in zip(layer, widths, strict=True):
            x[unit] = left + width / 2
            left += width

    for layer in layers:
        place(layer)
    for sweep in range(SWEEPS):
        for layer in layers[:: 1 if sweep % 2 else -1]:
            wanted = {unit: sum(x[other] for other in near[unit]) / max(len(near[unit]), 1) for unit in layer}
            place(sorted(layer, key=lambda unit: (wanted[unit], unit)))
    rim = min(x.values()) - BOX[0] / 2 - MARGIN
    return {unit: (x[unit] - rim, MARGIN + ROW * i + BOX[1] / 2) for i, layer in enumerate(layers) for unit in layer}


def arrow(unit: str, other: str, places: Mapping[str, tuple[float, float]]) -> str:
    """From one row to the next, and straight through the row where it ends in a bend."""
    (x, y), (u, v) = places[unit], places[other]
    y, v = y + BOX[1] / 2, v - BOX[1] / 2
    end = f"V{v + BOX[1]:.0f}" if "@" in other else ""
    tip = "" if end else ' marker-end="url(#tip)"'
    middle = (y + v) / 2
    return f'<path d="M{x:.0f},{y:.0f} C{x:.0f},{middle:.0f} {u:.0f},{middle:.0f} {u:.0f},{v:.0f} {end}"{tip}/>'


def box(unit: str, place: tuple[float, float], package: bool) -> str:
    """A package is filled, a module is not."""
    x, y = place[0] - BOX[0] / 2, place[1] - BOX[1] / 2
    name, fill = (f"{unit}/", "#dbe7f5") if package else (unit, "#ffffff")
    return (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{BOX[0]}" height="{BOX[1]}" rx="5" fill="{fill}" stroke="#41658a"/>'
        f'<text x="{place[0]:.0f}" y="{place[1] + 4:.0f}">{escape(name)}</text>'
    )


def picture(root: Path) -> str:
    """The SVG."""
    imports = units(graph(root))
    layers, arrows = with_bends(rows(imports), direct(imports))
    places = centres(layers, arrows)
    width = round(max(x for x, _ in places.values()) + BOX[0] / 2 + MARGIN)
    height = round(max(y for _, y in places.values()) + BOX[1] / 2 + MARGIN)
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        "<title>Packages and modules of metarun, each above what it imports</title>",
        '<marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,1 L8,4 L0,7 z" fill="#7d8b99"/></marker>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        '<g fill="none" stroke="#7d8b99" stroke-width="1">',
        *(arrow(unit, other, places) for unit in sorted(arrows) for other in sorted(arrows[unit])),
        "</g>",
        '<g font-family="sans-serif" font-size="13" text-anchor="middle" fill="#1d2733">',
        *(box(unit, place, (root / unit).is_dir()) for unit, place in sorted(places.items()) if unit in imports),
        "</g>",
        "</svg>\n",
    ])  # fmt: skip


def stale(root: Path, drawn: str, page: str) -> list[str]:
    """What is wrong with the picture and the page, a line each."""
    names = {unit: f"`{unit}/`" if (root / unit).is_dir() else f"`{unit}.py`" for unit in units(graph(root))}
    found = [f"docs/architecture.md: {name} is missing" for name in names.values() if name not in page]
    if drawn != picture(root):
        found.append("docs/architecture.svg: not the picture of the code; draw it with python scripts/architecture.py")
    return found


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 where page or picture is stale")
    if not parser.parse_args(arguments).check:
        PICTURE.write_text(picture(PACKAGE))
    found = stale(PACKAGE, PICTURE.read_text(), PAGE.read_text())
    print("\n".join(found), end="\n" * bool(found), file=sys.stderr)
    sys.exit(bool(found))


if __name__ == "__main__":
    main(sys.argv[1:])
