"""What an evaluation and a comparison say. Losses are nats per token; `to_json` is the document of `--json`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from ropewalk.errors import UsageError, near_miss, one_line
from ropewalk.evaluation.request import CompareRequest, EvalRequest


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
    """What was read: `sha256` is of all token ids, so equal values mean the same text.

    `tokens_available` and `segments_available` are what the whole text would give, estimated where not all of it was
    encoded; `seconds` what reading these segments took the model.
    """

    source: str
    documents: list[str]
    segments: int
    segment_length: int
    opening_tokens: int
    joined: bool
    sha256: str
    tokens: int | None = None
    tokens_available: int | None = None
    segments_available: int | None = None
    seconds: float | None = None


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
    key_token_loss: float | None = None
    key_tokens: dict[str, Any] | None = None
    long_tokens: list[dict[str, Any]] = []
    caches: list[dict[str, Any]] = []
    temperatures: list[dict[str, Any]] = []
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


class Paired(Strict):
    """Mean difference to another reader on the same tokens or questions, with its 95 % interval over documents.

    For losses below 0 is better, for retrieval above 0. `p` is two-sided; `p_family` is corrected (Holm) for all rows
    and measures that were looked at together, and is what `surely` goes by. None: too few documents to say.
    """

    difference: float
    low: float | None
    high: float | None
    p: float | None = None
    p_family: float | None = None

    @property
    def surely(self) -> bool:
        """Beyond chance, everything that was looked at considered."""
        return self.p_family is not None and self.p_family <= 0.05


class Row(Strict):
    """One measured candidate, or a control.

    `loss_at_target` is over the last quarter of tokens before the target, `loss_in_window` over all tokens of the
    original window, `key_token_loss` over the tokens that far context helps. `retrieval_at_target` counts the tasks
    that the model can do inside its window. `length_score` is retrieval at the target as a share of that inside it.
    `curve` is the loss along the text, in equal parts of the target length. `group`: not told apart from the best.
    """

    name: str
    kind: str
    method: str | None
    variant: str
    factor: float | None
    parameters: dict[str, Any]
    attention_factor: float | None
    effective_factor: float | None
    needs_training: bool
    same_as: list[str]
    file: str | None
    loss: list[LossRow]
    loss_at_target: float | None
    loss_in_window: float | None
    key_token_loss: float | None = None
    retrieval: list[dict[str, Any]]
    retrieval_by_task: dict[str, dict[str, float | None]]
    retrieval_at_target: float | None
    retrieval_in_window: float | None
    length_score: float | None = None
    length_score_ci: list[float] | None = None
    curve: list[float]
    loss_vs_unmodified: Paired | None = None
    loss_vs_cropped: Paired | None = None
    window_cost: Paired | None = None
    retrieval_vs_cropped: Paired | None = None
    group: bool = False
    rank: int | None = None
    rank_text: int | None = None
    rank_key: int | None = None
    rank_retrieval: int | None = None
    seconds: float = 0.0


class ContextStep(Strict):
    """What one doubling of context is worth on the same tokens: loss with half of it less loss with all of it."""

    context: int
    gain: float
    ci: list[float] | None


class FineTuning(Strict):
    """What context is worth inside the window, measured, and what that says about training at the target.

    The unscaled model reads the same tokens with a quarter, half and all of its window. `slope` is the worth of the
    last doubling; `expected_loss` what the cropped control would come to if every doubling up to the target were worth
    as much, which is the most that the text shows: doublings are worth less and less. `told`: the interval of the slope
    holds no zero; otherwise nothing is said.
    """

    told: bool
    tokens: int
    contexts: list[int]
    losses: list[float]
    steps: list[ContextStep]
    slope: float
    slope_ci: list[float] | None
    doublings: float
    expected_loss: float
    expected_ci: list[float] | None
    loss_gain: float | None
    loss_gain_ci: list[float] | None
    retrieval_gain: float | None


class LeftOut(Strict):
    """What was not measured, or does not enter the verdict, and why."""

    name: str
    why: str


class Verdict(Strict):
    """The answer in words, and the names behind it.

    `recommended` is the cheapest row inside the window among the `group` that cannot be told apart from the best;
    `text`, `key_tokens` and `retrieval` have the lowest or highest figure, which may be chance. `closing` is extend,
    tune or train.
    """

    rank_by: str
    criteria: list[str]
    recommended: str | None
    group: list[str]
    text: str | None
    key_tokens: str | None
    retrieval: str | None
    beats_cropping: bool
    text_beats_cropping: list[str]
    retrieval_beats_cropping: list[str]
    not_counted: list[LeftOut] = []
    fine_tuning: FineTuning | None
    closing: str
    next: str
    points: list[str]
    summary: str


class CompareResult(Strict):
    """Everything that one comparison measured. `methods` stand in order of rank."""

    model: str
    original_length: int
    target_length: int
    factor: float
    lengths: list[int]
    text: TextUsed | None
    tasks: list[str]
    questions: int
    chance: float | None
    seed: int
    controls: dict[str, Row]
    crop_length: int
    crop_stride: int
    contexts: str
    cropped_is: str
    methods: list[Row]
    not_measured: list[LeftOut]
    key_tokens: dict[str, Any] | None
    verdict: Verdict
    remarks: list[str]
    complete: bool
    seconds: float
    request: CompareRequest
    run: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The document of `compare --json`."""
        return self.model_dump(mode="json")

    def row(self, name: str) -> Row:
        """A method's or control's row by its label."""
        found = {row.name: row for row in [*self.controls.values(), *self.methods]}
        if name not in found:
            known = f"there are {', '.join(found)}"
            raise UsageError(f"no row {one_line(name, 60)!r}", hint=near_miss(name, found, otherwise=known))
        return found[name]
