"""From answers to rows by hand: credit, chance, log probabilities, Wilson's interval, the order of rows; the tree."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ropewalk.errors import UsageError
from ropewalk.evaluation.request import EvalRequest
from ropewalk.evaluation.retrieval.grid import LEAST_SHARED, common_prefix, tree_of
from ropewalk.evaluation.retrieval.inputs import asking_of
from ropewalk.evaluation.retrieval.scores import (
    SampleScore,
    by_length,
    check_scoring,
    forced_choice,
    generated,
    require_choices,
    rows_of,
    tasks_at_chance,
    teacher_forced,
    wilson,
)
from ropewalk.evaluation.tasks.base import Question
from ropewalk.evaluation.tasks.sample import Choice, Sample, Span


@dataclass
class Told:
    tokens: list[int]
    logprobs: list[float]
    greedy: list[int]


def sample_of(answer: list[Span], choices: int = 0, **about: Any) -> Sample:
    layout: Any = None
    wrong = tuple(Choice(f" w{number}", (number,)) for number in range(choices))
    return Sample("t", 64, 0.5, 3, layout, tuple(answer), wrong, 0.01, "compact", 2, **about)


SPANS = [Span(" ab", (1, 2)), Span(",", (9,), scored=False), Span(" cd", (3, 4)), Span(" e", (5,))]


@pytest.mark.parametrize(
    ("greedy", "credit"),
    [
        ([1, 2, 9, 3, 4, 5], 1.0),
        ([1, 2, 0, 3, 4, 5], 1.0),
        ([1, 2, 9, 3, 0, 5], 2 / 3),
        ([0, 2, 9, 3, 0, 5], 1 / 3),
        ([0, 2, 9, 0, 4, 0], 0.0),
    ],
)
def test_values_are_right_as_wholes_and_commas_do_not_count(greedy: list[int], credit: float) -> None:
    told = Told([1, 2, 9, 3, 4, 5], [-0.5, -0.25, -8.0, -1.0, -2.0, -4.0], greedy)
    assert teacher_forced(sample_of(SPANS), told) == SampleScore(
        "t", 64, 0.5, 3, 2, "teacher-forced", "compact", pytest.approx(credit), 0.01, logprob=-7.75
    )


@pytest.mark.parametrize(
    ("logprobs", "credit"),
    [
        ([-3.0, -4.0, -5.0], 1.0),
        ([-3.0, -3.0, -5.0], 0.5),
        ([-3.0] * 4, 0.25),
        ([-3.0, -2.0], 0.0),
        ([-900.0, -901.0], 1.0),
    ],
)
def test_the_likeliest_answer_is_chosen_and_equals_share(logprobs: list[float], credit: float) -> None:
    found = forced_choice(sample_of(SPANS), logprobs)
    below = sum(math.exp(value - logprobs[0]) for value in logprobs)
    assert found == SampleScore(
        "t", 64, 0.5, 3, 2, "forced-choice", "compact", credit, 1 / len(logprobs), logprob=logprobs[0],
        choice_logprob=pytest.approx(-math.log(below), abs=1e-12),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "credit"),
    [
        ("It is AB, then Cd\n and e.", 1.0),
        ("ab", 1 / 3),
        ("ab ab ab", 1 / 3),
        ("abc cd1 e_", 0.0),
        ("1cd (e) -ab-", 2 / 3),
        ("", 0.0),
    ],
)
def test_values_are_said_as_words_of_their_own(text: str, credit: float) -> None:
    found = generated(sample_of(SPANS), text, prompt_tokens=17)
    assert found == SampleScore(
        "t", 64, 0.5, 3, 2, "generation", "compact", pytest.approx(credit), 0.01, text=text, prompt_tokens=17
    )
    other = [Span(" x", (1,), accepted=("Mr  Oak", "oak (old)"))]
    assert [
        generated(sample_of(other), said).credit for said in ("mr oak", "the OAK (old)!", "x", "oaks")
    ] == [1, 1, 0, 0]


def test_what_is_asked_for_must_exist() -> None:
    assert [check_scoring(name) for name in ("teacher-forced", "forced-choice", "generation")]
    with pytest.raises(UsageError, match="no scoring 'best'"):
        check_scoring("best")
    require_choices(sample_of(SPANS, choices=1))
    with pytest.raises(UsageError, match="task 't' has no wrong answers"):
        require_choices(sample_of(SPANS))


def score(
    task: str = "kv", length: int = 64, depth: float | None = 0.5, index: int = 0, **about: Any
) -> SampleScore:
    given: dict[str, Any] = {
        "query": 0,
        "scoring": "generation",
        "template": "full",
        "credit": 1.0,
        "chance": 0.2,
    }
    return SampleScore(task=task, length=length, depth=depth, index=index, **given | about)


def by_hand(share: float, count: int) -> list[float]:
    """Both ends solve (p - share)^2 = 1.96^2 p (1 - p) / count."""
    z = 1.96**2 / count
    a, b, c = 1 + z, -(2 * share + z), share * share
    root = max(0.0, b * b - 4 * a * c) ** 0.5
    return [(-b - root) / (2 * a), (-b + root) / (2 * a)]


@pytest.mark.parametrize(
    ("share", "count"), [(0.5, 10), (0.0, 4), (1.0, 4), (0.3, 1), (1 / 3, 300), (0.05, 20)]
)
def test_wilsons_ends_solve_their_equation(share: float, count: int) -> None:
    found = wilson(share, count)
    assert found == pytest.approx(by_hand(share, count), abs=1e-9)
    assert 0.0 <= found[0] <= share <= found[1] <= 1.0


def test_rows_in_their_order_with_all_that_stands_in_them() -> None:
    """Tasks as they come, then lengths, then depths, those without one first; scorings apart."""
    scores = [
        score("needle", 128, 1.0, 1, credit=0.5, logprob=-2.0, choice_logprob=-0.5, prompt_tokens=100),
        score("kv", 64, None),
        score("needle", 64, 0.0, credit=0.25, chance=0.1),
        score(
            "needle",
            128,
            1.0,
            0,
            credit=0.0,
            chance=0.4,
            logprob=-4.0,
            choice_logprob=-1.5,
            prompt_tokens=103,
        ),
        score("needle", 64, None, credit=0.0),
        score("kv", 32, 0.5),
        score("needle", 128, 1.0, 2, credit=0.5, chance=0.6),
        score("needle", 128, 0.5, scoring="forced-choice"),
    ]
    rows = rows_of(scores)
    assert [(row["task"], row["length"], row["depth"], row["samples"]) for row in rows] == [
        ("needle", 64, None, 1), ("needle", 64, 0.0, 1), ("needle", 128, 0.5, 1), ("needle", 128, 1.0, 3),
        ("kv", 32, 0.5, 1), ("kv", 64, None, 1),
    ]  # fmt: skip
    assert rows[3] == {
        "task": "needle", "length": 128, "depth": 1.0, "accuracy": pytest.approx(1 / 3), "chance": pytest.approx(0.4),
        "logprob": -3.0, "samples": 3, "scoring": "generation", "ci": pytest.approx(by_hand(1 / 3, 3)),
        "template": "full", "choice_logprob": -1.0, "prompt_tokens": 102,
    }  # fmt: skip
    assert rows[1] == {
        "task": "needle", "length": 64, "depth": 0.0, "accuracy": 0.25, "chance": 0.1, "logprob": None, "samples": 1,
        "scoring": "generation", "ci": pytest.approx(by_hand(0.25, 1)), "template": "full",
    }  # fmt: skip
    both = rows_of([score(scoring="generation"), score(scoring="forced-choice")])
    assert [row["scoring"] for row in both] == ["generation", "forced-choice"]
    # The first sample by its number names the wording, whichever was answered first.
    mixed = rows_of([score(index=1, template="compact"), score(index=0, template="full")])
    assert mixed[0]["template"] == "full"


def test_lengths_weigh_rows_by_their_samples() -> None:
    rows: list[dict[str, Any]] = [
        {"length": 128, "accuracy": 1.0, "chance": 0.5, "samples": 1},
        {"length": 64, "accuracy": 0.5, "chance": 0.1, "samples": 4},
        {"length": 128, "accuracy": 0.25, "chance": 0.1, "samples": 3},
        {"length": 32, "accuracy": 0.0, "chance": 0.1, "samples": 0},
    ]
    assert by_length(rows) == [
        {"length": 64, "accuracy": 0.5, "chance": pytest.approx(0.1), "samples": 4},
        {"length": 128, "accuracy": 1.75 / 4, "chance": pytest.approx(0.2), "samples": 4},
    ]


def test_a_task_is_at_chance_until_its_interval_is_above() -> None:
    """Of 20 answers Wilson's lower end of 9 is 0.258, of 8 is 0.219; a chance of a quarter lies between."""
    answered = {
        "able": [1.0] * 9 + [0.0] * 11,
        "unable": [1.0] * 8 + [0.0] * 12,
        "elsewhere": [0.0] * 20,
        "half": [0.45] * 20,
    }
    scores = [
        score(task, 128 if task == "elsewhere" else 64, index=number, credit=credit, chance=0.25)
        for task, credits in answered.items()
        for number, credit in enumerate(credits)
    ]
    scores += [score("unable", 128, index=number, credit=1.0, chance=0.0) for number in range(20)]
    assert tasks_at_chance(scores, 64) == ["unable"]
    assert tasks_at_chance(scores, 128) == ["elsewhere"]
    # Chances that differ between questions count in the mean; the bound itself is not above chance.
    low = wilson(0.5, 4)[0]
    edge = [score(index=number, credit=number % 2, chance=low) for number in range(4)]
    assert tasks_at_chance(edge, 64) == ["kv"]
    under = [replace(one, chance=low * (0.999 if one.index else 0.9)) for one in edge]
    assert tasks_at_chance(under, 64) == []


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, dtype=np.int32)


