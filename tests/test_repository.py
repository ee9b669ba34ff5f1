"""The files around the package: what contributors, GitHub and PyPI read agrees with the code."""

import re
import tomllib
from pathlib import Path

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


def test_the_package_tells_type_checkers_that_it_is_typed():
    assert (ROOT / "metarun/py.typed").read_bytes() == b""
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_versions_are_one():
    citation, changes = yaml_of("CITATION.cff"), (ROOT / "CHANGELOG.md").read_text()
    assert citation["version"] == PROJECT["version"]
    assert re.search(rf"^## {re.escape(PROJECT['version'])}\b", changes, re.MULTILINE)
