"""Continual learning: `method.py` is the interface, `metrics.py` the figures of merit; then a file a method."""
