"""The files around the package: what contributors, GitHub and PyPI read agrees with the code."""

import re
import tomllib
from pathlib import Path

import architecture
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GUIDES = ["CONTRIBUTING.md", "tests/README.md"]


def yaml_of(path: str):
    return yaml.load((ROOT / path).read_text(), yaml.BaseLoader)  # noqa: S506 as strings: GitHub's key `on` would be True


def test_ci_runs_on_each_version_of_python_that_is_promised():
    tested = yaml_of(".github/workflows/ci.yml")["jobs"]["run"]["strategy"]["matrix"]["python"]
    promised = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if text.startswith("Programming Language")]
    lowest, highest = (int(minor) for minor in re.findall(r"3\.(\d+)", PROJECT["requires-python"]))
    assert tested == promised == [f"3.{minor}" for minor in range(lowest, highest)]


def test_a_tag_publishes_by_trust_alone():
    publish = yaml_of(".github/workflows/publish.yml")
    assert publish["on"] == {"push": {"tags": ["v*"]}}
    assert publish["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets." not in (ROOT / ".github/workflows/publish.yml").read_text()


@pytest.mark.parametrize("path", sorted(path.name for path in (ROOT / ".github/ISSUE_TEMPLATE").iterdir()))
def test_an_issue_form_has_what_github_requires(path):
    form = yaml_of(f".github/ISSUE_TEMPLATE/{path}")
    assert form["name"]
    assert form["description"]
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids)) > 0
    assert all(field["type"] == "textarea" and field["attributes"]["label"] for field in form["body"])


@pytest.mark.parametrize("guide", GUIDES)
def test_what_a_guide_names_is_there(guide):
    text = (ROOT / guide).read_text()
    links = re.findall(r"\]\(([^)#]+)", text)
    assert all((ROOT / guide).parent.joinpath(link).is_file() for link in links), links
    paths = re.findall(r"(?<![\w/])(?:tests|metarun|scripts|docs|\.ci|\.github)/[\w./]*\w/?", text)
    named = [path for path in paths if "PACKAGE" not in path]
    assert len(named) > 2
    assert not [path for path in named if not (ROOT / path).exists()]


def test_the_map_of_the_tests_is_whole():
    named = (ROOT / "tests/README.md").read_text()
    folders = {f"tests/{path.parent.name}/" for path in (ROOT / "tests").glob("*/test_*.py")}
    assert not [name for name in folders if f"`{name}`" not in named]
    assert all(path.read_text().startswith('"""') for path in (ROOT / "tests").rglob("test_*.py"))


def test_the_architecture_page_is_that_of_the_code():
    page = architecture.PAGE.read_text()
    assert architecture.stale(architecture.PACKAGE, architecture.PICTURE.read_text(), page) == []
    files = re.findall(r"`([\w/]+\.py)`", page)
    assert not [name for name in files if not ((ROOT / name).is_file() or (ROOT / "metarun" / name).is_file())]


def test_a_picture_of_other_code_is_stale(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "run.py").write_text("from metarun.data import sine\nfrom metarun import rng\n")
    (tmp_path / "data/sine.py").write_text("def draw():\n    from metarun.rng import draw\n")
    (tmp_path / "rng.py").write_text("import torch\n")
    imports = architecture.units(architecture.graph(tmp_path))
    assert imports == {"data": {"rng"}, "rng": set(), "run": {"data", "rng"}}
    assert architecture.direct(imports) == {"data": {"rng"}, "rng": set(), "run": {"data"}}
    assert architecture.rows(imports) == [["run"], ["data"], ["rng"]]
    drawn, page = architecture.picture(tmp_path), "`run.py` makes tasks of `data/` from `rng.py`"
    assert [drawn.count(f">{name}</text>") for name in ("run", "data/", "rng")] == [1, 1, 1]
    assert drawn.count("<path") == 1 + 2  # the tip, and run → data → rng
    assert architecture.stale(tmp_path, drawn, page) == []
    (tmp_path / "files.py").write_text("from metarun.rng import draw\n")
    first, second = architecture.stale(tmp_path, drawn, page)
    assert first == "docs/architecture.md: `files.py` is missing"
    assert second.startswith("docs/architecture.svg: not the picture of the code")


def test_an_arrow_to_a_lower_row_bends_between_the_boxes():
    arrows = {"run": {"data", "files"}, "data": {"rng"}, "rng": {"files"}, "files": set()}
    layers, bent = architecture.with_bends(architecture.rows(arrows), arrows)
    assert layers == [["run"], ["data", "files@1"], ["rng", "files@2"], ["files"]]
    assert bent["run"] == {"data", "files@1"}
    assert (bent["files@1"], bent["files@2"]) == ({"files@2"}, {"files"})
    places = architecture.centres(layers, bent)
    assert len(set(places.values())) == len(places)
    assert abs(places["data"][0] - places["files@1"][0]) > architecture.BOX[0] / 2


def test_the_package_tells_type_checkers_that_it_is_typed():
    assert (ROOT / "metarun/py.typed").read_bytes() == b""
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_versions_are_one():
    citation, changes = yaml_of("CITATION.cff"), (ROOT / "CHANGELOG.md").read_text()
    assert citation["version"] == PROJECT["version"]
    assert re.search(rf"^## {re.escape(PROJECT['version'])}\b", changes, re.MULTILINE)
