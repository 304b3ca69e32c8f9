"""What an evaluation says. Losses are nats per token; `to_json` is the document of `ropewalk eval --json`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from ropewalk.evaluation.request import EvalRequest


class Strict(BaseModel):
    """Unknown keys are errors, nothing changes after the measurement."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class LossRow(Strict):
    """Loss at one length: mean over its tokens, and over the last quarter of them. Intervals are over documents."""

    length: int
    loss: float
    perplexity: float
    ci: list[float] | None
    tail_loss: float
    tail_ci: list[float] | None
    units: int
    tail_gain: float | None = None
    tail_gain_ci: list[float] | None = None


class CurvePoint(Strict):
    """Mean loss of tokens `start` to `end`, with its interval over documents."""

    start: int
    end: int
    loss: float
    ci: list[float] | None = None


class Controls(Strict):
    """The same table for the controls. `tail_gain` is what the model gains over the control there, paired.

    `cropped` is the measured model on cropped context, `cropped_unmodified` the unmodified one: what a user has who
    does not stretch anything. `contexts` says what a token sees there, `unmodified_is` what the unmodified model is.
    """

    cropped: list[LossRow] = []
    cropped_unmodified: list[LossRow] = []
    unmodified: list[LossRow] = []
    crop_length: int | None = None
    crop_stride: int | None = None
    contexts: str | None = None
    unmodified_is: str | None = None


class TextUsed(Strict):
    """What was read: `sha256` is of all token ids, so equal values mean the same text."""

    source: str
    documents: list[str]
    segments: int
    segment_length: int
    opening_tokens: int
    joined: bool
    sha256: str


class EvalResult(Strict):
    """Everything that one evaluation measured."""

    model: str
    protocol: str
    original_length: int | None
    lengths: list[int]
    loss: list[LossRow] = []
    loss_by_position: list[CurvePoint] = []
    controls: Controls = Controls()
    retrieval: list[dict[str, Any]] = []
    retrieval_by_length: list[dict[str, Any]] = []
    effective_length: int | None = None
    effective: dict[str, Any] = {}
    long_tokens: list[dict[str, Any]] = []
    health: dict[str, Any] | None = None
    served: dict[str, Any] | None = None
    text: TextUsed | None = None
    verdict: list[str] = []
    next: str = ""
    remarks: list[str] = []
    processes: int = 1
    seconds: float = 0.0
    request: EvalRequest
    run: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON document."""
        return self.model_dump(mode="json")
