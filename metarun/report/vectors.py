"""What task vectors tell of the tasks' true parameters. Imports no torch."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

COMPONENTS = (2, 4, 8, 16)
"""Of how many first principal components a parameter is regressed on."""


def principal_components(vectors: Numbers) -> Numbers:
    """(tasks, size) → as many, along the directions of most variance, most first."""
    centred = vectors - vectors.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    projected: Numbers = centred @ directions.T
    return projected


def recovered(vectors: Numbers, parameters: Mapping[str, Numbers]) -> list[dict[str, float]]:
    """R² of a linear regression of each parameter on the first components, for several numbers of them.

    A phase is regressed by its sine and cosine. The regression is made on the even tasks and scored on the odd ones. Nothing where
    there are too few tasks for it.
    """
    targets: dict[str, Numbers] = {}
    for name, values in parameters.items():
        targets |= {"sin phase": np.sin(values), "cos phase": np.cos(values)} if name == "phase" else {name: values}
    components, found = principal_components(vectors), []
    for count in (n for n in COMPONENTS if n <= vectors.shape[1] and 4 * n <= len(vectors)):
        inputs = np.column_stack([components[:, :count], np.ones(len(vectors))])
        row: dict[str, float] = {"components": count}
        for name, values in targets.items():
            weights, *_ = np.linalg.lstsq(inputs[::2], values[::2], rcond=None)
            error = values[1::2] - inputs[1::2] @ weights
            row[name] = float(1 - np.mean(error**2) / np.var(values[1::2]))
        found.append(row)
    return found
