"""Every algorithm through the same trainer: it trains, is tested, and resumes to the same bytes after a stop anywhere."""

import pytest
from runs import assert_same, trained, weights

from metarun.algo.algorithm import Algorithm
from metarun.config import CONFIGS, ConfigError
from metarun.signals import Interrupted

ALGORITHMS = sorted(path.stem for path in (CONFIGS / "algo").glob("*.yaml"))
NETWORKS = [f"metalearner algo.network={name}" for name in ("lstm", "mann", "snail", "hypernet")]  # the default is cnp
EMBEDDINGS = ["algo.encoder=similarity algo.condition=gates", "algo.encoder=features algo.outer=reptile"]
VARIANTS = [*NETWORKS, *(f"taskembed {keys}" for keys in EMBEDDINGS)]
CLASSIFIERS = {"protonet", "matchingnet", "relationnet"}
SHORT = ["trainer.iterations=6", "trainer.validate_every=2", "trainer.val_tasks=2", "trainer.test_tasks=3", "trainer.tasks=2"]
PLAIN = ["trainer.figures=false", "trainer.tensorboard=false", "trainer.checkpoint_every=0", "trainer.threads=1"]


def start(path, *overrides):
    return trained(path, *SHORT, *PLAIN, *overrides)


def stop_after(monkeypatch, updates):
    """Let a signal arrive in the middle of an update."""
    made = set()  # by the progress that the trainer tells: a method may call the one it overrides
    for kind in {Algorithm, *subclasses(Algorithm)}:
        if "backward" in vars(kind):

            def stopping(self, episodes, *chunk, own=kind.backward):
                made.add(self.progress)
                if len(made) > updates:
                    raise Interrupted(15, "stopped")
                return own(self, episodes, *chunk)

            monkeypatch.setattr(kind, "backward", stopping)


def subclasses(kind):
    return {kind, *(below for child in kind.__subclasses__() for below in subclasses(child))}


@pytest.mark.parametrize("algo", [*(a for a in ALGORITHMS if a not in CLASSIFIERS), *VARIANTS, "taskembed algo.adapt=nearest"])
def test_on_curves(algo, tmp_path, monkeypatch):
    keys = [*f"algo={algo}".split(), "data=sine"]
    whole = start(tmp_path / "whole", *keys)
    assert whole["status"] == "finished"
    assert whole["test"]["mse"]["n_tasks"] == 3
    if not whole["train"]["iterations"]:
        return
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Interrupted):
            start(tmp_path / "stopped", *keys)
    again = start(tmp_path / "stopped", *keys)
    assert again["train"]["resumed_at"] == [3]
    assert again["test"] == whole["test"]
    assert_same(weights(tmp_path / "stopped"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("algo", [*(a for a in ALGORITHMS if a not in {"oracle", "supervised"}), *VARIANTS])
def test_on_images(algo, tmp_path, data_root):
    small = ["trainer.iterations=2", "trainer.tasks=2", "model.filters=4", "trainer.test_tasks=2", "trainer.val_tasks=1"]
    found = start(tmp_path, *f"algo={algo}".split(), "data=omniglot", *small, "data.queries=1", "data.train_ways=null")
    assert found["status"] == "finished"
    assert found["protocol"]["batch_norm"] is not None
    assert 0 <= found["test"]["accuracy"]["mean"] <= 1


@pytest.mark.parametrize(("algo", "data"), [("oracle", "omniglot"), ("protonet", "sine"), ("relationnet", "sine")])
def test_what_does_not_suit_is_refused(algo, data, tmp_path, request):
    if data == "omniglot":
        request.getfixturevalue("data_root")
    with pytest.raises(ConfigError, match=f"but data={data} is"):
        start(tmp_path, f"algo={algo}", f"data={data}")


def test_single_examples_and_tasks_are_told_apart(tmp_path, data_root):
    with pytest.raises(ConfigError, match="MAML learns from support sets, but data=mnist with a scenario gives single examples"):
        start(tmp_path, "algo=maml", "data=split_mnist")
    with pytest.raises(ConfigError, match="data=omniglot: supervised learning needs classes that are the same in every task"):
        start(tmp_path, "algo=supervised", "data=omniglot")
