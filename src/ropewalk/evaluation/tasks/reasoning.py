"""Tasks in which the answer is not found by the question's own words: links, walks, order of mention, state.

`hidden-link` is of NoLiMa's kind (arXiv 2502.05167: question and fact share no content word), `graph` of GraphWalks',
`mentions` of MRCR's (which of several like it), `state` of BABILong's (arXiv 2406.10149); all from our own words.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

from ropewalk.evaluation.tasks.base import Ask, Task, task
from ropewalk.evaluation.tasks.values import alike, distinct_keys
from ropewalk.text import words

# What stands in the text, and what the question calls it. No word is shared between the two columns.
LINKS = (
    ("poodle", "dog"),
    ("siamese", "cat"),
    ("violin", "musical instrument"),
    ("canoe", "boat"),
    ("oak", "tree"),
    ("tulip", "flower"),
    ("sparrow", "bird"),
    ("trout", "fish"),
    ("ruby", "gem"),
    ("hammer", "tool"),
    ("cheddar", "cheese"),
    ("sonnet", "poem"),
    ("waltz", "dance"),
    ("dagger", "weapon"),
    ("mitten", "glove"),
    ("sandal", "shoe"),
    ("sofa", "piece of furniture"),
    ("beetle", "insect"),
    ("lorry", "vehicle"),
    ("potato", "vegetable"),
)
# Of one length: a model that knows nothing likes the shortest.
ROOMS = ("attic", "cabin", "foyer", "lobby", "patio", "porch", "study", "vault")
ORDINALS = ("first", "second", "third", "fourth")
STEPS = {"full": 3, "compact": 2}


@task
class HiddenLink(Task):
    """Somebody has a poodle; who has a dog? Others have things of other kinds."""

    name = "hidden-link"
    group = "harder"
    summary = "a fact that shares no word with its question, by depth"
    by_depth = True
    templates = {  # noqa: RUF012
        "full": {
            "head": "Remember what the following text says about people.\n",
            "needle": " In the house of {name} there is a {thing}.",
            "question": "\nWhich person owns a {kind}?",
            "lead": " The person is",
        },
        "compact": {
            "head": "",
            "needle": " {name} has a {thing}.",
            "question": "\nWho owns a {kind}?",
            "lead": " It is",
        },
    }
    num_people = 4

    def draw(self) -> None:
        pairs = self.rng.sample(LINKS, self.num_people)
        wanted = self.num_people + self.setting.num_choices
        every = alike(self.setting.encoder, lambda: words.person(self.rng), wanted)
        self.people, self.strangers = every[: self.num_people], every[self.num_people :]
        self.kind = pairs[0][1]
        self.needles = [
            self.words["needle"].format(name=name, thing=thing)
            for name, (thing, _) in zip(self.people, pairs, strict=True)
        ]

    def sentences(self) -> Iterator[str]:
        return self.prose()

    def asks(self, depths: Sequence[float]) -> list[Ask]:
        gold, *others = self.needles
        near = [(text, (number + 0.5) / len(others)) for number, text in enumerate(others)]
        wrong = [*self.people[1:], *self.strangers][: self.setting.num_choices - 1]
        return [
            Ask(
                head=self.words["head"],
                inserts=(*near, (gold, depth)),
                question=self.words["question"].format(kind=self.kind),
                lead=self.words["lead"],
                values=(self.people[0],),
                wrong=tuple((name,) for name in wrong),
                # A guesser who sees that people have things takes one of the four.
                chance=1 / self.num_people,
                depth=depth,
            )
            for depth in depths
        ]


@task
class GraphWalk(Task):
    """`abc -> def` line by line, one arrow from each node; then: where do two or three arrows lead?"""

    name = "graph"
    group = "harder"
    summary = "follow arrows through a list of arrows"
    least_sentences = 4
    templates = {  # noqa: RUF012
        "full": {
            "head": "A list of arrows between places follows. From each place leads at most one arrow.\n",
            "edge": "{start} -> {end}\n",
            "question": "\nStart at {start} and follow {steps} arrows. Where do you end?\n",
            "lead": "You end at",
        },
        "compact": {
            "head": "",
            "edge": "{start} -> {end}\n",
            "question": "\nStart at {start}, follow {steps} arrows.\n",
            "lead": "You end at",
        },
    }

    def draw(self) -> None:
        self.letters = 5 if self.setting.template == "full" else 3
        self.steps = STEPS[self.setting.template]
        nodes: dict[str, None] = {}
        while len(nodes) < 3 * (self.steps + 1) + self.setting.num_choices:
            nodes[words.coded_word(self.rng, self.letters)] = None
        every, size = list(nodes), self.steps + 1
        self.walk, self.decoys = every[:size], (every[size : 2 * size], every[2 * size : 3 * size])
        self.strangers = every[3 * size :]
        self.places = {id_: self.rng.random() for id_ in every[: 3 * size]}

    def _edges(self, nodes: Sequence[str]) -> list[tuple[str, float]]:
        return [
            (self.words["edge"].format(start=start, end=end), self.places[start])
            for start, end in itertools.pairwise(nodes)
        ]

    def sentences(self) -> Iterator[str]:
        rng = random.Random(f"{self.setting.seed}/{self.name}/{self.index}/edges")
        taken = {*self.walk, *itertools.chain(*self.decoys), *self.strangers}
        for number in itertools.count():
            # Three letters run out; longer nodes then keep one arrow from each.
            extra = number // 4000
            start, end = (words.coded_word(rng, self.letters + extra) for _ in range(2))
            if start in taken or end in taken or start == end:
                continue
            taken.add(start)
            yield self.words["edge"].format(start=start, end=end)

    def rest(self) -> Iterator[str] | None:
        # An arrow cut short would be an arrow to somewhere else.
        return itertools.repeat("\n")

    def asks(self, depths: Sequence[float]) -> list[Ask]:
        edges = [*self._edges(self.walk), *(edge for decoy in self.decoys for edge in self._edges(decoy))]
        wrong = [*self.walk[1:-1], *(decoy[-1] for decoy in self.decoys), *self.strangers]
        return [
            Ask(
                head=self.words["head"],
                inserts=tuple(edges),
                question=self.words["question"].format(start=self.walk[0], steps=self.steps),
                lead=self.words["lead"],
                values=(self.walk[-1],),
                wrong=tuple((node,) for node in wrong[: self.setting.num_choices - 1]),
                # A guesser who sees the text takes one of the nodes on the ways that are laid through it.
                chance=1 / (3 * (self.steps + 1)),
            )
        ]


@task
class Mentions(Task):
    """Four notes about one thing, told apart by nothing but their order; one of them is asked for."""

    name = "mentions"
    group = "harder"
    summary = "which of four like notes came first, second, third or fourth"
    templates = {  # noqa: RUF012
        "full": {
            "head": "Notes are hidden within the following text. Remember them in their order.\n",
            "needle": " A note on {key} says {value}.",
            "question": "\nWhat does the {ordinal} note on {key} say?",
            "lead": " The {ordinal} note on {key} says",
        },
        "compact": {
            "head": "",
            "needle": " {key} says {value}.",
            "question": "\nWhat did {key} say {ordinal}?",
            "lead": " {key} says",
        },
    }

    def draw(self) -> None:
        form = self.form()
        [self.key] = distinct_keys(self.rng, 1)
        self.values = form.distinct(self.rng, len(ORDINALS))
        self.asked = self.rng.randrange(len(ORDINALS))
        self.places = sorted(self.rng.random() for _ in ORDINALS)
        fresh = [value for (value,) in self.fresh_wrong(self.values[self.asked], form)]
        others = [value for value in self.values if value != self.values[self.asked]]
        wrong = dict.fromkeys([*others, *fresh])
        self.wrong = tuple((value,) for value in list(wrong)[: self.setting.num_choices - 1])

    def sentences(self) -> Iterator[str]:
        return self.prose()

    def asks(self, depths: Sequence[float]) -> list[Ask]:
        ordinal = ORDINALS[self.asked]
        needles = [self.words["needle"].format(key=self.key, value=value) for value in self.values]
        return [
            Ask(
                head=self.words["head"],
                inserts=tuple(zip(needles, self.places, strict=True)),
                question=self.words["question"].format(key=self.key, ordinal=ordinal),
                lead=self.words["lead"].format(key=self.key, ordinal=ordinal),
                values=(self.values[self.asked],),
                wrong=self.wrong,
                # Whoever finds the notes and not their order is right one time in four.
                chance=1 / len(ORDINALS),
            )
        ]


@task
class State(Task):
    """Two people carry two things from room to room; where is one of them at the end?"""

    name = "state"
    group = "harder"
    summary = "where a thing is after several moves through the text"
    templates = {  # noqa: RUF012
        "full": {
            "head": "Remember where people go in the following text and what they carry.\n",
            "go": " {name} went to the {room}.",
            "take": " {name} picked up the {thing} there.",
            "drop": " {name} left the {thing} there.",
            "question": "\nWhere is the {thing} now?",
            "lead": " The {thing} is in the",
        },
        "compact": {
            "head": "",
            "go": " {name} went to the {room}.",
            "take": " {name} took the {thing}.",
            "drop": " {name} left the {thing}.",
            "question": "\nWhere is the {thing}?",
            "lead": " The {thing} is in the",
        },
    }
    THINGS = ("lamp", "ladder", "teapot", "umbrella", "violin", "suitcase")

    def draw(self) -> None:
        names, things = self.rng.sample(words.NAMES, 2), self.rng.sample(self.THINGS, 2)
        self.thing = things[0]
        # The carrier walks on after leaving the thing, so that the last room named is not the answer.
        first, second = self.rng.sample(ROOMS, 4), self.rng.sample(ROOMS, 3)
        self.right = first[1]
        story = self._story(names[0], things[0], first)
        other = self._story(names[1], things[1], second)
        places = sorted(self.rng.random() for _ in range(len(story) + len(other)))
        mine = sorted(self.rng.sample(range(len(places)), len(story)))
        theirs = [place for place in range(len(places)) if place not in mine]
        self.inserts = sorted(
            [*zip(mine, story, strict=True), *zip(theirs, other, strict=True)], key=lambda item: item[0]
        )
        self.places = places
        self.wrong = [room for room in ROOMS if room != self.right]
        self.rng.shuffle(self.wrong)

    def _story(self, name: str, thing: str, rooms: Sequence[str]) -> list[str]:
        def say(what: str, room: str = "") -> str:
            return self.words[what].format(name=name, thing=thing, room=room)

        after = [say("go", room) for room in rooms[2:]]
        return [say("go", rooms[0]), say("take"), say("go", rooms[1]), say("drop"), *after]

    def sentences(self) -> Iterator[str]:
        return self.prose()

    def asks(self, depths: Sequence[float]) -> list[Ask]:
        return [
            Ask(
                head=self.words["head"],
                inserts=tuple((text, self.places[at]) for at, text in self.inserts),
                question=self.words["question"].format(thing=self.thing),
                lead=self.words["lead"].format(thing=self.thing),
                values=(self.right,),
                wrong=tuple((room,) for room in self.wrong[: self.setting.num_choices - 1]),
                chance=1 / len(ROOMS),
            )
        ]
