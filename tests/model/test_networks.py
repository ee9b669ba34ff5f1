"""Networks batched by hand equal the generic path, in values and in gradients to the second order."""

import pytest
import torch
from small import LINE, PICTURES, conv, images, mlp, regression, resnet
from torch import nn
from torch.nn import functional as F

from metarun.algo.maml import MAML
from metarun.config import ConfigError, RangeError
from metarun.model.conv4 import Conv4
from metarun.model.mlp import MLP
from metarun.model.network import Vectorised, as_network
from metarun.model.norm import Norm


def module_of_mlp(network):
    module = nn.Sequential(nn.Linear(1, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 1)).double()
    names = {f"layers.{i}.{kind}": f"{2 * i}.{kind}" for i in range(3) for kind in ("weight", "bias")}
    return module, names


def module_of_conv(network):
    blocks = [
        layer
        for i in range(4)
        for layer in (nn.Conv2d(1 if i == 0 else 4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    ]
    module = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(4, 3)).double()
    names = {f"convs.{i}.weight": f"{4 * i}.weight" for i in range(4)}
    names |= {f"norms.{i}.{kind}": f"{4 * i + 1}.{kind}" for i in range(4) for kind in ("weight", "bias")}
    return module, names | {"head.weight": "17.weight", "head.bias": "17.bias"}


class Residual(nn.Module):
    """A block as MetaOptNet's code has it, of ordinary modules."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        sizes = ((inputs, 3), (width, 3), (width, 3), (inputs, 1))
        self.convs = nn.ModuleList(nn.Conv2d(i, width, k, padding=k // 2, bias=False) for i, k in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in sizes)

    def forward(self, x):
        out = nn.functional.leaky_relu(self.norms[0](self.convs[0](x)), 0.1)
        out = nn.functional.leaky_relu(self.norms[1](self.convs[1](out)), 0.1)
        out = self.norms[2](self.convs[2](out)) + self.norms[3](self.convs[3](x))
        return nn.functional.max_pool2d(nn.functional.leaky_relu(out, 0.1), 2)


def module_of_resnet(network):
    module = nn.Sequential(Residual(1, 3), Residual(3, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).double()
    names = {
        f"{kind}.{block}_{i}.{of}": f"{block}.{kind}.{i}.{of}"
        for block in range(2)
        for i in range(4)
        for kind, of in (("convs", "weight"), ("norms", "weight"), ("norms", "bias"))
    }
    return module, names | {"head.weight": "4.weight", "head.bias": "4.bias"}


class Standardise(nn.Module):
    def forward(self, x):
        return (x - MEANS.view(-1, 1, 1)) / DEVIATIONS.view(-1, 1, 1)


MEANS, DEVIATIONS = torch.tensor([[0.4], [0.3]], dtype=torch.float64)


def unlike_torch(outputs):
    """Batch norms, activations and inputs as other frameworks and papers have them."""
    return Conv4(
        (1, 16, 16), outputs, filters=4, eps=0.05, slope=0.2, standardise=(tuple(MEANS.tolist()), tuple(DEVIATIONS.tolist()))
    )


def module_of_unlike_torch(network):
    """Pooled after the activation, as in the released code of MAML++."""
    blocks = [
        layer
        for i in range(4)
        for layer in (
            nn.Conv2d(1 if i == 0 else 4, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4, eps=0.05),
            nn.LeakyReLU(0.2),
            nn.MaxPool2d(2),
        )
    ]
    module = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(4, 3)).double()
    module.insert(0, Standardise())
    shifted = {ours: f"{int(theirs.split('.')[0]) + 1}.{theirs.split('.')[1]}" for ours, theirs in module_of_conv(None)[1].items()}
    return module, shifted


CASES = {
    "mlp": (LINE, mlp, module_of_mlp, regression),
    "conv": (PICTURES, conv, module_of_conv, images),
    "unlike torch": (PICTURES, unlike_torch, module_of_unlike_torch, images),
    "resnet": (PICTURES, resnet, module_of_resnet, images),
}


def both(case):
    spec, factory, module_of, episodes = CASES[case]
    network = factory(spec.outputs).double()
    module, names = module_of(network)
    with torch.no_grad():
        for ours, theirs in names.items():
            module.get_parameter(theirs).copy_(network.get_parameter(ours))
    return spec, network, Vectorised(module).double(), names, episodes()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("per_task", [False, True])
def test_by_hand_equals_generic(case, per_task):
    _, network, generic, names, tasks = both(case)
    weights = network.weights()
    if per_task:
        weights = {n: w + 0.1 * torch.randn(3, *w.shape, dtype=w.dtype) for n, w in weights.items()}
    norm, generic_norm = Norm(record="values"), Norm(record="values")
    out = network(weights, tasks.query.x, norm)
    expected = generic({names[n]: w for n, w in weights.items()}, tasks.query.x, generic_norm)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-10)
    for (mean, var), (other_mean, other_var) in zip(norm.seen.values(), generic_norm.seen.values(), strict=True):
        torch.testing.assert_close(mean, other_mean)
        torch.testing.assert_close(var, other_var)
    given = network(weights, tasks.query.x[:, :1], Norm(norm.seen))
    generic_given = generic({names[n]: w for n, w in weights.items()}, tasks.query.x[:, :1], Norm(generic_norm.seen))
    torch.testing.assert_close(given, generic_given, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch_norm", ["transductive", "support", "running"])
def test_second_order_gradients_are_equal(case, batch_norm):
    spec, network, generic, names, tasks = both(case)
    by_hand = MAML(spec, lambda outputs: network, 0.3, inner_steps=2, batch_norm=batch_norm)
    by_vmap = MAML(spec, lambda outputs: generic, 0.3, inner_steps=2, batch_norm=batch_norm)
    by_hand.backward(tasks)
    by_vmap.backward(tasks)
    for ours, theirs in names.items():
        torch.testing.assert_close(
            network.weights()[ours].grad,
            generic.weights()[theirs].grad,
            rtol=1e-8,
            atol=1e-10,
            msg=lambda m, n=ours: f"{n}: {m}",
        )
    for (mean, var), (other_mean, other_var) in zip(
        network.statistics.values().values(), generic.statistics.values().values(), strict=True
    ):
        torch.testing.assert_close(mean, other_mean)
        torch.testing.assert_close(var, other_var)


def test_an_embedding_has_no_head():
    assert conv(None)(conv(None).weights(), torch.rand(2, 3, 1, 16, 16)).shape == (2, 3, 4)
    assert mlp(None)(mlp(None).weights(), torch.rand(2, 3, 1)).shape == (2, 3, 6)


def test_truncated_normal_initialisation():
    network = CASES["mlp"][1](1).__class__((1,), 1, widths=[400, 400], init="truncated_normal", std=0.01)
    weight = network.get_parameter("layers.1.weight")
    assert weight.abs().max() <= 0.02
    assert weight.std().item() == pytest.approx(0.0088, rel=0.02)  # a normal cut at two standard deviations has 0.88 of its own
    assert not network.get_parameter("layers.1.bias").any()


@pytest.mark.parametrize("module", [nn.InstanceNorm2d(3), nn.LSTM(3, 3)])
def test_modules_that_vmap_gets_wrong_are_refused(module):
    with pytest.raises(ConfigError, match=type(module).__name__):
        as_network(nn.Sequential(module))


class Named(nn.Module):
    """Its classifier is not the last layer that is registered."""

    def __init__(self, **attributes) -> None:
        super().__init__()
        self.classifier, self.stem = nn.Linear(4, 3), nn.Linear(1, 4)
        for name, value in attributes.items():
            setattr(self, name, value)


HEADS = {
    "conv4": (lambda: conv(3), {"head.weight", "head.bias"}),
    "resnet12": (lambda: resnet(3), {"head.weight", "head.bias"}),
    "mlp": (lambda: mlp(3), {"layers.2.weight", "layers.2.bias"}),
    "one layer": (lambda: MLP((1,), 3, widths=[]), {"layers.0.weight", "layers.0.bias"}),
    "conv4 embedding": (lambda: conv(None), set()),
    "resnet12 embedding": (lambda: resnet(None), set()),
    "mlp embedding": (lambda: mlp(None), set()),
    "last layer": (lambda: nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 3), nn.Softplus()), {"2.weight", "2.bias"}),
    "last registered": (Named, {"stem.weight", "stem.bias"}),
    "by attribute": (lambda: Named(head="classifier"), {"classifier.weight", "classifier.bias"}),
    "submodule head": (
        lambda: Named(head=nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)), tail=nn.Linear(1, 1)),
        {f"head.{i}.{name}" for i in (0, 1) for name in ("weight", "bias")},
    ),
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_network_names_its_body_and_its_head(kind):
    make, head = HEADS[kind]
    network = as_network(make())
    assert network.parts["head"] == head
    assert network.parts["body"] == set(network.weights()) - head
    assert network.parts["body"] or kind == "one layer"


def test_a_module_without_outputs_has_no_head():
    network = as_network(Named(), head=False)
    assert network.parts == {"body": frozenset(network.weights()), "head": frozenset()}


def test_a_head_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"Named\.head='clasifier' names no submodule; did you mean classifier\?"):
        as_network(Named(head="clasifier"))


def test_something_else_is_refused():
    with pytest.raises(ConfigError, match=r"torch\.nn\.Module, found dict"):
        as_network({})


def test_standardise_inverts_grey_images():
    plain, inverted = (Conv4((1, 16, 16), 3, filters=4, standardise=by) for by in (None, ((1.0,), (-1.0,))))
    inverted.load_state_dict(plain.state_dict())
    x = torch.rand(2, 6, 1, 16, 16)
    torch.testing.assert_close(inverted(inverted.weights(), x), plain(plain.weights(), 1 - x))


def bound(weight):
    """The largest absolute value, which of many uniform draws is all but that of their distribution."""
    return weight.abs().max().item()


def test_initial_weights_are_uniform_within_the_bounds_of_the_papers():
    def made(**keys):
        network = Conv4((1, 16, 16), 100, filters=64, **keys)
        return network.get_parameter("convs.1.weight"), network.get_parameter("head.weight"), network.get_parameter("head.bias")

    inputs, outputs, features = 64 * 9, 64 * 9, 64
    conv, head, bias = made(init="xavier", gain=1.73, head_init="xavier", head_bias=0.05)
    assert bound(conv) == pytest.approx(1.73 * (6 / (inputs + outputs)) ** 0.5, rel=1e-3)
    assert conv.std().item() == pytest.approx(bound(conv) / 3**0.5, rel=0.02)
    assert bound(head) == pytest.approx(1.73 * (6 / (features + 100)) ** 0.5, rel=1e-2)
    assert (bias >= 0).all()
    assert bound(bias) == pytest.approx(0.05, rel=0.1)

    conv, head, bias = made(init="kaiming", head_init="kaiming")
    assert bound(conv) == pytest.approx((6 / inputs) ** 0.5, rel=1e-3)
    assert bound(head) == pytest.approx((3 / features) ** 0.5, rel=1e-2)
    assert not bias.any()


def test_the_defaults_draw_what_they_drew_before():
    torch.manual_seed(0)
    found = Conv4((1, 16, 16), 3, filters=4)
    torch.manual_seed(0)
    convs, head = [nn.Conv2d(1 if i == 0 else 4, 4, 3, padding=1, bias=False) for i in range(4)], nn.Linear(4, 3)
    for i, layer in enumerate(convs):
        assert torch.equal(found.get_parameter(f"convs.{i}.weight"), layer.weight)
    assert torch.equal(found.get_parameter("head.weight"), head.weight)
    x = torch.rand(1, 6, 1, 16, 16)
    out = x[0]
    for layer in convs:
        out = F.max_pool2d(F.batch_norm(layer(out), None, None, training=True).relu(), 2)
    torch.testing.assert_close(found(found.weights(), x)[0], head(out.flatten(1)))


@pytest.mark.parametrize(
    ("key", "keys"),
    {
        "eps": {"eps": 0.0},
        "slope": {"slope": 1.0},
        "standardise": {"standardise": ((0.5, 0.5), (1.0, 1.0))},
        "standardise ": {"standardise": ((0.5,), (0.0,))},
        "gain": {"gain": 2.0},
        "head_init": {"head_init": "xavier", "head_std": 0.1},
        "head_bias": {"head_bias": 0.1},
    }.items(),
)
def test_a_key_out_of_range_is_refused(key, keys):
    with pytest.raises(RangeError, match=key.strip()):
        Conv4((1, 16, 16), 3, **keys)
