"""The outer loop, tests and checkpoints."""
