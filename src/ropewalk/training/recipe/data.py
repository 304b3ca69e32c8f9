"""What a recipe says of its text: sources, their shares, long documents. No torch here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ropewalk.training.vocabulary import Count, Length, Name, Positive, Share, Strict


class SourcePart(Strict):
    """One source of text. `share` is its share of the tokens; shares are normalised to sum to 1."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    kind: Literal["corpus", "text", "jsonl", "dataset", "chat", "generated"]
    share: Positive = 1.0
    paths: list[Name] = Field(default_factory=list)
    field: str = "text"
    generator: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    max_documents: Count | None = None
    template: str | None = None

    @model_validator(mode="after")
    def _fits_kind(self) -> SourcePart:
        if self.template is not None and self.kind != "chat":
            raise ValueError(f"template has no meaning for kind {self.kind}")
        if self.kind in ("text", "jsonl", "dataset", "chat") and not self.paths:
            raise ValueError(f"kind {self.kind} needs paths")
        if self.kind == "generated" and self.generator is None:
            raise ValueError("kind generated needs generator: the name of a registered generator")
        if self.kind != "generated" and self.generator is not None:
            raise ValueError(f"generator has no meaning for kind {self.kind}")
        if self.kind != "jsonl" and self.field != "text":
            raise ValueError(f"field names a key of JSON lines, and has no meaning for kind {self.kind}")
        if self.kind != "generated" and self.parameters:
            raise ValueError(f"parameters are a generator's, and have no meaning for kind {self.kind}")
        if self.kind in ("corpus", "generated") and self.paths:
            raise ValueError(f"paths has no meaning for kind {self.kind}")
        return self


class LongDocuments(Strict):
    """Documents of at least `min_length` tokens fill `share` of the tokens of every text source that has any."""

    min_length: Length
    share: Share


class DataPart(Strict):
    """Where the tokens come from; `interleave` documents of a source are open at a time (1 reads end to end)."""

    sources: Annotated[list[SourcePart], Field(min_length=1)]
    long_documents: LongDocuments | None = None
    interleave: Count = 64

    @model_validator(mode="after")
    def _unique(self) -> DataPart:
        names = [item.name for item in self.sources]
        if len(set(names)) != len(names):
            raise ValueError("two sources have the same name")
        return self
