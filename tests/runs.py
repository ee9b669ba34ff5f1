"""Small runs in this process."""

from pathlib import Path

import torch
from hydra import compose, initialize_config_dir

from metarun.config import CONFIGS
from metarun.run import run
from metarun.tracking import RunFolder

SMALL = (
    *("model.widths=[8,8]", "trainer.iterations=40", "trainer.validate_every=20", "trainer.val_tasks=10", "trainer.test_tasks=20"),
    *("trainer.log_every=10", "trainer.figures=false", "trainer.tensorboard=false", "trainer.device=cpu", "trainer.threads=1"),
)


def run_in(path: Path, *overrides: str, algo: str = "maml", data: str = "sine", cl: str = "none"):
    """What the command line does with `algo=maml data=sine` and ``overrides`` → what results.json says."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        config = compose("config", [f"algo={algo}", f"data={data}", f"cl={cl}", *SMALL, *overrides])
    return run(config, {"algo": algo, "data": data, "cl": cl, "model": "mlp"}, path)


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Those in the last checkpoint of a run."""
    return torch.load(RunFolder(path).last, weights_only=True)["algorithm"]


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """To the bit."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
