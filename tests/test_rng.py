"""Draws are pure functions of key and number, uniform, and without replacement where they say so."""

from collections import Counter

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from metarun.rng import bits, choose, derive, normal, uniform

MASK = (1 << 64) - 1


def splitmix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@given(key=st.integers(0, 2**63 - 1), task=st.integers(0, 2**62), lane=st.integers(0, 9))
def test_bits_equal_the_hash_in_unbounded_integers(key, task, lane):
    gamma = 0x9E3779B97F4A7C15
    of_task = splitmix((task * gamma + key - (1 << 62)) & MASK)
    expected = splitmix((of_task + (lane + 1) * gamma) & MASK) >> 33
    assert bits(key, torch.tensor([task]), 10)[0, lane].item() == expected


@given(ids=st.lists(st.integers(0, 10**12), min_size=1, max_size=8), cut=st.integers(0, 8))
def test_a_task_is_the_same_alone_and_in_a_batch(ids, cut):
    together = bits(7, torch.tensor(ids), 5)
    assert all(torch.equal(bits(7, torch.tensor([i]), 5)[0], row) for i, row in zip(ids, together, strict=True))
    assert torch.equal(bits(7, torch.tensor(ids), 3), together[:, :3])


def test_the_first_draws_never_change():
    assert bits(1, torch.arange(2), 2).tolist() == [[1216287341, 1434012306], [1892886502, 1205129362]]
    assert derive(0, "tasks", "train", 0) == 2213108022847474738


def test_uniform_and_normal_have_their_moments():
    u = uniform(3, torch.arange(20000), 10).double()
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 0.002
    assert abs(u.var() - 1 / 12) < 0.001
    z = normal(3, torch.arange(20000), 10).double()
    assert abs(z.mean()) < 0.008
    assert abs(z.std() - 1) < 0.008
    correlation = np.corrcoef(u.numpy().T)
    assert np.abs(correlation - np.eye(10)).max() < 0.03


@given(population=st.integers(1, 40), data=st.data())
def test_choose_gives_different_members(population, data):
    k = data.draw(st.integers(1, population))
    picked = choose(bits(data.draw(st.integers(0, 2**40)), torch.arange(6), k), population)
    assert picked.min() >= 0
    assert picked.max() < population
    assert all(len(set(row)) == k for row in picked.tolist())


def test_every_ordered_sample_is_equally_likely():
    drawn = choose(bits(5, torch.arange(60000), 3), 4)
    counts = Counter(map(tuple, drawn.tolist()))
    assert len(counts) == 24
    assert max(abs(n - 2500) for n in counts.values()) < 5 * 2500**0.5


def test_choose_takes_a_population_a_row():
    picked = choose(bits(5, torch.arange(2000), 2), torch.tensor([2, 9]).repeat(1000))
    assert picked[::2].max() == 1
    assert picked[1::2].max() == 8
