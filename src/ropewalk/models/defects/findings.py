"""Every known way to write a broken configuration, named with its values, its effect and its way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ropewalk.models.defects.dialect import dialect_rules
from ropewalk.models.defects.entry import entry_rules
from ropewalk.models.defects.finding import Finding, sorted_findings
from ropewalk.models.defects.model import model_rules
from ropewalk.models.defects.spelling import spelling_rules
from ropewalk.models.defects.tidy import tidy
from ropewalk.models.facts import ModelFacts, read_facts

__all__ = ["Finding", "find"]


def find(
    config: Mapping[str, Any],
    facts: ModelFacts | None = None,
    *,
    target_length: int | None = None,
    tokenizer: Mapping[str, Any] | None = None,
    base_bound: float | None = None,
) -> list[Finding]:
    """The findings about a configuration, errors first.

    `facts` are read from the configuration (after mending faults of type) when they are not given. `target_length`
    adds what matters for that length (`base_bound` saves computing it again), `tokenizer` (the content of
    tokenizer_config.json) compares its limit, and is evidence of the window that was trained.
    """
    fixed, found = tidy(config)
    if facts is None:
        facts = read_facts(fixed)
    for rope in facts.ropes.values():
        found += entry_rules(facts, rope, tokenizer)
    found += spelling_rules(facts)
    found += dialect_rules(facts)
    if any(finding.id == "phi-longrope-only" for finding in found):
        # The lists are missing because the type was never meant to have any.
        found = [finding for finding in found if finding.id != "longrope-list"]
    found += model_rules(facts, target=target_length, tokenizer=tokenizer, bound=base_bound)
    return sorted_findings(found)
