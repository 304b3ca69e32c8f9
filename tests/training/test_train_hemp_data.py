"""hemp's tokenizer and generated text: exact sizes, nothing held out, answers that stand in the text."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ropewalk.errors import UsageError
from ropewalk.text.corpus import held_out_documents, training_documents
from ropewalk.text.generators import find_generator
from ropewalk.training.hemp import planted
from ropewalk.training.hemp.copying import copy_text
from ropewalk.training.hemp.planted import PHRASINGS, planted_spans
from ropewalk.training.hemp.sources import hemp_copy, hemp_planted, hemp_tasks
from ropewalk.training.hemp.text import excerpt, filler, grass, library_texts, salad, span
from ropewalk.training.hemp.tokenizer import END_OF_TEXT, NUM_BYTES, VOCAB_SIZE, build_tokenizer, byte_letters

TEXTS = ("import os\n" * 30, "a short text", "def answer():\n    return 42\n" * 20)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_each_byte_is_its_own_token(tokenizer) -> None:
    assert len(set(byte_letters())) == NUM_BYTES
    text = "".join(map(chr, range(128))) + "héllo wörld — ✓ 🙂"
    assert tokenizer.encode(text) == list(text.encode("utf-8"))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_specials_follow_the_bytes(tokenizer) -> None:
    assert len(tokenizer) == VOCAB_SIZE
    assert tokenizer.eos_token_id == NUM_BYTES
    assert tokenizer.encode(f"a{END_OF_TEXT}b") == [97, NUM_BYTES, 98]
    assert tokenizer.pad_token_id == NUM_BYTES + 1
    assert tokenizer.is_fast


@given(seed=st.integers(0, 2**32), length=st.integers(1, 700))
@example(seed=0, length=32)
@example(seed=0, length=33)
@settings(max_examples=60, deadline=None)
def test_every_maker_gives_exactly_the_length(seed: int, length: int) -> None:
    for maker in (excerpt, filler, span, copy_text):
        rng = random.Random(seed)
        assert len(maker(rng, TEXTS, length)) == length, maker.__name__
    assert len(planted_spans(random.Random(seed), TEXTS, length)[0]) == length
    assert len(salad(random.Random(seed), length)) == length
    assert len(grass(random.Random(seed), length)) == length


def test_copies_are_predictable_from_what_stands_before() -> None:
    texts = ("abcdefghij" * 100,)
    repeats = 0
    for seed in range(60):
        made = copy_text(random.Random(seed), texts, 512)
        tail = made[-8:]
        repeats += made.find(tail) < 512 - 8
    assert repeats == 60


@pytest.mark.parametrize(
    "phrasing", [p for p in PHRASINGS if p.has_key], ids=lambda p: p.question.strip()[:24]
)
def test_every_value_asked_for_was_stated_before(phrasing, monkeypatch) -> None:
    monkeypatch.setattr(planted, "PHRASINGS", (phrasing,))
    groups = {"key": r"([\w-]+)", "value": r"([\w-]+)"}
    pattern = re.escape(phrasing.question).replace(r"\{", "{").replace(r"\}", "}").format(**groups)
    asked = 0
    for seed in range(60):
        made, _ = planted_spans(random.Random(seed), ("x " * 600,), 512)
        ending = list(re.finditer(rf"(?:{pattern})+\n\Z", made))
        assert len(ending) == 1
        for match in re.finditer(pattern, ending[0].group()):
            key, value = match.groups()[-2], match.groups()[-1]
            assert (
                phrasing.fact.format(key=key, value=value) in made[: ending[0].start() + len(phrasing.joint)]
            )
            asked += 1
    assert asked >= 60


def test_no_sample_comes_from_a_held_out_module() -> None:
    held_out = {item.name for item in held_out_documents()}
    assert held_out
    assert not held_out & {item.name for item in training_documents()}
    texts = set(library_texts())
    assert not texts & {item.text for item in held_out_documents()}


@pytest.mark.parametrize("name", ["hemp-copy", "hemp-planted", "hemp-tasks"])
def test_sources_are_registered_reproducible_and_fit(tokenizer, name: str) -> None:
    make = find_generator(name)
    for number in range(30):
        first = make(np.random.default_rng([7, number]), tokenizer, 512)
        again = make(np.random.default_rng([7, number]), tokenizer, 512)
        assert first == again
        ids, weights = first if isinstance(first, tuple) else (first, [1.0] * len(first))
        assert 0 < len(ids) <= 512
        assert weights == [1.0] * len(ids)
    assert make(np.random.default_rng(1), tokenizer, 512) != make(np.random.default_rng(2), tokenizer, 512)


def test_short_rests_are_filled(tokenizer) -> None:
    for make in (hemp_copy, hemp_planted, hemp_tasks):
        for length in (1, 17, 63, 191):
            made = make(np.random.default_rng(0), tokenizer, length)
            assert len(made[0] if isinstance(made, tuple) else made) == length


def test_tasks_end_with_the_answer_that_the_text_holds(tokenizer) -> None:
    for number in range(40):
        ids, _ = hemp_tasks(np.random.default_rng([3, number]), tokenizer, 512, tasks=["passkey"])
        text = tokenizer.decode(ids)
        asked, answer = text.rstrip("\n").rsplit("The pass key is", 1)
        assert f"The pass key is{answer}." in asked


def test_weight_lies_on_the_answers_alone(tokenizer) -> None:
    for number in range(40):
        ids, weights = hemp_planted(
            np.random.default_rng([4, number]), tokenizer, 512, dense=0.7, answer_weight=9.0
        )
        heavy = tokenizer.decode([i for i, weight in zip(ids, weights, strict=True) if weight == 9.0])
        assert set(weights) <= {1.0, 9.0}
        assert heavy
        ids, weights = hemp_tasks(
            np.random.default_rng([4, number]), tokenizer, 512, ["kv"], answer_weight=9.0
        )
        answer = tokenizer.decode([i for i, weight in zip(ids, weights, strict=True) if weight == 9.0])
        assert re.fullmatch(r" \d{5}", answer)
        assert f":{answer}\n" in tokenizer.decode(ids)


def test_weights_need_one_token_a_byte() -> None:
    class Halves:
        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            return list(range(len(text) // 2))

    with pytest.raises(UsageError, match="one token a byte"):
        hemp_planted(np.random.default_rng(0), Halves(), 512, answer_weight=2.0)


def test_unknown_task_is_refused(tokenizer) -> None:
    with pytest.raises(UsageError, match="does not teach"):
        hemp_tasks(np.random.default_rng(0), tokenizer, 512, tasks=["chess"])
