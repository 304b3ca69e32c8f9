"""The rules behind the task texts: what may stand in a filler, how wrong answers are drawn, and where bounds lie."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_eval_tasks import QUESTIONS, byte_setting

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.evaluation.tasks import (
    KINDS,
    ByteEncoder,
    Question,
    Setting,
    biographies,
    completion_frame,
    documents,
    even_depths,
    make_groups,
    qa,
)
from ropewalk.evaluation.tasks.haystack import Filler, Insert, Parts, count_sentences, lay_out
from ropewalk.evaluation.tasks.values import FORMS, Form, alike, distinct_keys, draw_wrong
from ropewalk.text import words
from ropewalk.text.encoder import Frame, Piece

# Group, whether it is asked by depth, sentences that it needs at the least, answers that the question itself offers.
DECLARED: dict[str, tuple[str | None, bool, int, int | None]] = {
    "passkey": (None, True, 2, None),
    "needle": (None, True, 2, None),
    "kv": (None, True, 4, None),
    "multi-needle": (None, False, 2, None),
    "distractors": (None, True, 2, None),
    "needle-packed": (None, True, 2, None),
    "bio": ("harder", True, 2, None),
    "bio-compare": ("harder", False, 2, 4),
    "bio-order": ("harder", False, 2, None),
    "bio-count": ("harder", False, 2, 6),
    "hidden-link": ("harder", True, 2, None),
    "graph": ("harder", False, 4, None),
    "mentions": ("harder", False, 2, None),
    "state": ("harder", False, 2, None),
    "doc-qa": ("harder", True, 2, None),
    "doc-qa-packed": (None, True, 2, None),
    "qa": (None, True, 1, None),
    **{name: ("ruler", False, 2, None) for name in KINDS if name.startswith("niah") or name in ("vt", "fwe")},
    "cwe": ("ruler", False, 3, None),
}


def test_what_every_kind_declares() -> None:
    assert {
        name: (kind.group, kind.by_depth, kind.least_sentences, kind.offered) for name, kind in KINDS.items()
    } == DECLARED


@pytest.mark.parametrize("name", KINDS)
def test_so_many_wrong_answers_as_were_asked_for_and_are_on_offer(name: str) -> None:
    for num_choices in (2, 3, 9, 30):
        setting = byte_setting(num_choices=num_choices)
        [group] = make_groups(name, setting, lengths=[3300], depths=[0.5], samples=1, template="compact")
        most = {"bio-compare": 3, "bio-count": 5, "bio-order": 23, "state": 7, "fwe": None}.get(name)
        for sample in group:
            texts = [choice.text for choice in sample.choices]
            assert len(texts) == len(set(texts)) == min(num_choices - 1, most or num_choices)
            assert sample.answer_text not in texts
            for choice in sample.choices:
                assert bytes(choice.ids).decode() == choice.text


@pytest.fixture
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few words that whatever can meet does meet."""
    monkeypatch.setattr(words, "NAMES", words.NAMES[:6])
    monkeypatch.setattr(words, "NOUNS", words.NOUNS[:9])
    monkeypatch.setattr(words, "ADJECTIVES", words.ADJECTIVES[:5])
    monkeypatch.setattr(words, "PLACES", words.PLACES[:3])
    monkeypatch.setattr(documents, "BUILDINGS", documents.BUILDINGS[:3])


def filler_of(task: Any, count: int) -> list[str]:
    return list(itertools.islice(task.sentences(), count))


