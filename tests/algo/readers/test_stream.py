"""Readers of a stream against the equations written out for one task, one presentation, one head and one slot at a time."""

import pytest
import torch
from reference import assert_gradients, copies, lstm_cell, part, plain_conv4, plain_loss, plain_mlp
from small import LINE, PICTURES, conv, images, mlp, regression
from torch.nn import functional as F

from metarun.algo.readers.lstm import LSTM
from metarun.algo.readers.mann import MANN

KINDS = {"mlp": (LINE, mlp, regression), "conv": (PICTURES, conv, images)}


def embedded(weights, x):
    """One batch of one task, (n, …) → (n, features) of mean 0 and variance 1."""
    features = torch.relu(plain_mlp(weights, x)) if x.dim() == 2 else plain_conv4(weights, x)[0]
    centred = features - features.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()


def streams(weights, tasks, seed):
    """Each task's features, labels as vectors and labels, in the order that training draws."""
    torch.manual_seed(seed)
    order = torch.rand(len(tasks), tasks.support.x.shape[1] + tasks.query.x.shape[1]).argsort(1)
    for t in range(len(tasks)):
        x = torch.cat([tasks.support.x[t], tasks.query.x[t]])
        y = torch.cat([tasks.support.y[t], tasks.query.y[t]])
        features = embedded(part(weights, "network."), x)[order[t]]
        y = y[order[t]]
        yield features, y if y.is_floating_point() else F.one_hot(y, 3).double(), y


def stream_loss(weights, tasks, step, start, *, recall=False):
    """Mean loss over all presentations, labels coming a step late, with the input that they are of if it is recalled."""
    total = torch.zeros((), dtype=torch.float64)
    for features, labels, y in streams(weights, tasks, seed=3):
        state, late, outs = start(), torch.zeros_like(labels[0]), []
        late = torch.cat([torch.zeros_like(features[0]), late]) if recall else late
        for feature, label in zip(features, labels, strict=True):
            out, state = step(torch.cat([feature, late]), state)
            outs.append(out)
            late = torch.cat([feature, label]) if recall else label
        total = total + plain_loss(torch.stack(outs), y) / len(tasks)
    return total


def matching_loss(weights, tasks):
    """Cross entropy of each query by its squared distance to the three class means over the root of the number of features."""
    total = torch.zeros((), dtype=torch.float64)
    for t in range(len(tasks)):
        (x, y), shots = tasks.support[:2], tasks.support.x.shape[1]
        features = embedded(part(weights, "network."), torch.cat([x[t], tasks.query.x[t]]))
        means = [features[:shots][y[t] == c].mean(0) for c in range(3)]
        logits = [[-(q - mean).square().sum() / len(q) ** 0.5 for mean in means] for q in features[shots:]]
        total = total + plain_loss(torch.stack([torch.stack(row) for row in logits]), tasks.query.y[t]) / len(tasks)
    return total


@pytest.mark.parametrize(
    ("kind", "recall", "matching"), [("mlp", False, 0.0), ("mlp", True, 0.0), ("conv", False, 0.0), ("conv", True, 0.5)]
)
def test_lstm(kind, recall, matching):
    spec, factory, episodes = KINDS[kind]
    algorithm = LSTM(spec, factory, hidden=5, train_on="stream", recall=recall, matching=matching).double()
    weights, tasks = copies(algorithm), episodes()
    cell = {f"{name}_{gates}": weights[f"lstm.{name}_{gates}_l0"] for name in ("weight", "bias") for gates in ("ih", "hh")}

    def step(x, state):
        hidden, memory = lstm_cell(cell, x, *state)
        return plain_mlp({f"layers.{i}.{n}": weights[f"head.{2 * i}.{n}"] for i in (0, 1) for n in ("weight", "bias")}, hidden), (
            hidden,
            memory,
        )

    loss = stream_loss(weights, tasks, step, lambda: (torch.zeros(5).double(),) * 2, recall=recall)
    loss = loss + matching * matching_loss(weights, tasks) if matching else loss
    torch.manual_seed(3)
    assert_gradients(algorithm, tasks, loss, weights)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("faithful", [False, True])
