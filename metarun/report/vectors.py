"""What task vectors tell of the tasks' true parameters. Imports no torch."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

COMPONENTS = 8
"""Principal components that parameters are regressed on."""


def principal_components(vectors: Numbers) -> Numbers:
    """(tasks, size) → as many, along the directions of most variance, most first."""
    centred = vectors - vectors.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    projected: Numbers = centred @ directions.T
    return projected


def recovered(vectors: Numbers, parameters: Mapping[str, Numbers]) -> dict[str, Any]:
    """R² of a linear regression of each parameter on the first components; a phase by its sine and cosine.

    The regression is made on the even tasks and scored on the odd ones.
    """
    first = principal_components(vectors)[:, :COMPONENTS]
    inputs = np.column_stack([first, np.ones(len(first))])
    targets: dict[str, Numbers] = {}
    for name, values in parameters.items():
        targets |= {"sin phase": np.sin(values), "cos phase": np.cos(values)} if name == "phase" else {name: values}
    r2 = {}
    for name, values in targets.items():
        weights, *_ = np.linalg.lstsq(inputs[::2], values[::2], rcond=None)
        error = values[1::2] - inputs[1::2] @ weights
        r2[name] = float(1 - np.mean(error**2) / np.var(values[1::2]))
    return {"components": first.shape[1], "r2": r2}
