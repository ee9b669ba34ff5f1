"""Searching for values of configuration keys, on validation."""
