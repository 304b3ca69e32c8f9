"""The scaling methods: one file a family, one registry. Every file here is imported, so adding one is enough."""

from importlib import import_module
from pkgutil import iter_modules

from ropewalk.methods.registry import Method, Parameter, find_method, method, methods, schedule

for _found in iter_modules(__path__):
    import_module(f"{__name__}.{_found.name}")

__all__ = ["Method", "Parameter", "find_method", "method", "methods", "schedule"]
