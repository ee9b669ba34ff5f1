"""FC100: CIFAR-100 with 60 / 20 / 20 classes, splits sharing no superclass (Oreshkin et al., NeurIPS 2018); see `cifar100.py`."""

from metarun.data.cifarfs import CIFARFS


class FC100(CIFARFS):
    """As CIFAR-FS, whose arguments it has, with the harder split."""

    lists = "fc100"
