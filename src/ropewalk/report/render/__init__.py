"""Renderers: matplotlib for files, plotly for pages. Both draw any `Figure` and know nothing of what it shows."""
