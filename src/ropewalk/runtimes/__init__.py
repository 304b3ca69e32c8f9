"""Who computes what: the programs that run models, what is known about each, and how to write for them.

`answers(job_for(config, schedule))` is the only place that says exact, approximate, ignored, refused or unknown.
"""

from ropewalk.runtimes.answer import Answer, answer, answers, job_for
from ropewalk.runtimes.base import Fragment, Job, Runtime, Way
from ropewalk.runtimes.known import TOLERANCE, Evidence, Fact, Facts
from ropewalk.runtimes.registry import facts_about, find_runtime, runtimes

__all__ = [
    "TOLERANCE",
    "Answer",
    "Evidence",
    "Fact",
    "Facts",
    "Fragment",
    "Job",
    "Runtime",
    "Way",
    "answer",
    "answers",
    "facts_about",
    "find_runtime",
    "job_for",
    "runtimes",
]
