"""Learners: `algorithm.py` is the interface, `inner_loop.py` the gradient steps that some share; then a file a family."""
