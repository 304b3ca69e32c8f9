"""Ropewalk stretches the context window of language models with rotary position embeddings, and proves it.

Names load when first used: importing this package costs nothing.
"""

from importlib import import_module as _import_module
from typing import Any as _Any

from ropewalk._version import __version__

# public name -> (module, name there)
_PUBLIC = {
    "RopewalkError": ("ropewalk.errors", "RopewalkError"),
    "RopeGeometry": ("ropewalk.geometry", "RopeGeometry"),
    "FrequencySchedule": ("ropewalk.schedule", "FrequencySchedule"),
    "schedule": ("ropewalk.methods", "schedule"),
    "method": ("ropewalk.methods", "method"),
    "methods": ("ropewalk.methods", "methods"),
    "dynamic": ("ropewalk.dynamic", "dynamic"),
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> _Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ropewalk' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    value = getattr(_import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
