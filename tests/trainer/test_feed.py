"""The tasks of each update, and which of them a process samples."""

import pytest
import torch
from shared_out import made

from metarun.cl.method import ContinualMethod
from metarun.config import ConfigError
from metarun.data.source import TaskSource
from metarun.episodes import Episodes, Examples
from metarun.ranks import ALONE, Ranks
from metarun.trainer import feed
from metarun.trainer.feed import Feed
from metarun.trainer.settings import Settings
from metarun.trainer.sharding import Sharding


class Numbered(TaskSource):
    """Tasks whose only input is their number; notes what is asked for."""

    count = None

    def __init__(self):
        self.asked = []

    def sample(self, ids):
        self.asked.append(ids.tolist())
        x = ids.float().view(-1, 1, 1)
        return Episodes(Examples(x[:, :0], x[:, :0]), Examples(x, x))


class Seeing(ContinualMethod):
    sees_tasks = True


def sharding(*, tasks=4, method=None, ranks=ALONE, **keys):
    settings = Settings(0, iterations=1, tasks=tasks, optimizer={}, **keys)
    return Sharding(made("maml", "sine")[1], method or ContinualMethod(), settings, ranks)


def numbers(episodes):
    return episodes.query.x.flatten().int().tolist()


def test_updates_take_the_tasks_in_order(monkeypatch):
    """However many are sampled at once, and wherever it begins."""
    monkeypatch.setattr(feed, "SAMPLED_VALUES", 13)  # three updates of four values
    source = Numbered()
    batches = Feed(4, sharding(), source.sample(torch.arange(1))).batches(source, 2, 7)
    assert [numbers(episodes) for episodes in batches] == [list(range(4 * i, 4 * i + 4)) for i in range(2, 7)]
    assert source.asked[1:] == [list(range(8, 20)), list(range(20, 28))]


def test_as_many_are_sampled_at_once_as_fit():
    one = Numbered().sample(torch.arange(1))
    assert Feed(4, sharding(), one).ahead == feed.MOST_UPDATES == 64
    assert Feed(1024, sharding(tasks=1024), one).ahead == 64
    assert Feed(2048, sharding(tasks=2048), one).ahead == 32
    assert Feed(2**20, sharding(tasks=2**20), one).ahead == 1
    assert Feed(2**14, sharding(), Episodes(Examples(torch.zeros(1, 3, 1), torch.zeros(1, 3, 1)), one.query)).ahead == 1


def test_nothing_is_sampled_before_it_is_asked_for():
    source = Numbered()
    batches = Feed(4, sharding(), source.sample(torch.arange(1))).batches(source, 0, 100)
    assert len(source.asked) == 1
    next(batches)
    assert len(source.asked) == 2
    assert list(Feed(4, sharding(), source.sample(torch.arange(1))).batches(source, 5, 5)) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_samples_its_own_shard(rank):
    source, of = Numbered(), sharding(tasks=5, ranks=Ranks(rank, 2))
    episodes = next(Feed(5, of, source.sample(torch.arange(1))).batches(source, 1, 2))
    assert numbers(episodes) == ([5, 6], [7, 8, 9])[rank]
    own, share = of.own(episodes)
    assert own is episodes
    assert share == (0.4, 0.6)[rank]


@pytest.mark.parametrize("keys", [{"method": Seeing()}, {"switch": 0.1, "detect": 2.0}])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_samples_all_tasks_where_they_are_seen_and_learns_from_its_own(keys, rank):
    source, of = Numbered(), sharding(tasks=5, ranks=Ranks(rank, 2), **keys)
    episodes = next(Feed(5, of, source.sample(torch.arange(1))).batches(source, 1, 2))
    assert numbers(episodes) == [5, 6, 7, 8, 9]
    own, share = of.own(episodes)
    assert numbers(own) == ([5, 6], [7, 8, 9])[rank]
    assert share == (0.4, 0.6)[rank]
    with pytest.raises(ConfigError, match=r"^cl\.draw=1: expected 2 or more, one for each of torchrun's processes$"):
        of.own(source.sample(torch.arange(1)))


def test_a_single_process_has_everything():
    episodes = Numbered().sample(torch.arange(3))
    assert sharding(method=Seeing()).own(episodes) == (episodes, 1.0)
    assert sharding(tasks=3).own(episodes) == (episodes, 1.0)


def test_a_learner_whose_tasks_cannot_be_divided_is_refused(monkeypatch):
    _, algorithm = made("maml", "sine")
    monkeypatch.setattr(type(algorithm), "why_not_sharded", "it is whole")
    settings = Settings(0, iterations=1, tasks=4, optimizer={})
    with pytest.raises(ConfigError, match=r"^it is whole; start one process, without torchrun$"):
        Sharding(algorithm, ContinualMethod(), settings, Ranks(0, 2))
    assert Sharding(algorithm, ContinualMethod(), settings, ALONE).samples_shard
    monkeypatch.setattr(algorithm, "trains", False)
    assert Sharding(algorithm, ContinualMethod(), settings, Ranks(0, 2)).samples_shard
    assert Sharding(algorithm, ContinualMethod(), settings, Ranks(3, 4)).samples_shard  # a task each
    with pytest.raises(ConfigError, match=r"^trainer\.tasks=4: expected 5 or more, one for each of torchrun's processes$"):
        Sharding(algorithm, ContinualMethod(), settings, Ranks(0, 5))
