"""Retrieval tasks: one file a kind. `make_groups` gives samples of exact length, `text_sample` plain text."""

from ropewalk.evaluation.tasks.base import KINDS, Question, Setting, Task
from ropewalk.evaluation.tasks.registry import (
    GROUPS,
    TEMPLATES,
    even_depths,
    find_kinds,
    make_groups,
    text_sample,
)
from ropewalk.evaluation.tasks.sample import Choice, Sample, Span, TextSample
from ropewalk.text.encoder import ByteEncoder, Encoder, Frame, TokenizerEncoder, chat_frame, completion_frame

__all__ = [
    "GROUPS",
    "KINDS",
    "TEMPLATES",
    "ByteEncoder",
    "Choice",
    "Encoder",
    "Frame",
    "Question",
    "Sample",
    "Setting",
    "Span",
    "Task",
    "TextSample",
    "TokenizerEncoder",
    "chat_frame",
    "completion_frame",
    "even_depths",
    "find_kinds",
    "make_groups",
    "text_sample",
]
