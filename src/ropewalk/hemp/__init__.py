"""hemp, the bundled model: a small RoPE transformer of our own with a window of 512, trained by this project."""

from ropewalk.hemp.files import folder

__all__ = ["folder"]
