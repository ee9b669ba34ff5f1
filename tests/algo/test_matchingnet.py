"""Matching networks against plain loops over tasks and examples."""

import pytest
import torch
from reference import assert_gradients, copies, lstm_cell, part, plain_conv4, plain_loss
from small import PICTURES, conv, images
from torch.nn import functional as F

from metarun.algo.matchingnet import MatchingNet


def read_support(weights, keys):
    """Both directions of the LSTM over the support set, added to the embeddings."""
    out = keys
    for suffix, order in (("_l0", range(len(keys))), ("_l0_reverse", reversed(range(len(keys))))):
        of = {name.removesuffix(suffix): w for name, w in weights.items() if name.endswith(suffix)}
        hidden = cell = torch.zeros_like(keys[0])
        heard = {}
        for i in order:
            hidden, cell = lstm_cell(of, keys[i], hidden, cell)
            heard[i] = hidden
        out = out + torch.stack([heard[i] for i in range(len(keys))])
    return out


def attend(weights, query, keys, reads):
    out, cell, read = query, torch.zeros_like(query), keys.mean(0)
    for _ in range(reads):
        hidden, cell = lstm_cell(weights, torch.cat([query, read]), out, cell)
        out = hidden + query
        attention = torch.softmax(torch.stack([out @ key for key in keys]), 0)
        read = sum(a * key for a, key in zip(attention, keys, strict=True))
    return out


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("batch_norm", ["transductive", "support"])
def test_gradients(context, batch_norm):
    algorithm = MatchingNet(PICTURES, conv, context=context, read_steps=2, sharpness=3.0, batch_norm=batch_norm).double()
    tasks = images(tasks=2)
    leaves = copies(algorithm)
    body = part(leaves, "network.")
    loss = torch.zeros((), dtype=torch.float64)
    for t in range(len(tasks)):
        keys, moments = plain_conv4(body, tasks.support.x[t])
        queries, _ = plain_conv4(body, tasks.query.x[t], moments if batch_norm == "support" else None)
        if context:
            keys = read_support(part(leaves, "of_support."), keys)
            queries = torch.stack([attend(part(leaves, "of_query."), query, keys, 2) for query in queries])
        rows = []
        for query in queries:
            attention = torch.softmax(3.0 * torch.stack([F.cosine_similarity(query, key, dim=0) for key in keys]), 0)
            rows.append(torch.stack([attention[tasks.support.y[t] == c].sum() for c in range(3)]).log())
        loss = loss + plain_loss(torch.stack(rows), tasks.query.y[t]) / len(tasks)
    assert_gradients(algorithm, tasks, loss, leaves)


def test_queries_do_not_see_each_other():
    algorithm = MatchingNet(PICTURES, conv, context=True, batch_norm="running").double()
    algorithm.backward(images())
    algorithm.eval()
    tasks = images()
    with torch.no_grad():
        state = algorithm.adapt(tasks.support)
        torch.testing.assert_close(algorithm.predict(state, tasks.query.x)[:, 2:3], algorithm.predict(state, tasks.query.x[:, 2:3]))