@pytest.mark.parametrize("index", range(4))
def test_nothing_that_is_asked_for_stands_in_the_filler(few_words: None, index: int) -> None:
    setting = byte_setting(template="compact", num_choices=4)
    made: dict[str, Any] = {
        name: KINDS[name](setting, index) for name in ("bio", "bio-count", "kv", "doc-qa", "niah_multikey_2")
    }
    lives = filler_of(made["bio"], 40)
    names = [re.match(r" (.+), born", line)[1] for line in lives]  # type: ignore[index]
    assert len(set(names)) == 40
    assert not set(names) & set(made["bio"].people)
    counted = filler_of(made["bio-count"], 40)
    assert not any(f"kept a {made['bio-count'].pets[0]}." in line for line in counted)
    task = made["kv"]
    pairs = [line.split(": ")[0] for line in filler_of(task, 40)]
    assert len(set(pairs)) == 40
    assert not set(pairs) & {task.key, *task.other_keys}
    task = made["doc-qa"]
    found = [re.match(r"- The \w+ (\w+) of (.+), by (.+)\.", line).groups() for line in filler_of(task, 60)]  # type: ignore[union-attr]
    assert not {(kind, place) for kind, place, _ in found} & set(task.titles)
    assert not {name for *_, name in found} & {*task.builders, *task.strangers}
    task = made["niah_multikey_2"]
    found = [re.match(r" A number of (.+) is (\d+)", line).groups() for line in filler_of(task, 60)]  # type: ignore[union-attr]
    assert not {key for key, _ in found} & set(task.keys)
    assert not {value for _, value in found} & {value for values in task.values for value in values}


def test_values_of_needles_meet_none_of_the_right_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of one digit: eight keys have eight of the nine, and the filler may only ever say the ninth."""
    forms = {"compact": {**FORMS["compact"], "number": Form("number", (1,))}}
    monkeypatch.setattr("ropewalk.evaluation.tasks.base.FORMS", forms)
    task: Any = KINDS["niah_multikey_2"](byte_setting(template="compact", num_choices=3), 0)
    taken = {value for values in task.values for value in values}
    said = {re.search(r"is (\d+)\.", line)[1] for line in filler_of(task, 30)}  # type: ignore[index]
    assert len(taken) == 8
    assert said == set("123456789") - taken
    copies: Any = KINDS["distractors"](byte_setting(template="compact", num_choices=9), 0)
    for index in range(12):
        copies = KINDS["distractors"](byte_setting(template="compact", num_choices=9), index)
        assert len({copies.values[0], *copies.near_values}) == 5
        first, second = copies.keys[0].split("-")
        assert all(key.split("-")[0] == first or key.split("-")[1] == second for key in copies.near_keys)
        assert len({copies.keys[0], *copies.near_keys}) == 5
        # The copies' values are the first wrong answers.
        assert [value for (value,) in copies.wrong[0][:4]] == copies.near_values


def test_arrows_lead_from_each_node_once_and_never_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "LETTERS", "abcd")
    task: Any = KINDS["graph"](byte_setting(template="compact", num_choices=3), 0)
    pairs = [line.strip().split(" -> ") for line in filler_of(task, 30)]
    asked = {*task.walk, *task.decoys[0], *task.decoys[1], *task.strangers}
    assert len({start for start, _ in pairs}) == 30
    assert all(start != end for start, end in pairs)
    assert not asked & {node for pair in pairs for node in pair}
    # A node that an arrow has left before is the end of no later one: walks do not run into each other.
    left: set[str] = set()
    for start, end in pairs:
        assert not {start, end} & left
        left.add(start)


class Uneven(ByteEncoder):
    """A number of tokens that depends on the value: as many as its last digit says, or its letters' count."""

    def ids(self, text: str) -> tuple[int, ...]:
        last = text[-1]
        return tuple(range(1 + int(last) % 3 if last.isdigit() else 1 + len(text) % 4))


def plain_wrong(right: str, form: Form, count: int, seed: int) -> list[str]:
    rng, found = random.Random(seed), []
    while len(found) < count:
        tried = [form.draw(rng)]
        while (
            tried[-1] == right
            or tried[-1] in found
            or len(Uneven().ids(tried[-1])) != len(Uneven().ids(right))
        ) and len(tried) < 41:
            tried.append(form.draw(rng))
        if tried[-1] != right and tried[-1] not in found:
            found.append(tried[-1])
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("right", "size", "count"), [("5", 1, 8), ("47", 2, 40), ("4", 1, 3), ("1234", 4, 7)]
)
def test_wrong_values_are_as_long_as_the_right_one_until_forty_draws_found_none(
    right: str, size: int, count: int, seed: int
) -> None:
    form = Form("number", (size,))
    found = draw_wrong(Uneven(), random.Random(seed), right, form, count)
    assert found == plain_wrong(right, form, count, seed)
    assert len({*found, right}) == count + 1


