"""How well task vectors predict the tasks' true parameters. Imports no torch."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

COMPONENTS = (2, 4, 8, 16)
"""Numbers of leading principal components used to predict a parameter."""


def principal_components(vectors: Numbers) -> Numbers:
    """Projection of (tasks, size) vectors onto their principal directions, in order of decreasing variance."""
    centred = vectors - vectors.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    projected: Numbers = centred @ directions.T
    return projected


def recovered(vectors: Numbers, parameters: Mapping[str, Numbers]) -> list[dict[str, float]]:
    """R² of a linear regression of each parameter on the leading components, for each number of components in `COMPONENTS`.

    A phase is represented by its sine and cosine. The regression is fitted on the even tasks and scored on the odd ones; numbers of
    components that need more tasks than there are are left out.
    """
    targets: dict[str, Numbers] = {}
    for name, values in parameters.items():
        targets |= {"sin phase": np.sin(values), "cos phase": np.cos(values)} if name == "phase" else {name: values}
    components, rows = principal_components(vectors), []
    for count in (n for n in COMPONENTS if n <= vectors.shape[1] and 4 * n <= len(vectors)):
        inputs = np.column_stack([components[:, :count], np.ones(len(vectors))])
        row: dict[str, float] = {"components": count}
        for name, values in targets.items():
            weights, *_ = np.linalg.lstsq(inputs[::2], values[::2], rcond=None)
            error = values[1::2] - inputs[1::2] @ weights
            row[name] = float(1 - np.mean(error**2) / np.var(values[1::2]))
        rows.append(row)
    return rows
