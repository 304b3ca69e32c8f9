"""The harder tasks, solved from their text alone: readers written here, which know nothing of how samples are made."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable

import pytest
from retrieval_models import ByteTokenizer, UniformModel

from ropewalk.evaluation.retrieval.run import Asking, plan_tasks, run_tasks
from ropewalk.evaluation.retrieval.scores import forced_choice, generated, rows_of
from ropewalk.evaluation.tasks import (
    KINDS,
    ByteEncoder,
    Sample,
    Setting,
    completion_frame,
    even_depths,
    find_kinds,
    make_groups,
)

BORN = re.compile(r" ([A-Z]\w+ [A-Z][\w-]+), born (?:in )?(\d{4}),[^.]*? kept a (\w+)\.")
NAME = r"[A-Z]\w+ [A-Z][\w-]+"
# What a reader of English knows, written down again for the test.
IS_A = {
    "poodle": "dog",
    "siamese": "cat",
    "violin": "musical instrument",
    "canoe": "boat",
    "oak": "tree",
    "tulip": "flower",
    "sparrow": "bird",
    "trout": "fish",
    "ruby": "gem",
    "hammer": "tool",
    "cheddar": "cheese",
    "sonnet": "poem",
    "waltz": "dance",
    "dagger": "weapon",
    "mitten": "glove",
    "sandal": "shoe",
    "sofa": "piece of furniture",
    "beetle": "insect",
    "lorry": "vehicle",
    "potato": "vegetable",
}


def lives(text: str) -> dict[str, tuple[int, str]]:
    return {name: (int(year), pet) for name, year, pet in BORN.findall(text)}


def bio(text: str, question: str) -> str:
    name = re.search(NAME, question).group()
    return str(lives(text)[name][0])


def compare(text: str, question: str) -> str:
    known = lives(text)
    return min(re.findall(NAME, question.partition(":")[2]), key=lambda name: known[name][0])


def order(text: str, question: str) -> str:
    known = lives(text)
    return ", ".join(sorted(re.findall(NAME, question.partition(":")[2]), key=lambda name: known[name][0]))


def count(text: str, question: str) -> str:
    pet = re.search(r"kept a (\w+)", question).group(1)
    number = sum(1 for _, _, kept in BORN.findall(text) if kept == pet)
    return str(number)


def hidden_link(text: str, question: str) -> str:
    kind = re.search(r"owns a ([a-z ]+)\?", question).group(1)
    full = re.findall(rf"In the house of ({NAME}) there is a (\w+)\.", text)
    owned = dict(full or re.findall(rf"({NAME}) has a (\w+)\.", text))
    return next(name for name, thing in owned.items() if IS_A[thing] == kind)


def graph(text: str, question: str) -> str:
    arrows = dict(re.findall(r"^(\w+) -> (\w+)$", text, re.MULTILINE))
    node = re.search(r"Start at (\w+)", question).group(1)
    for _ in range(int(re.search(r"follow (\d)", question).group(1))):
        node = arrows[node]
    return node


def mentions(text: str, question: str) -> str:
    key = re.search(r"note on ([\w-]+) say|did ([\w-]+) say", question)
    name = key.group(1) or key.group(2)
    said = re.findall(rf" {re.escape(name)} says (\d+)\.", text)
    which = re.search(r"first|second|third|fourth", question).group()
    return said[["first", "second", "third", "fourth"].index(which)]


def state(text: str, question: str) -> str:
    thing = re.search(r"Where is the (\w+)", question).group(1)
    where: dict[str, str] = {}
    carrier, lies = None, ""
    for name, verb, what in re.findall(r" (\w+) (went to|picked up|took|left) the (\w+)(?: there)?\.", text):
        if verb == "went to":
            where[name] = what
        elif what == thing:
            carrier, lies = (name, lies) if verb != "left" else (None, where[name])
    return where[carrier] if carrier else lies


def documents(text: str, question: str) -> str:
    kind, place = re.search(r"Who built the (\w+) of ([\w ]+)\?", question).groups()
    full = re.search(rf"The {kind} of {place}\. It was built in \d+ by ({NAME})\.", text)
    return (full or re.search(rf"The \w+ {kind} of {place}, by ({NAME})\.", text)).group(1)


READERS: dict[str, Callable[[str, str], str]] = {
    "bio": bio,
    "bio-compare": compare,
    "bio-order": order,
    "bio-count": count,
    "hidden-link": hidden_link,
    "graph": graph,
    "mentions": mentions,
    "state": state,
    "doc-qa": documents,
    "doc-qa-packed": documents,
}


def samples_of(name: str, length: int, count: int, template: str | None = None) -> list[Sample]:
    encoder = ByteEncoder()
    setting = Setting(encoder=encoder, frame=completion_frame(encoder), seed=11)
    groups = make_groups(
        name, setting, lengths=[length], depths=even_depths(3), samples=count, template=template
    )
    return [sample for group in groups for sample in group]


def test_every_harder_task_has_a_reader() -> None:
    assert set(READERS) == {*find_kinds(["harder"]), "doc-qa-packed"}
    assert find_kinds(["ladder"]) == ["needle", "bio", "mentions", "bio-compare", "bio-order", "bio-count"]


@pytest.mark.parametrize("template", ["full", "compact"])
@pytest.mark.parametrize("name", READERS)
def test_a_reader_of_the_text_answers_every_question(name: str, template: str) -> None:
    for length in (1500, 6000):
        for sample in samples_of(name, length, 12, template):
            question = sample.layout.question.text
            text = sample.content.removesuffix(question)
            assert READERS[name](text, question) == sample.answer_text.strip()
            right = generated(sample, f" {READERS[name](text, question)}\nand so on")
            assert right.credit == 1.0
            # The part of the text behind the question's own words holds what is needed: without it nobody can tell.
            assert sample.answer_text.strip() not in {choice.text.strip() for choice in sample.choices}


@pytest.mark.parametrize("name", READERS)
def test_a_model_that_knows_nothing_is_at_chance(name: str) -> None:
    for sample in samples_of(name, 1500, 3):
        equal = forced_choice(sample, [-5.0] * (1 + len(sample.choices)))
        assert equal.credit == pytest.approx(1 / (1 + len(sample.choices)))
        assert equal.chance == equal.credit
        assert equal.choice_logprob == pytest.approx(math.log(equal.chance))
        assert 0 < sample.chance < 0.6


def test_the_share_of_the_right_answer_among_those_on_offer() -> None:
    """Probabilities 0.2, 0.1 and 0.1 of the whole vocabulary: half of what is on offer, whatever the rest of it is."""
    [sample, *_] = samples_of("doc-qa", 1500, 3)
    for shift in (0.0, -900.0):
        found = forced_choice(sample, [math.log(0.2) + shift, math.log(0.1) + shift, math.log(0.1) + shift])
        assert found.choice_logprob == pytest.approx(math.log(0.5), abs=1e-9)
        assert found.credit == 1.0
    assert rows_of([found])[0]["choice_logprob"] == pytest.approx(math.log(0.5))
    assert "choice_logprob" not in rows_of([generated(sample, "nothing")])[0]


@pytest.mark.parametrize(("name", "chance"), [
    ("bio", 1 / 800),
    ("bio-compare", 1 / 4),
    ("bio-order", (1 / 4 + 1 / 3 + 1 / 2 + 1) / 4),
    ("bio-count", 1 / 6),
    ("hidden-link", 1 / 4),
    ("mentions", 1 / 4),
    ("state", 1 / 8),
])  # fmt: skip
def test_chance_is_what_a_guesser_who_sees_the_candidates_gets(name: str, chance: float) -> None:
    assert samples_of(name, 1500, 1)[0].chance == pytest.approx(chance)


@pytest.mark.parametrize("name", ["bio-compare", "bio-count", "mentions", "state"])
def test_answers_are_spread_evenly_over_what_is_offered(name: str) -> None:
    """Nothing but reading helps: no place in the question, no number and no room is right more often than others."""
    found = samples_of(name, 2500, 240)
    if name == "bio-compare":
        places = Counter(
            re.findall(NAME, sample.layout.question.text).index(sample.answer_text.strip())
            for sample in found
        )
    elif name == "mentions":
        places = Counter(
            re.search("first|second|third|fourth", sample.layout.question.text).group() for sample in found
        )
    else:
        places = Counter(sample.answer_text for sample in found)
    possible = {"bio-compare": 4, "bio-count": 6, "mentions": 4, "state": 8}[name]
    assert len(places) == possible
    # 240 draws: five standard deviations around the even share.
    even = 240 / possible
    assert all(abs(seen - even) < 5 * (even * (1 - 1 / possible)) ** 0.5 for seen in places.values())


def test_nobody_else_keeps_the_animal_that_is_counted() -> None:
    for sample in samples_of("bio-count", 4000, 10):
        pet = re.search(r"kept a (\w+)", sample.layout.question.text).group(1)
        assert all(f"kept a {pet}." not in sentence for sentence in sample.layout.filler._texts)


def test_the_hidden_link_shares_no_content_word_with_its_question() -> None:
    small = {"a", "is", "the", "of", "in", "who", "which", "it", "has", "there", "person", "piece"}
    for sample in samples_of("hidden-link", 2000, 40):
        asked = set(re.findall(r"[a-z]+", sample.layout.question.text.lower())) - small
        [gold] = [p.text for _, p in sample.layout.slots if sample.answer_text.strip() in p.text]
        assert not asked & set(re.findall(r"[a-z]+", gold.lower()))


def test_a_walk_needs_every_one_of_its_arrows() -> None:
    for sample in samples_of("graph", 3000, 20):
        arrows = re.findall(r"^(\w+) -> (\w+)$", sample.content, re.MULTILINE)
        starts = [start for start, _ in arrows]
        assert len(starts) == len(set(starts))
        assert sum(end == sample.answer_text.strip() for _, end in arrows) == 1


def test_the_last_room_named_is_not_the_answer() -> None:
    found = samples_of("state", 3000, 60)
    lasts = [re.findall(r"went to the (\w+)", sample.content)[-1] for sample in found]
    assert sum(last == sample.answer_text.strip() for last, sample in zip(lasts, found, strict=True)) < 15


def test_the_wrong_rooms_are_the_same_at_every_length() -> None:
    """Whatever is drawn is drawn once for a sample: lengths are compared pairwise."""
    encoder = ByteEncoder()
    task = KINDS["state"](Setting(encoder, completion_frame(encoder), num_choices=4), 0)
    choices = [[one.text for one in task.samples(length, [0.5])[0].choices] for length in (1200, 2400, 3600)]
    assert choices[0] == choices[1] == choices[2]
    assert len(choices[0]) == 3


def test_an_evaluation_takes_the_whole_group() -> None:
    plan = plan_tasks(ByteTokenizer(), Asking(tasks=["harder"], lengths=[1024, 2048], depths=3, samples=1))
    assert {sample.task for group in plan.groups for sample in group} == set(find_kinds(["harder"]))


def test_a_model_that_cannot_read_is_at_chance_in_the_real_measurement() -> None:
    rows = run_tasks(
        UniformModel(),
        ByteTokenizer(),
        tasks=["bio-compare", "state"],
        lengths=[900],
        depths=1,
        samples=2,
        scoring="forced-choice",
    )
    assert {(row["task"], row["accuracy"], row["chance"]) for row in rows} == {
        ("bio-compare", 0.25, 0.25),
        ("state", 0.125, 0.125),
    }


@pytest.mark.parametrize("name", READERS)
def test_no_answer_is_the_likeliest_by_its_length(name: str) -> None:
    for sample in samples_of(name, 1500, 6):
        assert {len(choice.ids) for choice in sample.choices} == {len(sample.answer_ids)}
