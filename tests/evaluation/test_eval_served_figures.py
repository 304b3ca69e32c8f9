"""Losses and lengths of a served model by hand: what is sent, in which steps, and what is made of the answer."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from retrieval_models import ByteTokenizer

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.evaluation.served.endpoint import TooLongError, UnsupportedError
from ropewalk.evaluation.served.loss import WAYS, Way, document_losses, find_way, loss_table
from ropewalk.evaluation.served.plan import Asked, Gauge
from ropewalk.evaluation.tasks import KINDS, ByteEncoder, Setting
from ropewalk.text import words
from ropewalk.text.corpus import Document
from ropewalk.text.encoder import Frame, Piece

ECHO, ECHO_ONE, VLLM = WAYS


def test_the_ways_are_tried_in_this_order() -> None:
    assert [(way.name, way.options) for way in WAYS] == [
        ("echo", {"echo": True, "logprobs": 1, "max_tokens": 0}),
        ("echo", {"echo": True, "logprobs": 1, "max_tokens": 1}),
        ("prompt_logprobs", {"prompt_logprobs": 0, "max_tokens": 1}),
    ]


def echoed(*values: Any) -> dict[str, Any]:
    return {"logprobs": {"token_logprobs": [None, *values]}}


@pytest.mark.parametrize(
    ("way", "choice", "losses"),
    [
        (ECHO, echoed(-1.5, -2), [1.5, 2.0]),
        (ECHO, echoed(-1.5), [1.5]),
        (ECHO, echoed(), None),
        (ECHO, echoed(-1.5, None), None),
        (ECHO, echoed(-1.5, math.nan), None),
        (ECHO, echoed(-1.5, -math.inf), None),
        (ECHO, echoed(-1.5, "x"), None),
        (ECHO, {"logprobs": {"token_logprobs": None}}, None),
        (ECHO, {"logprobs": {}}, None),
        (ECHO, {"logprobs": [1, 2, 3]}, None),
        (ECHO, {}, None),
        # The word that had to be written is not the prompt's.
        (ECHO_ONE, echoed(-1.5, -2, -9), [1.5, 2.0]),
        (ECHO_ONE, echoed(-9), None),
        (VLLM, {"prompt_logprobs": [None, {"5": {"logprob": -1.5}, "3": {"logprob": -0.1}}]}, [1.5]),
        (VLLM, {"prompt_logprobs": [None, {"5": -1.5}, {"7": {"logprob": -3}}]}, [1.5, 3.0]),
        (VLLM, {"prompt_logprobs": [None, {}]}, None),
        (VLLM, {"prompt_logprobs": [None, [1.0]]}, None),
        (VLLM, {"prompt_logprobs": {"a": 1}}, None),
        (VLLM, echoed(-1.5, -2), None),
    ],
)
def test_losses_in_each_spelling(way: Way, choice: dict[str, Any], losses: list[float] | None) -> None:
    assert way.losses(choice) == losses


class Prose:
    """A server whose tokens are so many to a character, which refuses what is longer than its window."""

    def __init__(self, per_character: float = 1.0, window: float = math.inf, way: Way = ECHO) -> None:
        self.per_character, self.window, self.way = per_character, window, way
        self.chat, self.model = False, "m"
        self.sent: list[dict[str, Any]] = []

    def first_choice(self, path: str, body: dict[str, Any], complaint: Any) -> tuple[dict[str, Any], None]:
        assert path == "/completions"
        self.sent.append(body)
        tokens = math.ceil(len(body["prompt"]) * self.per_character)
        if len(body["prompt"]) > self.window:
            raise TooLongError("too long", hint="none")
        if body.items() < (self.way.options | body).items() or not self.way.options.items() <= body.items():
            raise UnsupportedError("no such option", hint="none")
        return echoed(*[-1.0 - number for number in range(tokens - 1 + self.way.options["max_tokens"])]), None

    @property
    def sizes(self) -> list[int]:
        return [len(body["prompt"]) for body in self.sent]


@pytest.mark.parametrize(
    ("per_character", "window", "text", "length", "sizes", "tokens"),
    [
        # Half the length in characters first; then the middle of what is allowed, 97.5 %, at the density that was seen.
        (0.25, math.inf, 10000, 1000, [500, 3900], 975),
        (1.0, math.inf, 10000, 1000, [500, 975], 975),
        # At once: 2 and 1.9 tokens a character are 1,000 and 950, both close enough.
        (2.0, math.inf, 10000, 1000, [500], 1000),
        (1.9, math.inf, 10000, 1000, [500], 950),
        (3.0, math.inf, 10000, 1000, [500, 325], 975),
        # Sixty-four characters at the least.
        (1.0, math.inf, 10000, 100, [64, 97], 97),
        (1.0, math.inf, 10000, 200, [100, 195], 195),
        # All of a text that is just long enough, and one that is not.
        (1.0, math.inf, 950, 1000, [500, 950], 950),
        (1.0, math.inf, 949, 1000, [500, 949], None),
        (1.0, math.inf, 300, 1000, [300], None),
        # Six hundred tokens a character: one character is too little, two too much, and none is never sent.
        (600.0, math.inf, 10000, 1000, [500, *[1] * 7], None),
        # Refused at first: a twentieth less each time until something is read, then half way between.
        (2.5, 480, 10000, 1000, [500, 475, 389], 973),
        (1.0, 960, 10000, 1000, [500, 975, 737, 856, 915, 945, 960], 960),
        # What was refused once is not sent again.
        (1.0, 400, 10000, 1000, [500, 475, 451, 428, 406, 385, 395, 400], "refused"),
    ],
)
def test_as_much_text_is_sent_as_makes_the_length(
    per_character: float, window: float, text: int, length: int, sizes: list[int], tokens: Any
) -> None:
    server: Any = Prose(per_character, window)
    given = [Document("a.txt", "x" * text)]
    if tokens == "refused":
        with pytest.raises(TooLongError, match=f"loss at {length} tokens: too long"):
            document_losses(server, ECHO, given, length)
    elif tokens is None:
        with pytest.raises(RopewalkError, match=rf"none of 1 documents \(a.txt, ...\) has {length} tokens"):
            document_losses(server, ECHO, given, length)
    else:
        [(name, losses)] = document_losses(server, ECHO, given, length).items()
        assert (name, losses) == ("a.txt", [1.0 + number for number in range(tokens - 1)])
    assert server.sizes == sizes
    assert server.sent[0] == {"model": "m", "prompt": "x" * sizes[0], "temperature": 0, **ECHO.options}


def test_documents_that_are_too_short_are_left_out_and_the_first_three_named() -> None:
    server: Any = Prose()
    given = [Document(name, "x" * size) for name, size in (("a", 50), ("b", 200), ("c", 50), ("d", 50))]
    assert list(document_losses(server, ECHO, given, 100)) == ["b"]
    with pytest.raises(RopewalkError, match=r"none of 3 documents \(a, c, d, ...\)"):
        document_losses(server, ECHO, [given[0], *given[2:]], 100)
    with pytest.raises(RopewalkError, match=r"none of 4 documents \(a, c, d, ...\)"):
        document_losses(server, ECHO, [given[0], *given[2:], given[0]], 100)
    silent: Any = SimpleNamespace(model="m", first_choice=lambda *asked: ({}, None))
    with pytest.raises(RopewalkError, match="stopped giving the prompt's log probabilities"):
        document_losses(silent, ECHO, given, 100)


@pytest.mark.parametrize("way", WAYS)
def test_the_first_way_that_answers_is_taken(way: Way) -> None:
    server: Any = Prose(way=way)
    if way is VLLM:
        server.first_choice = lambda path, body, complaint: (
            {
                "prompt_logprobs": [None] + [{"1": {"logprob": -1.0}}] * 20
                if "prompt_logprobs" in body
                else None
            },
            None,
        )
    assert find_way(server) is way
    server.chat = True
    assert find_way(server) is None


@pytest.mark.parametrize(("count", "found"), [(10, False), (11, True), (12, True)])
def test_a_sentence_of_twelve_words_has_eleven_losses_at_the_least(count: int, found: bool) -> None:
    answer = echoed(*[-1.0] * count)
    server: Any = SimpleNamespace(chat=False, model="m", first_choice=lambda path, body, complaint: (
        answer if body["max_tokens"] == 0 and "echo" in body else {}, None
    ))  # fmt: skip
    assert (find_way(server) is ECHO) is found


def test_the_served_table_has_every_length_once_over_the_same_documents() -> None:
    losses = {"a": [float(n) for n in range(1, 12)], "b": [1000.0] * 7}
    rows = loss_table(losses, [12, 2, 5, 2])
    assert [row["length"] for row in rows] == [2, 5, 12]
    assert rows[0] == {
        "length": 2, "loss": 500.5, "perplexity": math.exp(500.5), "tail_loss": 500.5, "documents": 2,
    }  # fmt: skip
    assert rows[1]["loss"] == (10 + 4000) / 8
    assert rows[1]["tail_loss"] == (4 + 1000) / 2
    # By token, not by document: eleven of one and seven of the other.
    assert rows[2]["loss"] == pytest.approx((66 + 7000) / 18)
    assert rows[2]["tail_loss"] == pytest.approx((9 + 10 + 11 + 3000) / 6)
    far = loss_table({"a": [900.0, 900.0]}, [3])[0]
    assert (far["loss"], far["perplexity"]) == (900.0, math.exp(700.0))


class Counting:
    """A server that counts `overhead` tokens and so many a byte, keeps what it was asked, and refuses long ones."""

    def __init__(
        self, overhead: int = 7, per_byte: float = 0.5, *, api: str = "completions", longest: float = math.inf
    ) -> None:
        self.api, self.chat, self.longest = api, api == "chat", longest
        self.asked: list[tuple[str, int]] = []
        self.count: Callable[[str], int | None] = lambda text: (
            overhead + math.ceil(len(text.encode()) * per_byte)
        )

    def ask(self, text: str, max_tokens: int) -> SimpleNamespace:
        self.asked.append((text, max_tokens))
        if len(text.encode()) > self.longest:
            raise TooLongError("too long", hint="none")
        return SimpleNamespace(prompt_tokens=self.count(text))


def gauge_of(server: Counting, tokenizer: Any = None, shortest: int = 1000, **options: Any) -> Gauge:
    given: Any = server
    return Gauge(given, tokenizer, shortest, **options)


def groups_of(gauge: Gauge, name: str = "passkey", **about: Any) -> list[Asked]:
    given = {"lengths": [1000, 2000], "depths": [0.0, 1.0], "samples": 1, "seed": 3, "options": {}} | about
    return [asked for group in gauge.groups(name, **given) for asked in group]


@pytest.mark.parametrize(("shortest", "sentences"), [(1000, 13), (100, 3), (300, 4), (299, 3)])
def test_the_servers_tokens_are_measured_by_two_texts(shortest: int, sentences: int) -> None:
    """A greeting, and as many sentences of sixty bytes as four fifths of the shortest length hold; three at least."""
    server = Counting(7, 0.5)
    gauge = gauge_of(server, shortest=shortest)
    rng = random.Random(0)
    prose = " ".join(words.sentence(rng) for _ in range(sentences))
    assert server.asked == [("Hello there.", 1), (prose, 1)]
    slope = (math.ceil(len(prose) / 2) - 6) / (len(prose) - 12)
    assert (gauge.exact, gauge.counts) == (False, True)
    assert gauge.tokens_per_unit == pytest.approx(slope)
    assert gauge.overhead == pytest.approx(7 + 6 - 12 * slope)
    # Tokens that a server leaves out of its count are no overhead below nothing.
    less = Counting(-4, 0.5)
    assert gauge_of(less).overhead == 0.0


def test_with_a_tokenizer_only_what_the_server_adds_is_measured() -> None:
    server = Counting(9, 1.0)
    gauge = gauge_of(server, ByteTokenizer())
    assert (gauge.exact, gauge.counts, gauge.overhead, gauge.tokens_per_unit) == (True, True, 9.0, 1.0)
    assert len(server.asked) == 1
    silent = Counting()
    silent.count = lambda text: None

    class Opening(ByteTokenizer):
        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            return [1, 2] * add_special_tokens + super().encode(text)

    quiet = gauge_of(silent, Opening())
    assert (quiet.counts, quiet.overhead, quiet.tokens_per_unit) == (False, 2.0, 1.0)
    with pytest.raises(UsageError, match="does not count tokens"):
        gauge_of(silent)


@pytest.mark.parametrize("second", [None, 13, 12])
def test_counts_that_do_not_grow_are_no_counts(second: int | None) -> None:
    server = Counting()
    server.count = lambda text: 13 if text == "Hello there." else second
    with pytest.raises(UsageError, match="do not grow with the prompt"):
        gauge_of(server)


@pytest.mark.parametrize(("api", "spare"), [("completions", 8), ("chat", 48)])
@pytest.mark.parametrize("max_tokens", [None, 30])
def test_with_a_tokenizer_prompt_answer_and_room_are_the_length(
    api: str, spare: int, max_tokens: int | None
) -> None:
    server = Counting(9, 1.0, api=api)
    gauge = gauge_of(server, ByteTokenizer(), max_tokens=max_tokens)
    found = groups_of(gauge)
    assert [asked.sample.length for asked in found] == [1000, 1000, 2000, 2000]
    for asked in found:
        answer = len(asked.sample.answer_ids)
        # A chat server is not told how the answer begins, which was counted all the same.
        lead = len(asked.sample.layout.lead) if api == "chat" else 0
        told = server.count(asked.text(server.chat))
        assert told == asked.expected_tokens
        room = max_tokens or spare
        assert told + lead + answer + room == asked.sample.length
        assert asked.max_tokens == (max_tokens or spare + answer)
    # Nothing but the measurement was asked for: a tokenizer needs no density.
    assert len(server.asked) == 1


def test_without_one_two_per_cent_stay_free_and_a_letter_may_be_a_token() -> None:
    server = Counting(7, 0.5)
    gauge = gauge_of(server)
    found = groups_of(gauge)
    first = [text for text, _ in server.asked[2:]]
    # One prompt of nine tenths of the shortest length tells how dense the task's own words are.
    assert len(first) == 1
    units = int((1000 - gauge.overhead - 8 - 20) / gauge.tokens_per_unit)
    setting = Setting(
        ByteEncoder(), Frame(Piece("", ()), Piece("", ())), template=found[0].sample.template, seed=3
    )
    sample = KINDS["passkey"](setting, 0).samples(int(0.9 * units), [0.5])[0]
    assert first == [sample.prompt]
    density = (server.count(sample.prompt) - gauge.overhead) / len(sample.prompt.encode())
    for asked in found:
        budget = int((asked.sample.length - gauge.overhead - 8 - 0.02 * asked.sample.length) / density)
        sent = len(asked.sample.prompt.encode())
        assert sent + len(asked.sample.answer_ids) == budget
        assert asked.expected_tokens == pytest.approx(gauge.overhead + density * sent)
        assert asked.max_tokens == 8 + len(asked.sample.answer_text)
    # Asked once for one task, wording and size, whatever is asked for again.
    again = groups_of(gauge)
    assert len(server.asked) == 3
    assert [one.text(False) for one in again] == [one.text(False) for one in found]
    groups_of(gauge, lengths=[1200])
    groups_of(gauge, "kv")
    assert len(server.asked) == 5


def test_words_denser_than_prose_are_asked_for_in_half_the_length() -> None:
    server = Counting(7, 0.5, longest=1400)
    gauge = gauge_of(server)
    units = int((1000 - gauge.overhead - 8 - 20) / gauge.tokens_per_unit)
    groups_of(gauge, lengths=[1000])
    assert [len(text) for text, _ in server.asked[2:]] == [int(0.9 * units) - 6, int(0.5 * units) - 6]
    for second in (None, 7, 6):
        server = Counting(7, 0.5)
        gauge = gauge_of(server)
        server.count = lambda text, second=second: second
        gauge.overhead = 7.0
        with pytest.raises(UsageError, match="counts tokens only sometimes"):
            groups_of(gauge)


def test_a_chat_server_is_asked_the_questions_own_text() -> None:
    server = Counting(7, 0.5, api="chat")
    gauge = gauge_of(server)
    found = groups_of(gauge, lengths=[1500])
    assert server.asked[2][0].endswith("\nWhat is the pass key?")
    for asked in found:
        assert asked.text(True) == asked.sample.content
        assert asked.text(False) == asked.sample.prompt
        density = (server.count(server.asked[2][0]) - gauge.overhead) / len(server.asked[2][0].encode())
        assert asked.expected_tokens == pytest.approx(
            gauge.overhead + density * len(asked.sample.content.encode())
        )


@pytest.mark.parametrize(("api", "least"), [("completions", 9 + 8 + 1), ("chat", 9 + 48 + 1)])
def test_a_length_holds_one_unit_at_least(api: str, least: int) -> None:
    gauge = gauge_of(Counting(9, 1.0, api=api), ByteTokenizer())
    assert gauge._units(least, 1.0) == 1
    with pytest.raises(
        UsageError, match=f"length {least - 1} leaves no room: the server adds 9 tokens and the answer"
    ):
        gauge._units(least - 1, 1.0)
