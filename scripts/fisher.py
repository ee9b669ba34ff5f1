"""Draw docs/fisher.png: estimates of the diagonal Fisher compared with the exact one, for an MLP trained on MNIST."""

import logging
from collections.abc import Iterable

import numpy as np
import torch
from matplotlib.figure import Figure

from metarun.algo.supervised import Supervised
from metarun.cl.fisher import batches, fisher
from metarun.data.mnist import MNIST
from metarun.data.source import TaskSource
from metarun.model.mlp import MLP

UPDATES, SAMPLES, BATCH = 300, 2048, 128
log = logging.getLogger(__name__)


def flat(weights: Iterable[torch.Tensor]) -> np.ndarray:
    return torch.cat([w.flatten() for w in weights]).double().numpy()


def squared_batch_means(learner: Supervised, source: TaskSource) -> np.ndarray:
    """What several public libraries compute: the square of the mean gradient of each minibatch, averaged over minibatches."""
    total = [torch.zeros_like(w) for w in learner.parameters()]
    for episodes in batches(source, SAMPLES, BATCH):
        learner.zero_grad()
        learner.backward(episodes)
        for value, w in zip(total, learner.parameters(), strict=True):
            if w.grad is not None:
                value.addcmul_(w.grad, w.grad, value=BATCH / SAMPLES)
    return flat(total)


def main() -> None:
    torch.manual_seed(0)
    data = MNIST(0, scenario="class")
    (stage,) = data.stages(torch.device("cpu"))
    learner = Supervised(data.spec, lambda outputs, shape=None: MLP(data.spec.input_shape, outputs, [400, 400]))
    optimizer = torch.optim.Adam(learner.parameters())
    for step in range(UPDATES):
        optimizer.zero_grad()
        learner.backward(stage.train.sample(torch.arange(step * BATCH, (step + 1) * BATCH)))
        optimizer.step()
    exact = flat(fisher(learner, stage.train, "exact", SAMPLES).values())
    sampled = [flat(fisher(learner, stage.train, "sampled", SAMPLES).values()) for _ in range(6)]
    estimates = {
        "sampled labels,\none pass": sampled[0],
        "sampled labels,\nsix passes": np.mean(sampled, 0),
        "true labels": flat(fisher(learner, stage.train, "true", SAMPLES).values()),
        "most likely labels": flat(fisher(learner, stage.train, "argmax", SAMPLES).values()),
        f"squared mean of\nbatches of {BATCH}": squared_batch_means(learner, stage.train),
    }
    ratios = {name: value.sum() / exact.sum() for name, value in estimates.items()}
    for name, value in estimates.items():
        log.info("%s: trace %.3f of the exact, correlation %.3f", name, ratios[name], np.corrcoef(value, exact)[0, 1])
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    bars, points = figure.subplots(1, 2)
    bars.barh(list(ratios), list(ratios.values()), color="#2471a3")
    bars.axvline(1, color="#222222", linewidth=1)
    bars.set(xscale="log", xlabel="trace, exact = 1")
    bars.invert_yaxis()
    sample = np.random.default_rng(0).choice(np.flatnonzero(exact > 0), 3000)
    for name, colour in zip(list(estimates)[::-1][:1] + list(estimates)[1:2], ("#c0392b", "#2471a3"), strict=True):
        points.plot(exact[sample], estimates[name][sample], ".", color=colour, markersize=2, label=name.replace("\n", " "))
    ends = [exact[sample].min(), exact[sample].max()]
    points.plot(ends, ends, color="#222222", linewidth=1)
    points.set(xscale="log", yscale="log", xlabel="exact Fisher of a weight", ylabel="estimate")
    points.legend(fontsize=8, frameon=False, markerscale=5)
    figure.savefig("docs/fisher.png", dpi=110)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
