"""Seeing it: figures as data, two renderers, and the self-contained page."""