def test_mann(kind, faithful):
    slots, width, heads, decay = 7, 3, 2, 0.9
    spec, factory, episodes = KINDS[kind]
    keys = {"content": "key", "strength": None} if faithful else {}
    algorithm = MANN(
        spec, factory, slots=slots, width=width, heads=heads, hidden=5, decay=decay, train_on="stream", **keys
    ).double()
    weights, tasks = copies(algorithm), episodes()

    def start():
        zeros = torch.zeros(5).double()
        return zeros, zeros, [torch.zeros(width).double()] * slots, [torch.zeros(slots).double()] * heads, [0.0] * slots, zeros[:0]

    def cosine(a, b):
        return (a @ b) / (a.norm().clamp(min=1e-6) * b.norm().clamp(min=1e-6))

    def step(x, state):
        hidden, cell, memory, reading, usage, read = state
        read = read if len(read) else torch.zeros(heads * width).double()
        hidden, cell = lstm_cell(part(weights, "controller."), torch.cat([x, read]), hidden, cell)

        def made(name):
            return weights[f"{name}.weight"] @ hidden + weights[f"{name}.bias"]

        keys = torch.tanh(made("keys")).view(heads, width)
        contents = torch.tanh(made("contents")).view(heads, width) if not faithful else keys
        gates = torch.sigmoid(made("gates"))
        sharp = [1.0] * heads if faithful else F.softplus(made("strengths"))
        least = sorted(range(slots), key=lambda i: torch.as_tensor(usage[i]).item())[:heads]
        # Write: where a head read last, and into its own least used slot, which is emptied.
        memory = [torch.zeros_like(m) if i in least else m for i, m in enumerate(memory)]
        writing = [[gates[h] * reading[h][i] + (1 - gates[h]) * (i == least[h]) for i in range(slots)] for h in range(heads)]
        memory = [m + sum(writing[h][i] * contents[h] for h in range(heads)) for i, m in enumerate(memory)]
        # Read: by the cosine of the key with every slot.
        reading = [torch.softmax(torch.stack([sharp[h] * cosine(keys[h], m) for m in memory]), 0) for h in range(heads)]
        usage = [decay * u + sum(reading[h][i] + writing[h][i] for h in range(heads)) for i, u in enumerate(usage)]
        read = torch.cat([sum(r * m for r, m in zip(reading[h], memory, strict=True)) for h in range(heads)])
        out = weights["head.weight"] @ torch.cat([hidden, read]) + weights["head.bias"]
        return out, (hidden, cell, memory, reading, usage, read)

    loss = stream_loss(weights, tasks, step, start)
    torch.manual_seed(3)
    assert_gradients(algorithm, tasks, loss, weights)


@pytest.mark.parametrize("recall", [False, True])
@pytest.mark.parametrize("reader", [LSTM, MANN])
def test_a_query_is_the_next_presentation(reader, recall):
    algorithm = reader(LINE, mlp, recall=recall).double().eval()
    tasks = regression()
    support, query = algorithm.embed_both(tasks)
    answers = algorithm.answer(algorithm.read(support, tasks.support.y), query)
    for q in range(5):
        features = torch.cat([support, query[:, q : q + 1]], 1)
        labels = torch.cat([tasks.support.y, torch.full((3, 1, 1), 9.0)], 1)  # its own label comes too late
        torch.testing.assert_close(answers[:, q], algorithm.stream(features, labels)[:, -1])


def test_what_comes_later_changes_nothing_before():
    algorithm = MANN(LINE, mlp).double()
    features, labels = torch.randn(2, 6, algorithm.features).double(), torch.randn(2, 6, 1).double()
    before = algorithm.stream(features, labels)
    features[:, 4:] += 1
    labels[:, 3:] += 1  # seen from presentation 4 on
    torch.testing.assert_close(algorithm.stream(features, labels)[:, :4], before[:, :4])


def test_accuracy_by_presentation(monkeypatch):
    algorithm = LSTM(PICTURES, conv).double().eval()
    tasks = images(tasks=2, ways=3, shots=1, queries=2)
    guesses, given = torch.randint(3, (2, 9)), []

    def stream(features, labels):
        given.append(labels.argmax(-1))
        return F.one_hot(guesses, 3).double()

    monkeypatch.setattr(algorithm, "stream", stream)
    found = algorithm.probe(tasks)["by_presentation"]
    assert found.shape == (2, 3)
    for t in range(2):
        seen, right = [0, 0, 0], [0, 0, 0]
        for label, guess in zip(given[0][t].tolist(), guesses[t].tolist(), strict=True):
            right[seen[label]] += guess == label
            seen[label] += 1
        assert seen == [3, 3, 3]
        assert found[t].tolist() == pytest.approx([r / 3 for r in right])


def test_accuracy_by_presentation_under_support_is_by_the_statistics_of_the_support_set(monkeypatch):
    algorithm = LSTM(PICTURES, conv, batch_norm="support").double().eval()
    tasks, given = images(tasks=2, ways=3, shots=1, queries=2), []

    def stream(features, labels):
        given.append(features)
        return labels

    monkeypatch.setattr(algorithm, "stream", stream)
    algorithm.probe(tasks)
    support, query = algorithm.embed_both(tasks)
    for shown, expected in zip(given[0], torch.cat([support, query], 1), strict=True):
        assert sorted(shown[:, 0].tolist()) == pytest.approx(sorted(expected[:, 0].tolist()))


def test_accuracy_by_presentation_of_a_task_that_is_not_finite(monkeypatch):
    algorithm = LSTM(PICTURES, conv).double().eval()
    logits = torch.zeros(2, 9, 3)
    logits[1, 4, 2] = torch.nan
    monkeypatch.setattr(algorithm, "stream", lambda features, labels: logits)
    found = algorithm.probe(images(tasks=2, ways=3, shots=1, queries=2))["by_presentation"]
    assert found[0].isfinite().all()
    assert found[1].isnan().all()
