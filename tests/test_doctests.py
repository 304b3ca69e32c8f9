"""Every example in the rooms of mathematics is true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

ALONE = ["errors", "units", "geometry", "schedule", "notations", "temperature", "dynamic"]
MODULES = [f"ropewalk.{name}" for name in ALONE] + [
    f"{room}.{found.name}"
    for room in ("ropewalk.methods", "ropewalk.analysis", "ropewalk.planning")
    for found in pkgutil.iter_modules(importlib.import_module(room).__path__)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    done = doctest.testmod(importlib.import_module(name), verbose=False)
    assert done.failed == 0


@pytest.mark.parametrize("name", sorted(importlib.import_module("ropewalk").methods()))
def test_every_method_has_an_example_and_explains_its_parameters(name):
    known = importlib.import_module("ropewalk").methods()[name]
    if known.function.__module__.startswith("ropewalk."):
        assert ">>> " in known.doc
        assert [parameter.name for parameter in known.parameters if not parameter.about] == []
        assert ">>>" not in known.summary
        assert "Parameters:" not in known.summary
