"""Served models: answers, lengths, truncation that is caught, and every way in which a server can misbehave."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace
from typing import Any

import pytest
from local_server import Behaviour, drip, serving
from retrieval_models import ByteTokenizer

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.evaluation.retrieval.run import Asking, Course
from ropewalk.evaluation.retrieval.scores import SampleScore
from ropewalk.evaluation.served.asking import ServedResult, connect, run_served
from ropewalk.evaluation.served.endpoint import Endpoint, EndpointError, check_url
from ropewalk.evaluation.served.loss import WAYS, document_losses, find_way, loss_table
from ropewalk.evaluation.served.plan import Gauge
from ropewalk.evaluation.served.server import Server
from ropewalk.evaluation.served.workers import in_parallel
from ropewalk.text.corpus import Document

TOKENIZER = ByteTokenizer()
SECRET = "sk-very-secret-123"


def evaluate(behaviour: Behaviour, *, api: str = "auto", **options: Any) -> ServedResult:
    wanted: dict[str, Any] = {"tasks": ["passkey"], "lengths": [600, 1200], "depths": 3, "samples": 1}
    wanted |= options
    course = Course(wanted.pop("finished", ()), wanted.pop("on_score", None))
    own = {name: wanted.pop(name) for name in ("tokenizer", "max_tokens", "workers") if name in wanted}
    with serving(behaviour) as url:
        server = connect(url, api=api, backoff_s=0.0, timeout_s=20)
        return run_served(server, Asking(**wanted), course=course, **own)


def found(result: ServedResult) -> list[tuple[str, int | None]]:
    return [(finding["id"], finding["length"]) for finding in result.findings]


@pytest.mark.parametrize("tokenizer", [TOKENIZER, None])
def test_a_server_that_copies_scores_one(tokenizer: Any) -> None:
    behaviour = Behaviour()
    result = evaluate(behaviour, tasks=["passkey", "kv", "needle"], tokenizer=tokenizer, lengths=[800, 1500])
    assert (result.model, result.api, result.findings) == ("copycat", "completions", [])
    assert {row["accuracy"] for row in result.rows} == {1.0}
    assert {row["scoring"] for row in result.rows} == {"generation"}
    assert all(row["chance"] < 1e-4 for row in result.rows)
    assert {(row["task"], row["length"]) for row in result.rows} == {
        (task, length) for task in ("passkey", "kv", "needle") for length in (800, 1500)
    }


def test_with_the_tokenizer_prompt_and_answer_fill_the_length_exactly() -> None:
    behaviour = Behaviour(refuse_past=1200)
    result = evaluate(behaviour, tokenizer=TOKENIZER, lengths=[1200])
    # One token is the server's own (its BOS), counted as such; eight stay free behind the answer.
    assert [row["prompt_tokens"] + 6 + 8 for row in result.rows] == [1200, 1200, 1200]
    assert found(result) == []


def test_without_tokenizer_lengths_come_from_the_servers_own_counts() -> None:
    result = evaluate(Behaviour(), tasks=["passkey", "kv"], lengths=[1000, 4000])
    for row in result.rows:
        assert 0.93 * row["length"] <= row["prompt_tokens"] <= row["length"]


def test_chat_servers_get_the_question_without_a_prepared_answer() -> None:
    behaviour = Behaviour(completions=False)
    result = evaluate(behaviour, tokenizer=TOKENIZER)
    assert result.api == "chat"
    assert {row["accuracy"] for row in result.rows} == {1.0}
    asked = behaviour.requests[-1]["messages"][0]["content"]
    assert asked.endswith("\nWhat is the pass key?")
    assert behaviour.requests[-1]["temperature"] == 0


@pytest.mark.parametrize("usage", ["read", "sent"])
@pytest.mark.parametrize("tokenizer", [TOKENIZER, None])
def test_a_server_that_truncates_silently_is_caught_and_named(usage: str, tokenizer: Any) -> None:
    """Caught by its token counts where it counts what it read, by its probabilities where it counts what was sent."""
    result = evaluate(Behaviour(window=700, usage=usage), tokenizer=tokenizer, lengths=[600, 1200, 2400])
    names = dict(found(result))
    assert result.truncates
    assert names["head-unread"] == 1200
    assert names.get("truncates") == (1200 if usage == "read" else None)
    assert all("truncates silently" in finding["message"] for finding in result.findings)
    shown = {(row["length"], row["depth"]): row["accuracy"] for row in result.rows}
    assert shown[600, 0.0] == 1.0
    assert shown[2400, 0.0] == 0.0
    assert shown[2400, 1.0] == 1.0


def test_truncation_without_probabilities_and_counts_is_suspected_from_the_answers() -> None:
    behaviour = Behaviour(window=700, usage="none", logprobs=False)
    result = evaluate(behaviour, tokenizer=TOKENIZER, lengths=[600, 1200])
    assert found(result) == [("head-unanswered", 1200), ("no-usage", None)]
    assert not result.truncates
    # Refused once, probabilities are not asked for again.
    assert sum("logprobs" in request for request in behaviour.requests) == 1


def test_a_server_that_refuses_what_is_too_long_is_believed() -> None:
    result = evaluate(Behaviour(refuse_past=1000), tokenizer=TOKENIZER, lengths=[600, 1200, 2400])
    assert found(result) == [("window-refused", 1200)]
    assert "maximum context length is 1000" in result.findings[0]["message"]
    assert {row["length"] for row in result.rows} == {600}
    assert {row["accuracy"] for row in result.rows} == {1.0}


def test_answers_that_are_cut_before_they_begin_are_named() -> None:
    result = evaluate(Behaviour(thinks=True, logprobs=False), tokenizer=TOKENIZER, lengths=[600])
    assert "answers-cut" in dict(found(result))
    assert {row["accuracy"] for row in result.rows} == {0.0}


def test_a_packed_grid_and_the_room_for_answers() -> None:
    behaviour = Behaviour()
    result = evaluate(
        behaviour, tasks=["needle"], grid="packed", lengths=[1500], tokenizer=TOKENIZER, max_tokens=40
    )
    assert {row["task"] for row in result.rows} == {"needle-packed"}
    assert {row["accuracy"] for row in result.rows} == {1.0}
    assert behaviour.requests[-1]["max_tokens"] == 40


# Misbehaviour: the reply is written by the function, which returns True, or left to the server.


def status(code: int, times: int = 10**6, headers: dict[str, str] | None = None, text: str = "boom") -> Any:
    def misbehave(handler: BaseHTTPRequestHandler, number: int) -> bool:
        if number > times:
            return False
        content = json.dumps({"error": {"message": text}}).encode()
        handler.send_response(code)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)
        return True

    return misbehave


def body(content: bytes, kind: str = "application/json") -> Any:
    def misbehave(handler: Any, number: int) -> bool:
        handler.reply(200, content, kind)
        return True

    return misbehave


@pytest.mark.parametrize(
    ("misbehave", "message"),
    [
        (status(500), r"HTTP 500 \(boom\) \(4 tries\)"),
        (status(503), r"HTTP 503"),
        (status(429), r"HTTP 429"),
        (body(b"<html><body>Welcome</body></html>", "text/html"), "an HTML page: '<html>"),
        (body(b"not json at all"), "something that is not JSON"),
        (body(b'{"choices": []}'), "JSON without choices"),
        (body(b"[1, 2]"), "JSON without choices"),
        (body(b'{"choices": [{"index": 0}]}'), "a choice without text"),
        (body(b'{"choices": [{"text": 7}]}'), "a choice without text"),
        (body(b""), "not JSON"),
    ],
)
def test_what_may_pass_is_tried_again_and_then_said_in_one_line(misbehave: Any, message: str) -> None:
    behaviour = Behaviour(misbehave=misbehave)
    with serving(behaviour) as url, pytest.raises(EndpointError, match=message) as caught:
        Server(Endpoint(url, tries=4, backoff_s=0.0, timeout_s=10), "copycat")
    assert len(behaviour.requests) == 4
    assert "\n" not in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("misbehave", "message"),
    [
        (status(401, text=f"bad key {SECRET}"), "wants another key"),
        (status(403), "wants another key"),
        (status(302, headers={"Location": "http://127.0.0.1:9/v1"}), "sends elsewhere"),
        (status(404, text="model not found"), "model not found"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(misbehave: Any, message: str) -> None:
    behaviour = Behaviour(misbehave=misbehave)
    with serving(behaviour) as url, pytest.raises(EndpointError, match=message) as caught:
        Server(Endpoint(url, api_key=SECRET, backoff_s=0.0), "copycat", api="completions").ask("x", 1)
    assert len(behaviour.requests) == 1
    assert SECRET not in str(caught.value)
    assert behaviour.headers[0]["Authorization"] == f"Bearer {SECRET}"


def test_waits_double_and_a_servers_own_wish_goes_first() -> None:
    waits: list[float] = []
    behaviour = Behaviour(misbehave=status(500, times=3))
    with serving(behaviour) as url:
        endpoint = Endpoint(url, tries=5, backoff_s=0.5, sleep=waits.append)
        assert Server(endpoint, "copycat", api="completions").ask("Hello", 1).text == "?"
    assert waits == [0.5, 1.0, 2.0]
    waits.clear()
    behaviour = Behaviour(misbehave=status(429, times=2, headers={"Retry-After": "7"}))
    with serving(behaviour) as url:
        Server(Endpoint(url, sleep=waits.append), "copycat", api="completions").ask("Hello", 1)
    assert waits == [7.0, 7.0]


def test_a_server_that_is_down_is_one_line() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    with pytest.raises(EndpointError, match=r"cannot connect \(.*refused.*\) \(2 tries\)"):
        connect(f"http://127.0.0.1:{port}/v1", tries=2, backoff_s=0.0)


def test_a_server_that_answers_nothing_in_time_is_given_up() -> None:
    release = threading.Event()

    def hang(handler: BaseHTTPRequestHandler, number: int) -> bool:
        release.wait(5)
        return True

    with serving(Behaviour(misbehave=hang)) as url:
        with pytest.raises(EndpointError, match=r"no answer within 0\.2 s \(2 tries\)"):
            Server(Endpoint(url, tries=2, backoff_s=0.0, timeout_s=0.2), "copycat")
        release.set()


def test_a_server_that_drips_its_answer_is_given_up_too() -> None:
    def slow(handler: BaseHTTPRequestHandler, number: int) -> bool:
        drip(handler, 3.0)
        return True

    with (
        serving(Behaviour(misbehave=slow)) as url,
        pytest.raises(EndpointError, match=r"no answer within 0\.3 s \(1 tries\)"),
    ):
        Server(Endpoint(url, tries=1, timeout_s=0.3), "copycat")


def test_an_answer_that_breaks_off_is_tried_again() -> None:
    def half(handler: Any, number: int) -> bool:
        if number > 1:
            return False
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"choices": [')
        handler.close_connection = True
        return True

    behaviour = Behaviour(misbehave=half)
    with serving(behaviour) as url:
        assert Server(Endpoint(url, backoff_s=0.0), "copycat", api="completions").ask("Hello", 1).text == "?"
    assert len(behaviour.requests) == 2


@pytest.mark.parametrize("workers", [1, 3])
def test_cells_that_were_answered_are_kept_when_a_server_dies(workers: int) -> None:
    def dies(handler: BaseHTTPRequestHandler, number: int) -> bool:
        return number > 9 and status(500)(handler, 1)

    kept: list[SampleScore] = []
    options = {"tokenizer": TOKENIZER, "workers": workers, "samples": 2}
    with pytest.raises(EndpointError, match=r"task passkey, length \d+, depth .*HTTP 500"):
        evaluate(Behaviour(misbehave=dies), on_score=kept.append, **options)
    assert 1 <= len(kept) < 12
    again: list[SampleScore] = []
    result = evaluate(Behaviour(), finished=kept, on_score=again.append, **options)
    assert len(again) == 12 - len(kept)
    assert {row["samples"] for row in result.rows} == {2}
    assert {row["accuracy"] for row in result.rows} == {1.0}


def test_the_key_is_never_part_of_what_a_user_sees() -> None:
    endpoint = Endpoint("http://127.0.0.1:9/v1", api_key=SECRET)
    assert SECRET not in repr(endpoint)
    with pytest.raises(UsageError) as caught:
        Endpoint("http://127.0.0.1:9/v1", api_key="sk-bad\r\nkey")
    assert "sk-bad" not in str(caught.value)
    with serving(Behaviour(misbehave=body(f'{{"echoed": "{SECRET}"}}'.encode()))) as url:
        with pytest.raises(EndpointError) as told:
            Server(Endpoint(url, api_key=SECRET, tries=1), "copycat")
        assert SECRET not in str(told.value)
        assert "***" in str(told.value)


def test_the_key_comes_from_its_own_variable_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-this-server")
    behaviour = Behaviour()
    with serving(behaviour) as url:
        connect(url)
        assert "Authorization" not in behaviour.headers[-1]
        monkeypatch.setenv("ROPEWALK_API_KEY", SECRET)
        connect(url)
        assert behaviour.headers[-1]["Authorization"] == f"Bearer {SECRET}"


def test_a_proxy_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serving(Behaviour()) as url:
        assert connect(url, tries=1).model == "copycat"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/v1",
        "http://",
        "127.0.0.1:8000",
        "http://user:pw@host/v1",
        "http://host/v1?key=1",
        "http://h:x/v1",
        "http://[::1/v1",
        "http://host/modèle/v1",
        f"http://{'a' * 70}.com/v1",
    ],
)
def test_addresses_that_cannot_work_are_refused(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_url(url)
    assert "pw" not in caught.value.message
    assert check_url(" http://127.0.0.1:8000/v1/ ") == "http://127.0.0.1:8000/v1"


def test_the_model_is_found_or_must_be_named() -> None:
    with (
        serving(Behaviour(models=("one", "two"))) as url,
        pytest.raises(UsageError, match="lists 2 models") as caught,
    ):
        connect(url)
    assert "one, two" in caught.value.hint
    with serving(Behaviour(models=())) as url, pytest.raises(UsageError, match="lists 0 models"):
        connect(url)
    strange = Behaviour(misbehave=lambda handler, number: handler.reply(200, {"data": 5}) or True)
    with serving(strange) as url, pytest.raises(UsageError, match="lists 0 models"):
        connect(url)


def test_without_counts_and_without_tokenizer_there_are_no_lengths() -> None:
    with pytest.raises(UsageError, match="does not count tokens") as caught:
        evaluate(Behaviour(usage="none"))
    assert "--tokenizer" in caught.value.hint


def test_a_length_without_room_is_refused() -> None:
    with pytest.raises(UsageError, match=r"length 5 leaves no room|does not fit"):
        evaluate(Behaviour(), lengths=[5], tokenizer=TOKENIZER)


@pytest.mark.parametrize("mode", ["echo", "echo1", "vllm"])
def test_loss_by_length_where_the_server_tells_the_prompts_probabilities(mode: str) -> None:
    documents = [
        Document("long.txt", "All work and no play. " * 200),
        Document("short.txt", "Too short. " * 10),
    ]
    behaviour = Behaviour(prompt_logprobs=mode, refuse_past=1025)
    with serving(behaviour) as url:
        server = connect(url)
        way = find_way(server)
        assert way is not None
        assert way.name == ("prompt_logprobs" if mode == "vllm" else "echo")
        losses = document_losses(server, way, documents, 1024)
        with pytest.raises(RopewalkError, match="none of 1 documents"):
            document_losses(server, way, documents[1:], 1024)
    assert list(losses) == ["long.txt"]
    assert 0.95 * 1024 <= len(losses["long.txt"]) + 1 <= 1024
    rows = loss_table(losses, [256, 512, 1024])
    assert [row["length"] for row in rows] == [256, 512, 1024]
    # The written word's own probability (-9) must not be among them.
    assert all(row["loss"] == row["tail_loss"] == pytest.approx(1.5) for row in rows)
    assert all(row["perplexity"] == pytest.approx(4.4817, rel=1e-4) for row in rows)


def test_the_tail_of_a_served_length_is_its_last_quarter() -> None:
    """Losses of tokens 1, 2, ... of two documents; token 0 has none, so a length of 8 has seven and a tail of two."""
    rows = loss_table({"a": [1.0 * n for n in range(1, 10)], "b": [10.0 * n for n in range(1, 10)]}, [8, 4])
    assert [(row["length"], row["loss"], row["tail_loss"], row["documents"]) for row in rows] == [
        (4, (6 + 60) / 6, (3 + 30) / 2, 2),
        (8, (28 + 280) / 14, (6 + 7 + 60 + 70) / 4, 2),
    ]


def test_a_server_that_keeps_the_prompts_probabilities_to_itself_has_no_loss() -> None:
    with serving(Behaviour()) as url:
        assert find_way(connect(url)) is None
        assert find_way(connect(url, api="chat")) is None


def test_parallel_work_is_all_done_and_the_first_failure_is_raised_last() -> None:
    assert sorted(in_parallel(lambda n: n * n, list(range(20)), 4)) == [n * n for n in range(20)]
    assert list(in_parallel(lambda n: n, [], 4)) == []

    def fails(number: int) -> int:
        if number == 3:
            raise ValueError("third")
        time.sleep(0.01)
        return number

    got: list[int] = []
    with pytest.raises(ValueError, match="third"):
        got.extend(in_parallel(fails, list(range(50)), 4))
    assert 3 not in got
    assert len(got) < 20


def test_a_window_that_is_too_short_for_the_loss_is_told_from_a_text_that_is() -> None:
    text = "The river runs past the old mill and down to the sea. " * 60
    with serving(Behaviour(prompt_logprobs="echo", refuse_past=900)) as url:
        server = connect(url, tries=1)
        way = find_way(server)
        assert way is not None
        with pytest.raises(EndpointError, match=r"loss at 2000 tokens: .*maximum context length") as caught:
            document_losses(server, way, [Document("a", text)], 2000)
        assert "shorter --lengths" in str(caught.value.hint)
        with pytest.raises(RopewalkError, match="has 800 tokens on this server"):
            document_losses(server, way, [Document("a", text[:300])], 800)


def test_without_tokenizer_a_prompt_is_as_long_as_it_is_expected() -> None:
    """A server of half a token a byte that adds seven tokens to every prompt."""

    def count(text: str) -> int:
        return 7 + math.ceil(len(text.encode()) / 2)

    server = SimpleNamespace(
        api="completions", chat=False, ask=lambda text, tokens: SimpleNamespace(prompt_tokens=count(text))
    )
    gauge = Gauge(server, None, 1000)
    assert gauge.overhead == pytest.approx(7, abs=1)
    assert gauge.tokens_per_unit == pytest.approx(0.5, abs=1e-3)
    options = {"seed": 0, "options": {}}
    for group in gauge.groups("passkey", lengths=[1000, 2000], depths=[0.0, 0.5], samples=2, **options):
        for asked in group:
            assert asked.expected_tokens == pytest.approx(count(asked.text(False)), abs=2)
            assert 0.9 * asked.sample.length < count(asked.text(False)) < asked.sample.length


def test_a_log_probability_above_zero_is_none() -> None:
    """A server that gives probabilities in their place would have a perplexity below 1."""
    told = {"logprobs": {"token_logprobs": [None, -1.5, 5e-4, 0.0]}}
    assert WAYS[0].losses(told) == [1.5, -5e-4, 0.0]
    told["logprobs"]["token_logprobs"][1] = 0.25
    with pytest.raises(
        RopewalkError, match=r"gives 0.25 as the log probability of a prompt's token, and none is above"
    ):
        WAYS[0].losses(told)
