"""hemp, the bundled model: a small RoPE transformer of our own with a window of 512, trained by this project.

Here is where it lies; how it is made stands in `ropewalk.training.hemp`.
"""

from ropewalk.hemp.files import folder

__all__ = ["folder"]
