"""Batches of tasks, cut up."""

import pytest
import torch
from small import images, regression

from metarun.cl.memory import tensors
from metarun.episodes import Episodes, join


@pytest.mark.parametrize("context", [{}, {"weight": torch.arange(7.0), "active": torch.ones(7, 3, dtype=torch.bool)}])
@pytest.mark.parametrize("draw", [regression, images])
@pytest.mark.parametrize("size", [1, 3, 7, 9, None])
def test_pieces_are_all_tasks_in_their_order(draw, context, size):
    whole = draw(7)
    whole = Episodes(whole.support, whole.query, context)
    pieces = list(whole.split(size))
    assert [len(piece) for piece in pieces] == [len(part) for part in torch.arange(7).split(size or 7)]
    assert all(piece.query.ways == piece.support.ways == whole.query.ways for piece in pieces)
    found, expected = tensors(join(pieces)), tensors(whole)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert pieces[0].query.x.data_ptr() == whole.query.x.data_ptr()  # nothing is copied
