"""What a program's file must say: how a schedule can be written for it, in which forms, and with which words.

A `Runtime` knows mathematics and spelling: which of its forms express a schedule at all. Whether the program then
really computes it on an architecture is not its business: that stands in the facts, and `answer` joins the two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from ropewalk.models.facts import ModelFacts
from ropewalk.models.structure.ropes import DEFAULT
from ropewalk.models.writing.carrier import Carried
from ropewalk.registry import Registry
from ropewalk.schedule import FrequencySchedule


@dataclass(frozen=True)
class Job:
    """A schedule on its way into a program: the model's facts, the schedule, the configuration that carries it.

    `carried` is None where config.json cannot hold the schedule on this architecture; `refusal` then says why.
    """

    facts: ModelFacts
    schedule: FrequencySchedule
    target_length: int
    carried: Carried | None
    refusal: str | None = None
    layers: str = "full"

    @property
    def architecture(self) -> str:
        """The name that facts are kept under: the model_type of config.json."""
        # A composite's own type, not its text model's: most programs have another class for it.
        return self.facts.model_type or self.facts.text_type

    @property
    def kind(self) -> str | None:
        """The stock type that the configuration uses for the main entry."""
        return None if self.carried is None else self.carried.entries[self.facts.main].kind

    @property
    def entry(self) -> Mapping[str, Any]:
        """The main rotary entry as transformers reads it; empty where there is none."""
        return {} if self.carried is None else self.carried.entries[self.facts.main].values

    @property
    def flat(self) -> bool:
        """Whether one rotary entry serves all layers."""
        return tuple(self.facts.ropes) == (DEFAULT,)

    @property
    def text(self) -> Mapping[str, Any]:
        """The text model's part of the configuration that carries the schedule."""
        assert self.carried is not None
        here: Mapping[str, Any] = self.carried.config
        for key in self.facts.text_path:
            here = here[key]
        return here

    def inside(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Content of the text model, wrapped for a composite."""
        wrapped: dict[str, Any] = dict(content)
        for key in reversed(self.facts.text_path):
            wrapped = {key: wrapped}
        return wrapped


@dataclass(frozen=True)
class Way:
    """One manner of writing a schedule. `forms` are the facts that must all hold for it to be exact; `native` says
    that the program has a type of its own for this method, rather than lists of factors."""

    name: str
    forms: tuple[str, ...]
    native: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fragment:
    """What to write for one way: `content` by key, `where` it goes, the launch `command` if the program has one."""

    where: str
    content: Mapping[str, Any] = field(default_factory=dict)
    command: str | None = None
    notes: tuple[str, ...] = ()


class Runtime(ABC):
    """A program that runs models: a class with `@runtime` in a file of its own in `programs/`."""

    name: ClassVar[str]
    title: ClassVar[str]
    # The distributions whose release decides what is computed, the deciding one first.
    packages: ClassVar[tuple[str, ...]]
    # The closed list of forms, each with what it means; facts are kept by these names.
    forms: ClassVar[Mapping[str, str]]
    # How a schedule of two sets is switched there, in words.
    two_sets: ClassVar[str]
    # What `export -o` writes: a checkpoint folder, an override document beside the checkpoint, or a GGUF file.
    output: ClassVar[Literal["folder", "overrides", "gguf"]] = "folder"
    # Where NAME.json lies, its facts; None is this package's folder of them, a program from elsewhere names its own.
    facts_folder: ClassVar[Path | None] = None

    @abstractmethod
    def ways(self, job: Job) -> list[Way]:
        """The manners of writing that express this schedule, the preferred first; empty where there is none."""

    @abstractmethod
    def reading(self, job: Job) -> tuple[str, ...]:
        """The forms that a config.json needs as it stands, without anything of ours (`inspect --runtime`)."""

    def served(self, facts: ModelFacts) -> tuple[int | None, str]:
        """The window that the program serves when nothing is said, and why; None where it sets no limit."""
        return None, "no limit of its own"

    @abstractmethod
    def obstacle(self, job: Job) -> str:
        """Why there is no way: a plain reason, used only where `ways` is empty."""

    def beside(self, job: Job, gguf: str) -> dict[str, str]:
        """Further small files for a folder with the GGUF file of that name, by name."""
        return {}

    @abstractmethod
    def fragment(self, job: Job, way: Way) -> Fragment:
        """What one of its ways writes."""


# Tables begin with what people ask for most.
RUNTIMES: Registry[Runtime] = Registry(
    "runtime",
    folder="ropewalk.runtimes.programs",
    group="ropewalk.runtimes",
    first=("transformers", "vllm", "sglang", "llama.cpp", "mlx", "ollama", "exllama"),
)
Program = TypeVar("Program", bound=type[Runtime])


def runtime(program: Program) -> Program:
    """Register a program under its `name`; it holds no state, so one of it serves everybody."""
    RUNTIMES.add(program.name, program(), home=program)
    return program
