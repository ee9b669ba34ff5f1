"""Sources of tasks: `source.py` is the interface; then a file a data set."""
