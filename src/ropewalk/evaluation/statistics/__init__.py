"""Intervals and tests over documents; nothing of a model in it."""
