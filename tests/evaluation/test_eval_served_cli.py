"""`ropewalk eval URL`: one document, one line on failure, finished answers kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from local_server import Behaviour, serving

WORDS = ("--tasks", "passkey", "--lengths", "600,1200", "--depths", "3", "--samples", "1", "-q")


@pytest.fixture(autouse=True)
def runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROPEWALK_RUNS", str(tmp_path / "runs"))


def test_a_server_is_evaluated_into_one_document(cli: Callable[..., Any]) -> None:
    with serving(Behaviour(models=("other", "copycat"))) as url:
        outcome = cli("eval", url, "--model", "copycat", *WORDS, "--json")
    assert outcome.code == 0, outcome.err
    rows = outcome.json["retrieval"]
    assert {(row["length"], row["depth"]) for row in rows} == {
        (n, d) for n in (600, 1200) for d in (0.0, 0.5, 1.0)
    }
    assert all(row["accuracy"] == 1.0 and row["chance"] < 1e-4 for row in rows)
    assert outcome.json["served"]["truncates"] is False


@pytest.mark.parametrize(
    ("style", "path"), [("chat", "/v1/chat/completions"), ("completion", "/v1/completions")]
)
def test_the_style_chooses_where_questions_go(cli: Callable[..., Any], style: str, path: str) -> None:
    behaviour = Behaviour()
    with serving(behaviour) as url:
        outcome = cli("eval", url, *WORDS, "--style", style, "--json")
    assert outcome.code == 0, outcome.err
    assert {request["path"] for request in behaviour.requests} == {path}
    assert all(row["accuracy"] == 1.0 for row in outcome.json["retrieval"])


def test_a_truncating_server_is_named_in_the_verdict(cli: Callable[..., Any]) -> None:
    with serving(Behaviour(window=700)) as url:
        outcome = cli("eval", url, *WORDS, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["served"]["truncates"] is True
    assert any("truncates silently" in line for line in outcome.json["verdict"])


def test_a_dead_server_is_one_line(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setenv("ROPEWALK_API_KEY", "sk-secret-key")

    def broken(handler: Any, number: int) -> bool:
        handler.reply(200, b"<!doctype html><p>sk-secret-key</p>", "text/html")
        return True

    with serving(Behaviour(misbehave=broken)) as url:
        outcome = cli("eval", url, "--model", "copycat", *WORDS)
    assert outcome.code == 1
    assert "an HTML page" in outcome.complaint
    assert "sk-secret-key" not in outcome.err + outcome.out


def test_answers_are_kept_and_only_the_rest_is_asked_again(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour = Behaviour()

    def dies(handler: Any, number: int) -> bool:
        if number <= 11:
            return False
        handler.reply(400, b'{"error": {"message": "out of order"}}')
        return True

    behaviour.misbehave = dies
    run = str(tmp_path / "kept")
    with serving(behaviour) as url:
        first = cli("eval", url, *WORDS, "--workers", "1", "-o", run)
        assert first.code == 1
        assert "out of order" in first.complaint
        behaviour.misbehave = None
        behaviour.requests.clear()
        second = cli("eval", url, *WORDS, "--workers", "1", "-o", run, "--json")
    assert second.code == 0, second.err
    assert len(second.json["retrieval"]) == 6
    # The first call's eleven requests: four to learn how long prompts are, four probes, three answers.
    answers = [one for one in behaviour.requests if one["max_tokens"] > 1 and "logprobs" not in one]
    assert len(answers) == 6 - 3


def test_a_haystack_that_changed_in_place_finishes_no_run(cli: Callable[..., Any], tmp_path: Path) -> None:
    """Half of the answers would be about one text and half about another, under one name."""
    behaviour = Behaviour()

    def dies(handler: Any, number: int) -> bool:
        if number > 11:
            handler.reply(400, b'{"error": {"message": "out of order"}}')
        return number > 11

    behaviour.misbehave = dies
    book, run = tmp_path / "book.txt", str(tmp_path / "kept")
    book.write_text("The river runs past the old mill. " * 200)
    words = ("--tasks", "needle", "--haystack", str(book), *WORDS[2:], "--workers", "1", "-o", run)
    with serving(behaviour) as url:
        assert "out of order" in cli("eval", url, *words).complaint
        behaviour.misbehave = None
        book.write_text("The miller walks along the river. " * 200)
        again = cli("eval", url, *words)
        assert (again.code, "changed in place: questions" in again.complaint) == (2, True)
        book.write_text("The river runs past the old mill. " * 200)
        assert cli("eval", url, *words).code == 0
