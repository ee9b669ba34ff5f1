"""The networks of `algo=metalearner`, one a file; `stream.py` is what those share that read examples in a row."""
