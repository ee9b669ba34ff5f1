"""FC100: CIFAR-100 split into 60 / 20 / 20 classes by superclass (Oreshkin et al., NeurIPS 2018). Images: `cifar100.py`."""

from metarun.data.cifarfs import CIFARFS


class FC100(CIFARFS):
    """CIFAR-FS, with the same arguments and the harder split."""

    lists = "fc100"