def test_short_common_stretches_are_read_again_and_long_ones_once() -> None:
    """Seven common tokens are read with each text, eight once before them; by default eight are the least."""
    assert LEAST_SHARED == 8
    for shared, nodes in ((7, 0), (8, 1)):
        texts = [ids(*range(shared), last, 50) for last in (90, 91)]
        root = tree_of(texts)
        assert root.tokens() == (2 * (shared + 2) if nodes == 0 else shared + 4)
        if nodes:
            [node] = root.children
            assert (node.start, node.stop, node.ends) == (0, 8, [])
            assert sorted((child.start, child.stop, child.ends) for child in node.children) == [
                (8, 10, [0]),
                (8, 10, [1]),
            ]
        else:
            assert sorted((child.start, child.stop, child.ends) for child in root.children) == [
                (0, 9, [0]),
                (0, 9, [1]),
            ]


def test_tokens_compare_by_size_and_a_beginning_ends_where_it_ends() -> None:
    """Tokens beyond a byte, and a text that is the beginning of two others, and stands there twice."""
    texts = [ids(300, 2, 3, 4), ids(300, 2), ids(1, 300), ids(300, 2, 9), ids(300, 2)]
    root = tree_of(texts, least=1)
    assert root.tokens() == 2 + 2 + 2 + 1
    [shared] = [node for node in root.children if node.stop == 2 and node.ends != [2]]
    assert sorted(shared.ends) == [1, 4]
    assert sorted(node.ends for node in shared.children) == [[0], [3]]
    empty = tree_of([])
    assert (empty.tokens(), empty.children, empty.ends) == (0, [], [])
    assert [
        common_prefix(a, b) for a, b in ((ids(1, 2), ids(1, 2, 3)), (ids(4), ids(5)), (ids(), ids(1)))
    ] == [2, 0, 0]


def test_what_is_asked_is_what_the_request_says(tmp_path: Path) -> None:
    (tmp_path / "hay.txt").write_text("Some hay.")
    rows = [{"question": f"q{n}", "answer": f"a{n}", "document": f"d{n}"} for n in range(2)]
    (tmp_path / "qa.jsonl").write_text("\n".join(map(json.dumps, rows)))
    plain = EvalRequest(model="m", tasks=["ppl", "needle", "qa"], depths=3, samples=2, seed=5, grid="packed")
    asked = asking_of(plain, [64, 128])
    assert (asked.tasks, asked.lengths, asked.depths, asked.samples, asked.seed, asked.grid) == (
        ["needle", "qa"], [64, 128], 3, 2, 5, "packed",
    )  # fmt: skip
    assert (asked.haystack, asked.questions) == (None, ())
    files = {"haystack": str(tmp_path / "hay.txt"), "questions": str(tmp_path / "qa.jsonl")}
    asked = asking_of(plain.model_copy(update=files), [64])
    assert asked.haystack == ["Some hay."]
    assert asked.questions == tuple(Question(f"q{n}", (f"a{n}",), f"d{n}") for n in range(2))
