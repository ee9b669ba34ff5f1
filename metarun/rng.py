"""Stateless random numbers: functions of a seed and names on the host, and of a key and a task number on the device.

Draw ``j`` of task ``i`` is a hash of ``(key, i, j)`` in 64-bit integer arithmetic, so it is bit-identical for a single task, in any
batch or chunk and on any device. The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom
number generators", OOPSLA 2014), which wraps around on overflow as int64 tensors do.
"""

import hashlib

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the random stream identified by ``names``, derived from the run's ``seed``."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def _shift(z: Tensor, by: int) -> Tensor:
    """Logical right shift, which treats the sign bit as data."""
    return (z >> by).bitwise_and_((1 << (64 - by)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = _shift(z, 30).bitwise_xor_(z).mul_(_MIX_1)
    z = _shift(z, 27).bitwise_xor_(z).mul_(_MIX_2)
    return _shift(z, 31).bitwise_xor_(z)


def bits(key: int, ids: Tensor, n: int) -> Tensor:
    """``n`` draws for each task: ``ids`` (T,) int64 → (T, n) int64 in [0, 2**31)."""
    lane = torch.arange(1, n + 1, device=ids.device) * _GAMMA
    of_task = _mix(ids.to(torch.int64) * _GAMMA + (key - (1 << 62)))
    return _shift(_mix(of_task.unsqueeze(1) + lane), 33)


def uniform(key: int, ids: Tensor, n: int) -> Tensor:
    """(T, n) float32 in [0, 1): multiples of 2**-24, exact on every device."""
    return (bits(key, ids, n) >> 7).to(torch.float32) * 2.0**-24


def normal(key: int, ids: Tensor, n: int) -> Tensor:
    """(T, n) float32 standard normal, by the Box–Muller transform."""
    u = uniform(key, ids, 2 * n)
    radius = (-2 * torch.log1p(-u[:, :n])).sqrt()
    return radius * (2 * torch.pi * u[:, n:]).cos()


def choose(draws: Tensor, population: int | Tensor) -> Tensor:
    """Sample without replacement, in random order.

    ``draws`` (…, k) from :func:`bits` become k different numbers in [0, population), every ordered sample equally likely (up to
    a bias below population / 2**31). ``population`` ≥ k is an int or a tensor that broadcasts against ``draws[..., 0]``.
    """
    k = draws.shape[-1]
    if isinstance(population, Tensor):
        population = population.unsqueeze(-1)
    # A Lehmer code: draw j is an index among the population - j elements left. Decoding goes backwards; an earlier choice
    # increments later ones that are not below it.
    picked = (draws * (population - torch.arange(k, device=draws.device))) >> 31
    for j in range(k - 2, -1, -1):
        picked[..., j + 1 :] += picked[..., j + 1 :] >= picked[..., j : j + 1]
    return picked
