"""Published figures: each paper row has one, and each says where it stands."""

import pytest

from metarun.config import CONFIGS
from metarun.report.published import _interval, papers, published

ROWS = sorted(path.stem for path in (CONFIGS / "paper").glob("*.yaml"))


@pytest.mark.parametrize("name", ROWS)
def test_every_paper_row_has_a_published_figure_that_its_file_tells_too(name):
    told = next(line for line in (CONFIGS / "paper" / f"{name}.yaml").read_text().split("\n#\n") if "# Published" in line)
    for found in published()[name].values():
        assert found.paper in papers()
        assert found.verified in ("paper", "quoted", "memory")
        if found.value is not None:
            assert any(f"{found.value:.{digits}f}" in told for digits in (1, 2))
        if found.ci95 is not None and "standard deviation" not in told:
            assert any(f"± {found.ci95:.{digits}f}" in told for digits in (1, 2))


def test_nothing_is_published_of_a_row_that_is_not_there():
    streams = {name for name in published() if name.split("_")[1] == "mnist"}
    assert set(published()) - streams == set(ROWS)
    assert published()["maml_sine_10shot"]["test"].value is None
    assert list(published()["maml_sine_5shot"]) == ["step 1", "step 5", "step 10"]


def test_deviations_and_errors_over_seeds_become_intervals():
    assert published()["anil_omniglot_20way_1shot"]["test"].ci95 == pytest.approx(4.3027 * 0.5 / 3**0.5, abs=1e-3)
    assert published()["split_mnist_domain_none"]["test"].ci95 == pytest.approx(2.0930 * 1.66, abs=1e-3)
    assert published()["protonet_omniglot_5way_1shot"]["test"].ci95 is None
    assert published()["maml_omniglot_5way_1shot"]["test"].ci95 == 0.4


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"ci95": 0.4}, 0.4),
        ({}, None),
        ({"sd": 0.5, "n": 3}, 4.3027 * 0.5 / 3**0.5),  # Student's t of 2 degrees of freedom
        ({"se": 0.2, "n": 2}, 12.7062 * 0.2),
    ],
)
def test_an_interval_from_what_is_printed(entry, expected):
    assert _interval(entry) == (expected and pytest.approx(expected, rel=1e-4))


def test_a_source_is_told_in_a_line():
    said = published()["fomaml_omniglot_5way_1shot"]["test"].source
    assert said.startswith("Nichol, Achiam and Schulman, On first-order meta-learning algorithms")
    assert "table 2 (as quoted elsewhere): batch norm transductive" in said
    assert "figure 3 (read in the paper)" in published()["maml_sine_10shot"]["test"].source
