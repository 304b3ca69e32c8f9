"""What an evaluation is asked, with everything resolved: written into the result and the run.

`eval` and `compare` share one set of settings and defaults; a comparison adds what is compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from ropewalk.errors import UsageError, one_line
from ropewalk.units import parse_length, parse_lengths, split_names

TEXT_TASK = "ppl"
# Answers that are written; a task of which the model writes none counts by choice.
AUTO = "auto"

# Whatever names a file, a folder or a model; unset they have defaults of their own, which an empty name is not.
_NAMES = ("text", "base", "schedule", "reference", "haystack", "questions", "served_model", "tokenizer")

Asked = TypeVar("Asked", bound="EvalRequest")


class EvalRequest(BaseModel):
    """The settings of `ropewalk eval`. `lengths` empty means: from half the original window to the declared one.

    `hashes` are of what the names stand for (the text's tokens, the questions, the weights): filled in by the run.
    """

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
    schedule: str | None = None
    crop_stride: int | None = Field(None, ge=1)
    reference: str | None = None
    key_gain: float = Field(2.0, gt=0)
    key_floor: float = Field(-2.0, le=0)
    threshold: float = Field(0.85, gt=0, le=1)
    depths: int = Field(5, ge=1)
    samples: int = Field(4, ge=1)
    scoring: str = AUTO
    style: str = "auto"
    grid: str = "shared"
    haystack: str | None = None
    questions: str | None = None
    health: bool = False
    cache: list[str] = []
    temperatures: list[str] = []
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
    hashes: dict[str, str] = {}

    @field_validator("lengths", mode="before")
    @classmethod
    def _lengths(cls, value: Any) -> list[int]:
        if isinstance(value, str):
            return parse_lengths(value)
        return sorted({parse_length(length) for length in ([] if value is None else value)})

    @field_validator(*_NAMES, mode="before")
    @classmethod
    def _filled(cls, value: Any, info: ValidationInfo) -> Any:
        _refuse_blank(info.field_name, value)
        return value

    @field_validator("schedule", mode="before")
    @classmethod
    def _place(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    @field_validator("cache", "temperatures", mode="before")
    @classmethod
    def _named(cls, value: Any, info: ValidationInfo) -> list[str]:
        _refuse_blank(info.field_name, value)
        return split_names(value or [])

    @field_validator("tasks", mode="before")
    @classmethod
    def _tasks(cls, value: Any) -> list[str]:
        return split_names(value)

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

    @property
    def files(self) -> list[str]:
        """Whatever may be a file of numbers that `tune` fitted."""
        return [*self.temperatures, *([] if self.schedule is None else [self.schedule])]

    def settings(self) -> dict[str, Any]:
        """What must be the same for finished cells to count; hashes are held against each other by name."""
        # Left out is what changes no cell: how a server is asked, what is looked at afterwards, how rows are judged.
        return self.model_dump(
            mode="json", exclude={"workers", "timeout_s", "health", "hashes", "threshold", "rank"}
        )


class CompareRequest(EvalRequest):
    """The settings of `ropewalk compare`: those of `eval`, and what is compared.

    Needles of all depths stand in one text here (`packed`): every row reads each text once.
    """

    tasks: list[str] = [TEXT_TASK, "needle"]
    grid: str = "packed"
    target: str = "8x"
    methods: list[str] = ["all"]
    schedules: list[str] = []
    candidates: list[str] = []
    rank: Literal["use", "retrieval", "key-tokens", "loss", "window"] = "use"

    @property
    def files(self) -> list[str]:
        """Schedules, and the parts of rows such as `yarn+heads.json`."""
        return [*super().files, *self.schedules, *(part for row in self.methods for part in row.split("+"))]

    @field_validator("target", mode="before")
    @classmethod
    def _target(cls, value: Any) -> str:
        return str(value)

    @field_validator("methods", mode="before")
    @classmethod
    def _methods(cls, value: Any) -> list[str]:
        return split_names(value)

    @field_validator("schedules", mode="before")
    @classmethod
    def _schedules(cls, value: Any) -> list[str]:
        return [str(path) for path in ([value] if isinstance(value, str | Path) else value or [])]


def _refuse_blank(name: str | None, value: Any) -> None:
    """An empty name, as of a shell variable that is not set, asks for nothing that could be told."""
    if isinstance(value, str) and not value.strip():
        raise UsageError(f"{name}={value!r} names nothing", hint="give a name, or leave it out")


def make_request(kind: type[Asked], model: str, **settings: Any) -> Asked:
    """A request of that kind, or a UsageError that names the value and the rule."""
    try:
        request = kind(model=model, **settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        command = "compare" if kind is CompareRequest else "eval"
        raise UsageError(
            f"{name}={one_line(first.get('input'), 60)} is not usable: {first['msg']}",
            hint=f"see `ropewalk {command} --help`",
        ) from error
    _check(request)
    return request


def _check(request: EvalRequest) -> None:
    if not request.tasks:
        raise UsageError("no task to run", hint="use --tasks ppl,passkey")
    if any(length < 8 for length in request.lengths):
        raise UsageError(
            f"length {min(request.lengths)} is too short to measure", hint="use 8 tokens or more"
        )
    if request.schedule is not None and isinstance(request, CompareRequest):
        raise UsageError("compare takes several schedule files", hint="write schedules=[...]")
    if request.schedule is not None and request.model.startswith(("http://", "https://")):
        raise UsageError(
            "a served model computes its own schedule", hint="give the checkpoint, or leave --schedule out"
        )
    if request.window_mean and request.protocol != "sliding":
        raise UsageError("--window-mean averages sliding windows", hint="add --protocol sliding")
    if request.protocol == "sliding" and request.lengths and request.stride > min(request.lengths):
        raise UsageError(
            f"stride={request.stride} is longer than the shortest length {min(request.lengths)}",
            hint="use a shorter --stride",
        )
