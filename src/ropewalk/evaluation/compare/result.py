"""What a comparison says: one row a candidate, the controls, and a verdict. Losses are nats per token."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Unknown keys are errors, nothing changes after the measurement."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Paired(Strict):
    """Mean difference to a control on the same windows or questions, with its 95 % interval.

    For losses below 0 is better, for retrieval above 0.
    """

    difference: float
    low: float
    high: float

    @property
    def below(self) -> bool:
        """Lower than the control beyond chance."""
        return self.high < 0

    @property
    def above(self) -> bool:
        """Higher than the control beyond chance."""
        return self.low > 0


class LengthLoss(Strict):
    """Mean loss of the last tokens before a length, with the 95 % interval of the mean over windows."""

    length: int
    loss: float
    ci: list[float]


class DepthAccuracy(Strict):
    """Share of a task's values retrieved at a length and depth (0 is the start of the text)."""

    task: str
    length: int
    depth: float
    accuracy: float
    samples: int


class Row(Strict):
    """One measured candidate, or a control. `curve` is the loss along the text, in equal parts of the target length."""

    name: str
    method: str
    variant: str
    factor: float
    parameters: dict[str, Any]
    attention_factor: float
    effective_factor: float | None
    needs_training: bool
    same_as: list[str]
    loss: list[LengthLoss]
    loss_at_target: float
    loss_in_window: float
    retrieval: list[DepthAccuracy]
    retrieval_at_target: float | None
    retrieval_in_window: float | None
    curve: list[float]
    loss_vs_unmodified: Paired | None = None
    loss_vs_cropped: Paired | None = None
    window_cost: Paired | None = None
    retrieval_vs_cropped: Paired | None = None
    rank_text: int | None = None
    rank_retrieval: int | None = None
    seconds: float = 0.0


class FineTuning(Strict):
    """What training at the target length could add, from the model's own figures.

    `loss_gain`: the best candidate's loss at the target less what the loss would be if it went on falling with context
    as it does inside the window (`slope` nats per doubling). `retrieval_gain`: retrieval inside the window less the
    best candidate's at the target.
    """

    slope: float
    expected_loss: float
    loss_gain: float
    retrieval_gain: float | None


class Verdict(Strict):
    """The answer in words, and the names behind it. `beats_cropping` is about text, beyond chance."""

    text: str | None
    retrieval: str | None
    beats_cropping: bool
    text_beats_cropping: list[str]
    retrieval_beats_cropping: list[str]
    fine_tuning: FineTuning
    summary: str


class LeftOutRow(Strict):
    """A method that was not measured, and why."""

    name: str
    why: str


class CompareResult(Strict):
    """Everything that one comparison measured."""

    model: str
    original_length: int
    target_length: int
    factor: float
    lengths: list[int]
    span: int
    text: str
    documents: list[str]
    text_joined: bool
    windows: int
    tasks: list[str]
    questions: int
    chance: float | None
    seed: int
    controls: dict[str, Row]
    methods: list[Row]
    not_measured: list[LeftOutRow]
    verdict: Verdict
    complete: bool
    seconds: float
    run: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The document of `compare --json`: methods best for text first."""
        return self.model_dump(mode="json")

    def row(self, name: str) -> Row:
        """A method's or control's row by its label."""
        found = {row.name: row for row in [*self.controls.values(), *self.methods]}
        return found[name]