def test_answers_that_compete_are_equally_long_where_a_thousand_draws_hold_them() -> None:
    pool = ["a", "bb", "cc", "dddd", "eeee", "ffff", "ggggg"]

    def drawer(seed: int) -> Any:
        rng = random.Random(seed)
        return lambda: rng.choice(pool)

    class Long(ByteEncoder):
        pass

    for seed in range(5):
        assert len(alike(Long(), drawer(seed), 1)[0]) > 0
        assert sorted(alike(Long(), drawer(seed), 3)) == ["dddd", "eeee", "ffff"]
        # Four of one length there are not: the largest family first, then the next.
        four = alike(Long(), drawer(seed), 6)
        assert sorted(four[:3]) == ["dddd", "eeee", "ffff"]
        assert sorted(four[3:5]) == ["bb", "cc"]
        assert len(four) == 6
    draws: list[int] = []

    def counted() -> str:
        draws.append(1)
        return "x" * (1 + len(draws) % 2)

    assert alike(Long(), counted, 2) == ["xx", "x"]
    assert len(draws) == 1000


def test_forms_and_keys() -> None:
    assert {
        "full": {
            "number": Form("number", (7,)), "passkey": Form("number", (5,)), "uuid": Form("hex", (8, 4, 4, 4, 12)),
        },
        "compact": {"number": Form("number", (5,)), "passkey": Form("number", (5,)), "uuid": Form("hex", (8,))},
    } == FORMS  # fmt: skip
    assert [Form("number", (size,)).possibilities for size in (1, 3)] == [9, 900]
    assert Form("hex", (2, 1)).possibilities == 4096
    assert sorted(Form("number", (1,)).distinct(random.Random(0), 9)) == list("123456789")
    assert {len(Form("hex", (2, 1)).draw(random.Random(n))) for n in range(9)} == {4}
    assert len(set(distinct_keys(random.Random(0), 30))) == 30


@pytest.mark.parametrize(("name", "most"), [("needle-packed", 64), ("doc-qa-packed", 16)])
def test_a_packed_text_holds_so_many_and_no_more(name: str, most: int) -> None:
    task = KINDS[name](byte_setting(template="compact"), 0)
    asks = task.asks(even_depths(most))
    assert len(asks) == most
    assert len({ask.values for ask in asks}) == most
    assert [len(ask.inserts) for ask in asks] == [most] * most
    # The other needles' values first, those behind before those in front.
    assert [ask.wrong[0] for ask in asks] == [asks[(number + 1) % most].values for number in range(most)]
    with pytest.raises(UsageError, match=f"{most + 1} depths in one packed text, at most {most} fit"):
        task.asks(even_depths(most + 1))


@pytest.mark.parametrize("name", ["passkey", "kv", "qa", "graph", "niah_single_1"])
def test_as_many_places_as_depths_and_as_sentences_that_are_needed(name: str) -> None:
    """Depths n of a task by depth need n - 1 sentences, and never fewer than the task itself needs."""
    task = KINDS[name](byte_setting(template="compact"), 0)
    _, by_depth, least, _ = DECLARED[name]
    for count in (1, 3, 9):
        depths = even_depths(count)
        wanted = max(least, count - 1) if by_depth else least
        fixed = max(
            sum(
                len(text.encode())
                for text in (ask.head, ask.question, ask.lead, *(text for text, _ in ask.inserts))
            )
            + len(" ".join(["", *ask.values]))
            for ask in task.asks(depths)
        )
        sentences = [next_one.encode() for next_one in itertools.islice(task.sentences(), wanted)]
        needed = fixed + sum(map(len, sentences))
        made = task.samples(needed, depths)
        assert {sample.layout.count for sample in made} == {wanted}
        assert {sample.layout.remainder for sample in made} <= {0} if by_depth else True
        with pytest.raises(UsageError, match=f"length {needed - 1}: it needs at least {needed} tokens"):
            task.samples(needed - 1, depths)


