"""The scaling methods: one file a family, one registry. Every file here is imported, so adding one is enough."""

from ropewalk.methods.registry import Method, Parameter, find_method, method, methods, schedule

__all__ = ["Method", "Parameter", "find_method", "method", "methods", "schedule"]
