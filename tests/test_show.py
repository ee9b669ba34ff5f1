"""`metarun show`: what is drawn of tasks that are neither images nor curves."""

import numpy as np
import pytest
import torch

from metarun.episodes import Episodes, Examples
from metarun.show import as_images, mosaic


def test_a_vector_is_a_row_of_shades_between_the_extremes():
    shown = as_images(torch.tensor([[-1.0, 0.0, 3.0], [1.0, 1.0, 1.0]]))
    assert shown.tolist() == [[[[0, 0.25, 1]]], [[[0.5, 0.5, 0.5]]]]
    assert as_images(torch.full((2, 3), 4.0)).tolist() == torch.zeros(2, 1, 1, 3).tolist()  # nothing differs


DRAWN = {(4,): (1, 1, 4), (5, 2): (1, 5, 2), (3, 8, 8): (3, 8, 8), (2, 3, 4, 5): (1, 24, 5)}


@pytest.mark.parametrize(("shape", "drawn"), DRAWN.items())
def test_examples_of_any_shape_are_pictures(shape, drawn):
    x = torch.rand(6, *shape)
    shown = as_images(x)
    assert shown.shape == (6, *drawn)
    if len(shape) == 3:
        assert torch.equal(shown, x)


def test_a_task_of_vectors_has_a_row_for_each_class():
    """Two classes, two support examples and a query each, of three features; the gap is one pixel wide."""
    support = Examples(torch.arange(12.0).view(1, 4, 3), torch.tensor([[0, 0, 1, 1]]), 2)
    query = Examples(torch.tensor([[[0.0, 0, 0], [22, 22, 22]]]), torch.tensor([[0, 1]]), 2)
    picture = mosaic(Episodes(support, query))
    assert picture.shape == (2, 6 + 1 + 3, 1)
    np.testing.assert_allclose(picture[0, :, 0] * 22, [0, 1, 2, 3, 4, 5, 11, 0, 0, 0])
    np.testing.assert_allclose(picture[1, :, 0] * 22, [6, 7, 8, 9, 10, 11, 11, 22, 22, 22])
