"""Figures of merit of a learner on a stream, from the matrix R.

R has a row for each point in time, beginning with the untrained learner, and a column for each stage: ``R[i, j]`` is the score on
stage j + 1 after training on the first i stages, also for future stages. Formulas after Lopez-Paz and Ranzato (GEM, NeurIPS 2017)
and Chaudhry et al. (ECCV 2018). If R has losses their sign is reversed, so that in any case higher is better in ``acc``, ``aia``,
``bwt`` and ``fwt``, and lower is better in ``forgetting`` and ``intransigence``.
"""

import numpy as np
from numpy.typing import NDArray


def stream_metrics(
    R: NDArray[np.float64], *, higher_is_better: bool, reference: NDArray[np.float64] | None = None
) -> dict[str, float | None]:
    """The figures of merit of R (stages + 1, stages); None where a stream has too few stages.

    For a stream without boundaries R has two rows, before and after training, and all but ``acc`` are None.

    - acc: mean of the last row.
    - aia: average incremental accuracy, the mean over time of the mean over the stages seen so far.
    - bwt: backward transfer, the last row minus each stage's score just after it was learned, without the last stage.
    - fwt: forward transfer, each stage's score just before it is learned minus that of the untrained learner, without the first.
    - forgetting: the best score on a stage from when it was learned to the last row but one, minus the last row (Chaudhry et al.).
    - intransigence: ``reference`` minus the score just after learning, mean over stages. ``reference`` (stages,) has the score on
      each stage of a learner trained jointly on all stages up to it.
    """
    sign = 1.0 if higher_is_better else -1.0
    R = sign * np.asarray(R, dtype=np.float64)
    n = R.shape[1]
    if R.shape[0] == 2 and n > 1:
        return {"acc": float(R[1].mean()), **dict.fromkeys(("aia", "bwt", "fwt", "forgetting", "intransigence"))}
    if R.shape[0] != n + 1:
        raise ValueError(f"expected R to have {n + 1} rows for its {n} columns, found {R.shape[0]}")
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
