"""What an evaluation is asked, with everything resolved: written into the result and the run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ropewalk.errors import UsageError, one_line
from ropewalk.units import parse_length, parse_lengths

TEXT_TASK = "ppl"


class EvalRequest(BaseModel):
    """The settings of `ropewalk eval`. `lengths` empty means: from half the original window to the declared one."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: str
    lengths: list[int] = []
    tasks: list[str] = [TEXT_TASK, "passkey"]
    text: str | None = None
    protocol: Literal["prefix", "sliding"] = "prefix"
    stride: int = Field(256, ge=1)
    window_mean: bool = False
    span: int | None = Field(None, ge=2)
    max_segments: int = Field(8, ge=1)
    join: Literal["auto", "yes", "no"] = "auto"
    controls: bool = True
    base: str | None = None
    original_length: int | None = Field(None, ge=2)
    crop_stride: int | None = Field(None, ge=1)
    depths: int = Field(5, ge=1)
    samples: int = Field(4, ge=1)
    scoring: str = "teacher-forced"
    style: str = "auto"
    grid: str = "shared"
    haystack: str | None = None
    questions: str | None = None
    health: bool = False
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    attn: str = "sdpa"
    chunk: int | None = Field(None, ge=1)
    trust_remote_code: bool = False
    served_model: str | None = None
    tokenizer: str | None = None
    workers: int = Field(4, ge=1)
    timeout_s: float = Field(300.0, gt=0)
    max_answer_tokens: int | None = Field(None, ge=1)

    @field_validator("lengths", mode="before")
    @classmethod
    def _lengths(cls, value: Any) -> list[int]:
        if isinstance(value, str):
            return parse_lengths(value) if value.strip() else []
        return sorted({parse_length(length) for length in value or []})

    @field_validator("tasks", mode="before")
    @classmethod
    def _tasks(cls, value: Any) -> list[str]:
        names = value.split(",") if isinstance(value, str) else list(value)
        return list(dict.fromkeys(str(name).strip() for name in names if str(name).strip()))

    @field_validator("span", "original_length", mode="before")
    @classmethod
    def _length(cls, value: Any) -> int | None:
        return None if value is None else parse_length(value)

    @property
    def reads_text(self) -> bool:
        """Whether loss is measured."""
        return TEXT_TASK in self.tasks

    @property
    def retrieval_tasks(self) -> list[str]:
        """Tasks without `ppl`."""
        return [task for task in self.tasks if task != TEXT_TASK]

    def settings(self) -> dict[str, Any]:
        """What must be the same for finished cells to count."""
        return self.model_dump(mode="json", exclude={"workers", "timeout_s", "health"})


def make_request(model: str, **settings: Any) -> EvalRequest:
    """An `EvalRequest`, or a UsageError that names the value and the rule."""
    try:
        request = EvalRequest(model=model, **settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{name}={one_line(first.get('input'), 60)} is not usable: {first['msg']}",
            hint="see `ropewalk eval --help`",
        ) from error
    if not request.tasks:
        raise UsageError("no task to run", hint="use --tasks ppl,passkey")
    if any(length < 8 for length in request.lengths):
        raise UsageError(
            f"length {min(request.lengths)} is too short to measure", hint="use 8 tokens or more"
        )
    if request.window_mean and request.protocol != "sliding":
        raise UsageError("--window-mean averages sliding windows", hint="add --protocol sliding")
    if request.protocol == "sliding" and request.lengths and request.stride > min(request.lengths):
        raise UsageError(
            f"stride={request.stride} is longer than the shortest length {min(request.lengths)}",
            hint="use a shorter --stride",
        )
    return request
