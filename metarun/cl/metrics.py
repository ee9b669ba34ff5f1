"""Figures of merit of a learner on a stream, from the matrix R.

R has a row for each point in time, the untrained learner's first, and a column for each stage: ``R[i, j]`` is the score on stage
j + 1 after training on the first i stages, future stages included. Formulas after Lopez-Paz and Ranzato (GEM, NeurIPS 2017) and
Chaudhry et al. (ECCV 2018). With losses in R the sign is turned, so that higher is better in ``acc``, ``aia``, ``bwt`` and ``fwt``
and lower is better in ``forgetting`` and ``intransigence`` either way.
"""

import numpy as np
from numpy.typing import NDArray


def stream_metrics(
    R: NDArray[np.float64], *, higher_is_better: bool, reference: NDArray[np.float64] | None = None
) -> dict[str, float | None]:
    """The figures that follow from R (stages + 1, stages); null where a stream is too short for one.

    Of a stream without boundaries R has two rows, the untrained learner's and the last, and all but ``acc`` are null.

    - acc: mean of the last row.
    - aia: average incremental accuracy, the mean over time of the mean over the stages seen so far.
    - bwt: backward transfer, the last row minus each stage's score when it had just been learned, without the last stage.
    - fwt: forward transfer, a stage's score just before it is learned minus the untrained learner's, without the first stage.
    - forgetting: the best score since a stage was learned, the last row left out, minus that of the last row (Chaudhry).
    - intransigence: ``reference`` minus the score when just learned, mean over stages. ``reference`` (stages,) holds for each
      stage the score of a learner trained jointly on all stages up to it.
    """
    sign = 1.0 if higher_is_better else -1.0
    R = sign * np.asarray(R, dtype=np.float64)
    n = R.shape[1]
    if R.shape[0] == 2 and n > 1:
        return {"acc": float(R[1].mean()), **dict.fromkeys(("aia", "bwt", "fwt", "forgetting", "intransigence"))}
    if R.shape[0] != n + 1:
        raise ValueError(f"R has {R.shape[0]} rows, expected one more than its {n} columns")
    learned = np.array([R[j + 1, j] for j in range(n)])
    best = np.array([R[j + 1 : n, j].max() for j in range(n - 1)])
    return {
        "acc": float(R[n].mean()),
        "aia": float(np.mean([R[i, :i].mean() for i in range(1, n + 1)])),
        "bwt": float((R[n, :-1] - learned[:-1]).mean()) if n > 1 else None,
        "fwt": float(np.mean([R[j, j] - R[0, j] for j in range(1, n)])) if n > 1 else None,
        "forgetting": float((best - R[n, :-1]).mean()) if n > 1 else None,
        "intransigence": None if reference is None else float((sign * np.asarray(reference) - learned).mean()),
    }