def sentences_of(*texts: str) -> Iterator[str]:
    return iter(texts)


def test_a_filler_by_hand() -> None:
    filler = Filler(sentences_of("abc", "de", "fghi"), ByteEncoder(), source="s")
    assert [filler.whole_sentences(tokens) for tokens in (0, 2, 3, 4, 5, 8, 9)] == [0, 0, 1, 1, 2, 2, 3]
    assert [filler.sentence_tokens(count) for count in range(4)] == [0, 3, 5, 9]
    assert bytes(filler.ids(1, 3).tolist()) == b"defghi"
    assert filler.text(0, 2) == "abcde"
    assert bytes(filler.cut(1, 4).tolist()) == b"defg"
    assert filler.cut(3, 0).tolist() == []
    assert filler.ids(0, 1).dtype == np.int32
    with pytest.raises(RopewalkError, match="s: 9 tokens in all, this length needs 10"):
        filler.whole_sentences(10)


def test_so_many_sentences_fit_beside_what_is_fixed() -> None:
    def made() -> Filler:
        return Filler(iter(["abc", "de", "fghi", "jk", "lmnop"] * 4), ByteEncoder(), source="s")

    assert [count_sentences("t", length, 20, made(), 2) for length in (25, 28, 29, 31)] == [2, 2, 3, 4]
    for length in (24, 21, 20, 5):
        with pytest.raises(
            UsageError, match=f"'t' does not fit in length {length}: it needs at least 25 tokens"
        ):
            count_sentences("t", length, 20, made(), 2)
    assert count_sentences("t", 20, 20, made(), 0) == 0


def piece(text: str) -> Piece:
    return Piece(text, tuple(text.encode()))


@pytest.mark.parametrize("rest", [None, "XYZXYZXYZ"])
def test_a_layout_by_hand(rest: str | None) -> None:
    """Head, sentences with their needles, what is left over, question, and the first words of the answer."""
    filler = Filler(iter(["aaa", "bb", "cccc", "ddddd", "ee", "fff"]), ByteEncoder(), source="s")
    last = None if rest is None else Filler(iter([rest]), ByteEncoder(), source="r")
    inserts = (
        Insert(piece("(1)"), 1.0),
        Insert(piece("(0)"), 0.0),
        Insert(piece("(m)"), 0.5),
        Insert(piece("(n)"), 0.4),
    )
    parts = Parts(piece("HEAD"), inserts, piece("QQ"), piece("LL"), 5)
    frame = Frame(piece("<b>"), piece("</b>"))
    fixed = 3 + 4 + 12 + 2 + 4 + 2 + 5
    assert parts.tokens(frame) == fixed
    assert filler.whole_sentences(12) == 3
    # Three sentences are nine tokens; three more are left to fill.
    layout = lay_out(
        parts, length=fixed + 12, count=3, encoder=ByteEncoder(), frame=frame, filler=filler, rest=last
    )
    left = "ddd" if rest is None else "XYZ"
    # 0.5 and 0.4 of three sentences are two and one; what stands at one place stands in the order of its asking.
    content = f"HEAD(0)aaa(n)bb(m)cccc(1){left}QQ"
    assert layout.content() == content
    assert layout.text() == f"<b>{content}</b>LL"
    assert bytes(layout.ids().tolist()).decode() == layout.text()
    assert len(layout.ids()) + 5 == fixed + 12


