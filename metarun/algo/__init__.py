"""Learners, a file a family.

`algorithm.py` is the interface of all. `gradient_learner.py` is what learners share that take gradient steps on a support set,
with `inner_loop.py` and `rules.py`; `pooled.py`, `metric_space.py` and `by_length.py` are shared by others.
"""
