"""results.json and the pictures: what a learner of one's own reports stands beside what every run has."""

import json

LEARNER = """
from metarun.algo.maml import MAML
from metarun.report import figures
from metarun.report.findings import Finding


class Mine(MAML):
    def probe(self, episodes):
        return {"span": episodes.query.y.flatten(1).amax(1)}

    def findings(self, probes):
        rows = [{"largest": float(probes["span"].max())}]
        lengths = [{"length": 1, "mean": 1, "ci95": 0}]
        return [Finding("span", rows, "spans", lambda: figures.by_length(lengths, self.spec.kind.metric))]
"""


def test_a_learner_of_ones_own_brings_its_summary_and_its_picture(here):
    (here.folder / "mine.py").write_text(LEARNER)
    keys = ("trainer.iterations=1", "trainer.test_tasks=3", "trainer.val_tasks=2", "trainer.tensorboard=false", "hydra.run.dir=run")
    here("algo._target_=mine.Mine", *keys)
    results = json.loads((here.folder / "run/results.json").read_text())
    (row,) = results["test"]["span"]
    assert row["largest"] > 0
    assert {"mse", "steps", "by_step", "span"} <= set(results["test"])
    assert (here.folder / "run/figures/spans.png").is_file()
    assert (here.folder / "run/figures/learning.png").is_file()