def test_an_own_question_file_makes_the_texts_of_its_rows() -> None:
    rows = (
        Question("q0", ("Ada", "ADA L."), "d0"), Question("q1", ("Bob",), "d1"), Question("q2", ("ada l.",), "d2"),
        Question("q3", ("Cy",), "d0"), Question("q4", ("Bob", "Rob"), "d3"),
    )  # fmt: skip
    encoder = ByteEncoder()
    for index in range(10):
        setting = Setting(encoder, completion_frame(encoder), "compact", num_choices=9, questions=rows)
        task: Any = KINDS["qa"](setting, index)
        row = task.row
        # Every other document once, and never its own; no answer that is right under another spelling.
        assert sorted(task.distractors) == sorted({one.document for one in rows} - {row.document})
        right = {answer.casefold() for answer in row.answers}
        wrong = {one.answers[0] for one in rows if not right & {answer.casefold() for answer in one.answers}}
        assert {value for (value,) in task.wrong} == wrong
        assert len(task.wrong) == len(wrong)
        [ask] = task.asks([0.25])
        assert (ask.inserts, ask.values, ask.accepted, ask.chance) == (
            ((f"- {row.document}\n", 0.25),), (row.answers[0],), (row.answers,), 0.0,
        )  # fmt: skip
        few = Setting(encoder, completion_frame(encoder), "compact", num_choices=2, questions=rows)
        assert len(KINDS["qa"](few, index).wrong) == 1  # type: ignore[attr-defined]
    assert (
        KINDS["qa"](byte_setting(), 0).filler_source()
        == f"the question file's other {len(QUESTIONS) - 1} documents"
    )


def test_question_files_hold_texts_and_are_not_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "qa.jsonl"

    def read(*lines: dict[str, Any]) -> tuple[Question, ...]:
        file.write_text("\n".join(json.dumps(line) for line in lines))
        return qa.read_questions(file)

    good = {"question": "q", "answers": [3, 2.5, " x "], "document": "a\n b"}
    other = {"query": "r", "answer": "y", "passage": "c"}
    assert read(good, other) == (Question("q", ("3", "2.5", "x"), "a b"), Question("r", ("y",), "c"))
    # The first name that has something, in the order of the names; what is no text is no spelling.
    both = {
        "question": None,
        "query": "r",
        "answers": None,
        "answer": ["y", None, {}],
        "context": "c",
        "text": "d",
    }
    assert read(both, good)[0] == Question("r", ("y",), "c")
    for line, said in (
        (good | {"question": "  "}, "'question' is not a text"),
        (good | {"document": ""}, "'document' is not a text"),
        (good | {"answers": ["x", " "]}, "no answer that is a text"),
        (good | {"answers": [None]}, "no answer that is a text"),
    ):
        with pytest.raises(RopewalkError, match=said):
            read(line, other)
    with pytest.raises(RopewalkError, match="holds 2 questions over fewer than two different documents"):
        read(good, good)
    assert qa.MAX_FILE_BYTES == 2**30
    size = len(json.dumps(good)) + 1 + len(json.dumps(other))
    for most in (size, size - 1):
        monkeypatch.setattr(qa, "MAX_FILE_BYTES", most)
        if most == size:
            assert len(read(good, other)) == 2
            continue
        with pytest.raises(UsageError, match=f"is larger than {most} bytes"):
            read(good, other)


def test_a_count_is_one_of_its_six_and_a_birth_one_of_its_years() -> None:
    counts, years = set(), set()
    for index in range(60):
        task: Any = KINDS["bio-count"](byte_setting(template="compact"), index)
        counts.add(task.num)
        assert len(task.people) == len(set(task.people)) == len(task.places) == task.num
        assert set(task.pets) <= set(biographies.PETS)
        assert list(task.places) == sorted(task.places)
        years |= set(KINDS["bio"](byte_setting(template="compact"), index).years)  # type: ignore[attr-defined]
    assert counts == {1, 2, 3, 4, 5, 6}
    assert min(years) >= 1200
    assert max(years) < 2000
