"""What is remembered: a fair reservoir, a fixed number a stage, and replay's shares."""

import pytest
import torch
from streams import CPU, learner, method, stream

from metarun.cl.agem import AGEM
from metarun.cl.memory import Memory, in_turn
from metarun.cl.method import reweight
from metarun.episodes import Episodes, Examples


def numbered(first: int, count: int) -> Episodes:
    x = torch.arange(first, first + count, dtype=torch.float32).view(count, 1, 1)
    y = torch.zeros(count, 1, dtype=torch.int64)
    return Episodes(Examples(x[:, :0], y[:, :0], 2), Examples(x, y, 2), {"stage": x[:, 0]})


def test_a_reservoir_keeps_each_with_the_same_probability():
    counts = torch.zeros(60)
    for _ in range(2000):
        memory = Memory()
        for first in range(0, 60, 12):  # 12 at a time: filled within the second batch
            memory.offer(numbered(first, 12), 20)
        kept = memory.stored.query.x.flatten().long()[:20]
        assert len(kept.unique()) == 20
        assert torch.equal(memory.stored.context["stage"].flatten().long()[:20], kept)
        counts[kept] += 1
    assert (counts / 2000 - 1 / 3).abs().max() < 0.05  # nearly five standard deviations


def test_a_memory_comes_back_from_its_state():
    memory = Memory()
    memory.offer(numbered(0, 5), 8)
    other = Memory()
    other.load_state_dict(memory.state_dict(), CPU)
    for m in (memory, other):
        torch.manual_seed(5)
        m.offer(numbered(5, 30), 8)
    assert torch.equal(memory.stored.query.x[:8], other.stored.query.x[:8])
    assert other.stored.query.ways == 2
    assert len(memory) == 8
    assert set(memory.draw(50).query.x.flatten().tolist()) <= set(memory.stored.query.x.flatten().tolist())


def test_a_fixed_number_of_each_stage():
    memory = Memory()
    for stage in stream("class").stages(CPU):
        memory.add_some(stage, 9)
    labels = memory.stored.query.y.flatten()
    assert [int(((labels == 2 * s) | (labels == 2 * s + 1)).sum()) for s in range(3)] == [9, 9, 9]
    memory.add_some(stream("class").stages(CPU)[0], 1000)
    assert len(memory) == 27 + 40


def test_of_each_class_as_many_are_kept():
    y = torch.tensor([7] * 50 + [2] * 10 + [5] * 40)[torch.randperm(100)]
    for count, expected in {9: [3, 3, 3], 10: [4, 3, 3], 30: [10, 10, 10], 50: [10, 20, 20], 100: [10, 40, 50]}.items():
        kept = in_turn(y)[:count]
        assert len(kept.unique()) == count
        found = torch.stack([(y[kept] == label).sum() for label in (2, 5, 7)]).tolist()
        assert found == expected
    assert not torch.equal(in_turn(y), in_turn(y))
    drawn = torch.zeros(100)
    for _ in range(2000):
        drawn[in_turn(y)[:9]] += 1
    for label, size in {2: 10, 5: 40, 7: 50}.items():  # five standard deviations
        assert (drawn[y == label] / 2000 - 3 / size).abs().max() < 5 * (3 / size / 2000) ** 0.5


def test_the_memory_of_a_stage_is_balanced():
    memory = Memory()
    for stage in stream("class").stages(CPU):
        memory.add_some(stage, 8)
    assert memory.stored.query.y.flatten().bincount().tolist() == [4] * 6


@pytest.mark.parametrize(("keys", "old", "share"), [((), 8, 2 / 3), (("cl.draw=4", "cl.share=0.25"), 4, 0.25)])
def test_replay_weighs_old_and_new(keys, old, share):
    data = stream("class")
    replay = method("replay", *keys)
    replay.on_start(learner(data), data.stages(CPU))
    replay.on_stage_end(learner(data), data.stages(CPU)[0])
    replay.enter(2)
    new = data.stages(CPU)[2].train.sample(torch.arange(8))
    mixed = replay.mix(new)
    assert len(mixed) == 8 + old
    weight = mixed.context["weight"]
    assert float(weight.mean()) == pytest.approx(1.0)
    assert float(weight[8:].sum() / weight.sum()) == pytest.approx(share)
    algorithm = learner(data)
    algorithm.backward(mixed)
    found = algorithm.network.layers[0].weight.grad.clone()
    algorithm.zero_grad()
    loss = (1 - share) * algorithm.losses(mixed.pick(slice(8))).mean() + share * algorithm.losses(mixed.pick(slice(8, None))).mean()
    loss.backward()
    torch.testing.assert_close(found, algorithm.network.layers[0].weight.grad)


def test_replay_keeps_the_weight_that_another_method_gave_new_tasks():
    data = stream("class")
    replay = method("replay", "cl.share=0.25")
    replay.on_start(learner(data), data.stages(CPU))
    replay.on_stage_end(learner(data), data.stages(CPU)[0])
    replay.enter(1)
    new = data.stages(CPU)[1].train.sample(torch.arange(4))
    weight = replay.mix(reweight(new, 0.5)).context["weight"]
    torch.testing.assert_close(weight, torch.tensor([0.75] * 4 + [0.5] * 4))


def test_agem_takes_out_what_points_against_the_memory():
    data = stream("class")
    stages = data.stages(CPU)
    algorithm, agem = learner(data), AGEM(size=40)
    agem.on_start(algorithm, stages)
    agem.on_stage_end(algorithm, stages[0])
    episodes = agem.mix(stages[1].train.sample(torch.arange(32)))

    def flat():
        return torch.cat([w.grad.flatten() for w in algorithm.parameters()]).clone()

    algorithm.backward(episodes)
    for sign in (1.0, -1.0):
        algorithm.zero_grad()
        algorithm.backward(episodes)
        for w in algorithm.parameters():
            w.grad *= sign
        own = flat()
        torch.manual_seed(0)
        agem.project(algorithm)
        found = flat()
        torch.manual_seed(0)
        algorithm.zero_grad()
        algorithm.backward(agem.memory.draw(32))
        old = flat()
        if own @ old >= 0:
            assert torch.equal(found, own)
        else:
            assert float((found @ old) / old.norm() / found.norm()) == pytest.approx(0.0, abs=1e-5)
            torch.testing.assert_close(found, own - (own @ old) / (old @ old) * old)
