"""The real configuration class, asked: what stock transformers computes from a configuration, without any weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from ropewalk.errors import RopewalkError, one_line
from ropewalk.models.facts import ModelFacts
from ropewalk.models.live.readback import TOLERANCE
from ropewalk.models.live.rotary import Spectrum, rotary_modules, spectrum
from ropewalk.models.live.rotary import labels_of as labels
from ropewalk.models.live.twin import fill_rotary, unfilled
from ropewalk.models.load import quiet_transformers
from ropewalk.models.structure.ropes import DEFAULT
from ropewalk.schedule import FrequencySchedule


class NotHereError(RopewalkError):
    """Nothing is known to be wrong: this machine lacks what the class needs."""


def _floats(value: Any) -> Any:
    """Infinities and NaN as numbers again: our reader keeps them in the spelling that every JSON reader takes."""
    if isinstance(value, Mapping):
        if set(value) == {"__float__"}:
            return float(str(value["__float__"]))
        return {name: _floats(item) for name, item in value.items()}
    return [_floats(item) for item in value] if isinstance(value, list) else value


def stock_model(config: Mapping[str, Any]) -> Any:
    """The causal language model that stock transformers builds from a configuration, on the meta device, its rotary
    values real. RopewalkError gives stock code's own objection, or says that it does not know the model type."""
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise NotHereError(
            f"the installed transformers has no class for model_type={kind!r}", hint="its own code decides"
        )
    try:
        with quiet_transformers(), unfilled():
            settings = CONFIG_MAPPING[kind].from_dict(_floats(copy.deepcopy(dict(config))))
            if type(settings) not in MODEL_FOR_CAUSAL_LM_MAPPING:
                # A composite without a causal head: its text model has one.
                settings = settings.get_text_config()
            built = AutoModelForCausalLM.from_config(settings)
        with quiet_transformers():
            fill_rotary(built)
    except ImportError as error:
        raise NotHereError(
            f"building model_type={kind!r} needs software that is not installed ({one_line(error, 120)})",
            hint="install it, or check the model where it is",
        ) from error
    except Exception as error:
        # Whatever validation or construction of stock code objects to is the answer that was asked for.
        raise RopewalkError(
            f"stock transformers does not build this configuration ({type(error).__name__}: {one_line(error, 160)})",
            hint="`ropewalk inspect` names what is wrong in it",
        ) from error
    return built


def stock_spectra(model: Any, facts: ModelFacts, position: int = 1) -> list[Spectrum]:
    """What the text model's rotary modules compute for the main rotary entry, in an input that reaches `position`."""
    wanted = ("",) if facts.main == DEFAULT else (facts.main,)
    found = []
    for path, module in rotary_modules(model).items():
        # Towers and indexers turn by entries of their own.
        if any(part in path for part in ("vision", "visual", "audio", "patcher", "encoder", "indexer")):
            continue
        found += [spectrum(path, module, label, position) for label in labels(module) if label in wanted]
    return found


def disagreement(config: Mapping[str, Any], facts: ModelFacts) -> str | None:
    """Where stock transformers computes other values from a configuration than `facts` say; None where it agrees.

    Of several modules (a base for each layer, an indexer of its own) one must compute the schedule. RopewalkError where
    stock code builds no model from the configuration at all.
    """
    made = facts.rope.schedule
    model = stock_model(config)
    if made is None:
        return None
    # Past the window, where of two sets the long one is in force.
    found = stock_spectra(model, facts, made.geometry.original_length + 2)
    differing = [_difference(each, made) for each in found]
    return None if None in differing or not differing else differing[0]


def _difference(found: Spectrum, made: FrequencySchedule) -> str | None:
    if found.inv_freq.shape != made.inv_freq.shape:
        return (
            f"{found.path} has {found.inv_freq.size} pairs, the configuration reads as {made.inv_freq.size}"
        )
    # Relative, but for pairs that hardly turn: a stopped one is 1e-30 in stock code and 0 here.
    apart = float(np.max(np.abs(found.inv_freq - made.inv_freq) / (made.inv_freq + 1e-12 / TOLERANCE)))
    factor = abs(found.attention_factor / made.attention_factor - 1.0)
    if max(apart, factor) <= TOLERANCE:
        return None
    off = f"off by {max(apart, factor):.2g}"
    return f"{found.path} computes other frequencies or another attention factor ({off})"
