"""What a forward pass depends on besides its arguments is set for the length of a block, whatever ends it."""

from contextlib import suppress

import torch
from small import mlp

from metarun.model.context import current_norm, normalising, recorded, replaced, replacements
from metarun.model.norm import Norm


class Stop(Exception):
    pass


def test_weights_are_replaced_in_one_network_until_the_block_ends():
    one, other = mlp(1), mlp(1)
    own, zeros, ones = one.layers[0].bias, torch.zeros(7), torch.ones(7)
    with suppress(Stop), replaced(one, {"layers.0.bias": zeros}):
        assert one.weights()["layers.0.bias"] is zeros
        assert one.weights()["layers.0.weight"] is one.layers[0].weight
        assert other.weights()["layers.0.bias"] is other.layers[0].bias
        with replaced(one, {"layers.0.bias": ones}):
            assert one.weights()["layers.0.bias"] is ones
        assert one.weights()["layers.0.bias"] is zeros
        raise Stop
    assert one.weights()["layers.0.bias"] is own
    assert not replacements(one)


def test_calls_are_recorded_by_the_innermost_block():
    network, x = mlp(1), torch.zeros(2, 3, 1)
    with recorded() as outer:
        network(network.weights(), x)
        with suppress(Stop), recorded() as inner:
            network(network.weights(), x)
            network(network.weights(), x)
            raise Stop
        network(network.weights(), x)
    network(network.weights(), x)
    assert (len(outer), len(inner)) == (6, 6)
    assert outer[0].weight is network.layers[0].weight


def test_a_norm_is_that_of_the_innermost_pass():
    one, other = Norm(), Norm()
    with normalising(one):
        with suppress(Stop), normalising(other):
            assert current_norm() is other
            raise Stop
        assert current_norm() is one
