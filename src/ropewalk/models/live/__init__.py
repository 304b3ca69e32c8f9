"""Rotary modules of a loaded model: found, written, read back, restored."""
