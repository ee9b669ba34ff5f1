"""Summaries and figures from run directories alone; nothing here imports torch."""
