"""Sphinx: MyST Markdown, the furo theme, nothing fetched from outside."""

from ropewalk import __version__

project = "Ropewalk"
author = "The Ropewalk developers"
release = __version__
extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"Ropewalk {release}"
exclude_patterns = ["_build"]
