"""What a method is in general, where no model is given: its form, and the answers on the plainest architecture.

The outcome depends on the architecture; `ropewalk plan MODEL` and `ropewalk export MODEL` ask for the one at hand.
"""

from __future__ import annotations

from functools import cache

from ropewalk.methods import schedule
from ropewalk.models.facts import ModelFacts, read_facts
from ropewalk.runtimes.answer import Answer, answers, job_for
from ropewalk.runtimes.base import Job

# The shape of Llama 2 7B. Most measurements were made on this type.
REFERENCE = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "vocab_size": 32000,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
}
FACTOR = 4.0


@cache
def _facts() -> ModelFacts:
    return read_facts(REFERENCE)


def _job(method: str) -> Job:
    return job_for(_facts(), schedule(method, _facts().geometry, factor=FACTOR))


@cache
def in_general(method: str) -> dict[str, Answer]:
    """What each program makes of a method with its defaults on the reference (a Llama, factor 4)."""
    return answers(_job(method))


@cache
def written_as(method: str) -> str:
    """The stock type that config.json uses for a method: its own, or longrope as the universal carrier."""
    job = _job(method)
    assert job.carried is not None
    entry = job.carried.entries[job.facts.main]
    if entry.kind == "default":
        return "a changed rope_theta" if job.entry["rope_theta"] != REFERENCE["rope_theta"] else "no scaling"
    return f"type {entry.kind}" if entry.native else "the universal carrier"
