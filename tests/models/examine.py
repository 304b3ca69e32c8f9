"""One architecture through everything: geometry, four methods in memory and on disk, stock parity, identity, removal.

The page docs/architectures.md is written from these results, and the tests assert on them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tiny
import torch
import transformers

import ropewalk
from ropewalk.errors import RopewalkError, one_line
from ropewalk.models.config import read_config
from ropewalk.models.facts import ModelFacts, read_facts
from ropewalk.models.live.tables import has_tables
from ropewalk.models.load import quiet_transformers
from ropewalk.models.proof.checks import dialects
from ropewalk.models.stretch import kept_parameters

METHODS = ("linear", "ntk", "yarn", "mrrope-pro")
FACTOR = 4.0
INSIDE, BEYOND = 48, 96


@dataclasses.dataclass
class MethodResult:
    """What one method did: `written_as` is the stock type, empty where only memory can hold it, then with `reason`."""

    method: str
    written_as: str
    reason: str
    moved: float
    parity: bool | None
    removed: bool

    @property
    def ok(self) -> bool:
        """Active, undone bit for bit, and bit-equal in stock software wherever stock software can hold it."""
        return (
            self.moved > 1e-4
            and self.removed
            and (self.parity is True or (self.parity is None and bool(self.reason)))
        )


@dataclasses.dataclass
class TypeResult:
    """One model type: `kind` is rope, none (no rotary embedding) or unbuilt, with the `reason`."""

    model_type: str
    kind: str
    reason: str = ""
    structure: str = ""
    layers: str = "full"
    identity: bool = False
    methods: list[MethodResult] = dataclasses.field(default_factory=list)
    error: str = ""

    @property
    def passed(self) -> bool:
        """Everything asked of a type holds, on disk for at least one method."""
        done = len(self.methods) == len(METHODS) and all(result.ok for result in self.methods)
        return done and self.identity and any(result.parity for result in self.methods)

    @property
    def handled(self) -> bool:
        """Passed, or held in memory with a clear refusal to write what stock software would ignore."""
        done = len(self.methods) == len(METHODS) and all(result.ok for result in self.methods)
        return self.passed or (done and self.identity and all(result.reason for result in self.methods))


def examine(model_type: str, place: Path, methods: Sequence[str] = METHODS) -> TypeResult:
    """Build a tiny model of the type and put it through everything; failures are results, not exceptions."""
    try:
        with quiet_transformers():
            facts_only = read_facts(_as_file(tiny.tiny_config(model_type)))
    except RopewalkError as refusal:
        return TypeResult(model_type, "none", refusal.message)
    except Exception as error:
        return TypeResult(model_type, "unbuilt", f"{type(error).__name__}: {one_line(error, 160)}")
    try:
        with quiet_transformers():
            tiny.tiny_model(model_type).save_pretrained(place / "base")
    except Exception as error:
        return TypeResult(model_type, "unbuilt", f"{type(error).__name__}: {one_line(error, 160)}")
    result = TypeResult(model_type, "rope", structure=structure_of(facts_only))
    try:
        with quiet_transformers():
            _examine(result, place, methods)
    except Exception as error:
        result.error = f"{type(error).__name__}: {one_line(error, 300)}"
    return result


def _examine(result: TypeResult, place: Path, methods: Sequence[str]) -> None:
    base = place / "base"
    facts = read_facts(base)
    model = _stock(base)
    # Tables of sines end with the window; such a model cannot be asked about more before it is stretched.
    ids = tiny.tokens(INSIDE if has_tables(model) else BEYOND)
    before = tiny.logits_of(model, ids)
    result.layers = _layers(model, facts)
    for method in methods:
        # A model that is scaled by the same method keeps its parameters, in memory as on disk.
        schedule = ropewalk.schedule(
            method, facts.geometry, factor=FACTOR, **kept_parameters(facts).get(method, {})
        )
        with ropewalk.apply(model, schedule, layers=result.layers) as applied:
            reason = applied.reason
            inside = tiny.logits_of(model, ids)
            assert torch.isfinite(tiny.logits_of(model, tiny.tokens(BEYOND))).all()
        removed = torch.equal(before, tiny.logits_of(model, ids))
        written, refusal, parity = "", "", None
        try:
            written = ropewalk.extend(
                base,
                out=place / method,
                factor=FACTOR,
                method=method,
                layers=result.layers,
                # Types that are stretched as built reach further than this already.
                replace=True,
            ).written_as
        except RopewalkError as refused:
            refusal = refused.message
        else:
            said = dialects(read_config(place / method))
            assert said.status == "pass", f"{method}: {said.detail}"
            parity = torch.equal(inside, tiny.logits_of(_stock(place / method), ids))
        if bool(reason) != bool(refusal):
            raise AssertionError(
                f"{method}: memory says {reason or 'persistent'!r}, disk says {refusal or 'written'!r}"
            )
        moved = float((inside - before).abs().max())
        result.methods.append(MethodResult(method, written, refusal, moved, parity, removed))
    own = facts.rope.schedule
    assert own is not None, facts.rope.problem
    with ropewalk.apply(model, own, layers=result.layers, target_length=facts.max_position_embeddings):
        result.identity = torch.equal(before, tiny.logits_of(model, ids))


def _layers(model: Any, facts: ModelFacts) -> str:
    """`full`, or `all` for models of which only sliding layers rotate."""
    try:
        ropewalk.apply(model, ropewalk.schedule("linear", facts.geometry, factor=2.0)).remove()
    except RopewalkError as refusal:
        if "only its sliding layers rotate" in refusal.message:
            return "all"
        raise
    return "full"


def _stock(folder: Path) -> Any:
    """The checkpoint as stock transformers loads it: by the class it names, since some have no automatic one."""
    family = getattr(transformers, read_config(folder)["architectures"][0])
    return family.from_pretrained(folder, dtype=torch.float32).eval()


def _as_file(config: Any) -> dict[str, Any]:
    document: dict[str, Any] = config.to_dict()
    return document


def structure_of(facts: ModelFacts) -> str:
    """The traits of a rotary part that decide how it is treated."""
    traits = []
    if len(facts.ropes) > 1 or "default" not in facts.ropes:
        traits.append(f"per layer type ({', '.join(facts.ropes)})")
    if facts.text_path:
        traits.append("composite")
    if facts.geometry.proportional:
        traits.append("proportional")
    elif facts.geometry.partial_rotary_factor < 1:
        traits.append(f"partial {facts.geometry.partial_rotary_factor:g}")
    if facts.mla:
        traits.append("MLA")
    if facts.rope.is_scaled:
        traits.append(f"scaled as built ({facts.rope.rope_type})")
    if facts.layers.no_rope:
        traits.append("layers without rotation")
    if facts.layers.other:
        traits.append("layers without attention")
    return ", ".join(traits) or "plain"
