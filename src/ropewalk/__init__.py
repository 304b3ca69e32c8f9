"""Ropewalk stretches the context window of language models with rotary position embeddings, and proves it.

Names load when first used: importing this package costs nothing.
"""

import sys as _sys
from importlib import import_module as _import_module
from types import ModuleType as _ModuleType
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
    "read_geometry": ("ropewalk.models.facts", "read_geometry"),
    "apply": ("ropewalk.models.apply", "apply"),
    "exact_positions": ("ropewalk.models.live.exact", "exact_positions"),
    "extend": ("ropewalk.models.extend", "extend"),
    "verify": ("ropewalk.models.verify", "verify"),
    "load_model": ("ropewalk.models.load", "load_model"),
    "load_tokenizer": ("ropewalk.models.load", "load_tokenizer"),
    "inspect": ("ropewalk.models.inspection", "inspect"),
    "export": ("ropewalk.runtimes.writing", "export"),
    "export_config": ("ropewalk.runtimes.export", "export_config"),
    "plan": ("ropewalk.plan", "plan"),
    "compare": ("ropewalk.evaluation.compare", "compare"),
    "evaluate": ("ropewalk.evaluation.evaluate", "evaluate"),
    "eval": ("ropewalk.evaluation.evaluate", "evaluate"),
    "generate": ("ropewalk.generation.request", "generate"),
    "tune": ("ropewalk.search.tune", "tune"),
    "train": ("ropewalk.training.run", "train"),
    "initialise": ("ropewalk.training.model.initialise", "initialise"),
    "plot": ("ropewalk.report.plotting", "plot"),
    "report": ("ropewalk.report.report", "report"),
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> _Any:
    if name not in _PUBLIC:
        from importlib.util import find_spec

        # `ropewalk.hemp.folder()` after a plain `import ropewalk`.
        if not name.startswith("_") and find_spec(f"ropewalk.{name}") is not None:
            return _import_module(f"ropewalk.{name}")
        raise AttributeError(f"module 'ropewalk' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    value = getattr(_import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])


class _Package(_ModuleType):
    """`ropewalk.schedule`, `.methods`, `.dynamic` and `.report` are functions, and files or rooms of the same name
    exist beside them: importing such a room must not put the module in the function's place."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _PUBLIC and isinstance(value, _ModuleType)):
            super().__setattr__(name, value)


_sys.modules[__name__].__class__ = _Package
