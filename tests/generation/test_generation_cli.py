"""`ropewalk generate`: text on stdout, figures on stderr, failures in one line; what was written stays."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys

import pytest
import torch

from ropewalk.errors import RopewalkError
from ropewalk.generation.pieces import Pieces
from ropewalk.generation.request import Writing
from ropewalk.generation.sampling import Sampler

KEYS = {"text", "factor", "window", "tokens", "tokens_per_s", "kv_bytes"}


def test_a_prompt_inside_the_window(cli):
    done = cli("generate", "hemp", "def add(a, b):\n    return", "--max-new-tokens", "6", "--ignore-end")
    assert done.code == 0
    assert len(done.out.encode()) >= 6
    assert "6 tokens in" in done.err
    assert "ended by limit; window 512 at factor 1; KV memory" in done.err


def test_the_document(cli, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("x = 1\n" * 100)
    words = ("generate", "hemp", "--prompt-file", str(file), "--max-new-tokens", "4", "--json", "-q")
    done = cli(*words)
    assert done.err == ""
    assert set(done.json) >= KEYS
    assert (done.json["factor"], done.json["window"], done.json["tokens"]) == (2.0, 1024, 4)
    # Two of K and V, 5 layers, 2 heads of 64, float32; the last token is not read any more.
    assert done.json["kv_bytes"] == 603 * 2 * 5 * 2 * 64 * 4
    assert done.json["text"] == "x = "


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "there is no prompt"),
        (("a", "--prompt-file", "b"), "two prompts"),
        (("",), "prompt is empty"),
        (("--prompt-file", "nowhere.txt"), "cannot read nowhere.txt"),
        (("a", "--max-new-tokens", "0"), "writes nothing"),
        (("a", "--cheap"), "add dynamic"),
        (("a", "--max-new-tokens", "40000"), "40001 tokens are more than the widest window here, 32768"),
        (("a", "--method", "yarm"), "yarn"),
        (("a", "--method", "yarn", "--schedule", "x.json"), "leaves no method to choose"),
    ],
)
def test_failures_are_one_line(cli, words, message):
    done = cli("generate", "hemp", *words)
    assert done.code in (1, 2)
    assert message in done.complaint
    assert len(done.err.strip().splitlines()) == 1


def test_ctrl_c_leaves_what_was_written(cli, monkeypatch):
    own = Writing.__iter__

    def cut(self):
        yield from itertools.islice(own(self), 3)
        raise KeyboardInterrupt

    monkeypatch.setattr(Writing, "__iter__", cut)
    words = ("generate", "hemp", "import os\nimport sys\n", "--max-new-tokens", "50", "--ignore-end")
    done = cli(*words)
    assert done.code == 130
    assert done.out.endswith("\n")
    assert done.out.strip()
    assert "ended by interrupted" in done.err
    assert "interrupted: what was written stays" in done.err
    told = cli(*words, "--json")
    assert told.code == told.json["exit_code"] == 130
    assert (told.json["text"].strip(), told.json["ended"]) == (done.out.strip(), "interrupted")
    assert told.json["error"]["hint"] == "what was written stays"


def test_ctrl_c_ends_a_stream_and_leaves_what_was_written(cli, monkeypatch):
    def cut(*asked):
        yield from ("one", " two\n")
        raise KeyboardInterrupt

    monkeypatch.setattr("ropewalk.generation.stream.converse", cut)
    done = cli("generate", "hemp", "x", "--stream")
    assert (done.code, done.out) == (130, "one two\n")
    assert "4 sinks and a window of 508" in done.err
    assert "interrupted: what was written stays" in done.err
    told = cli("generate", "hemp", "x", "--stream", "--json")
    assert (told.code, told.json["text"], told.json["exit_code"]) == (130, "one two\n", 130)


def test_without_an_end_token_the_limit_ends_it_and_that_is_said(cli, monkeypatch):
    monkeypatch.setattr("ropewalk.generation.request.end_tokens", lambda *asked: set())
    done = cli("generate", "hemp", "x = 1", "--max-new-tokens", "3")
    assert done.code == 0
    assert "no end token is known, so the text ends at --max-new-tokens" in done.err
    assert "3 tokens in" in done.err
    refused = cli("generate", "hemp", "x = 1", "--dynamic")
    assert refused.code == 2
    assert "neither the model nor its tokenizer has an end token" in refused.complaint


def test_a_reader_that_goes_away_is_no_traceback():
    words = [sys.executable, "-m", "ropewalk", "generate", "hemp", "import os", "--max-new-tokens", "300"]
    with subprocess.Popen(
        [*words, "--ignore-end"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.read(3)
        process.stdout.close()
        error = process.stderr.read().decode()
        process.wait(timeout=60)
    assert "Traceback" not in error
    assert process.returncode not in (0, -signal.SIGSEGV) or os.name == "nt"


class _Bytes:
    """A tokenizer of UTF-8 bytes that, like many, drops a space at the beginning."""

    def decode(self, ids, **kwargs):
        return bytes(ids).decode("utf-8", errors="replace").removeprefix(" ")


@pytest.mark.parametrize("text", ["plain", "né à Łódź 漢字 🚀", " two  spaces ", "\n\n"])
def test_pieces_add_up_and_never_change_their_mind(text):
    pieces = Pieces(_Bytes(), list(b"before"))
    shown = [pieces.add(byte) for byte in text.encode()]
    assert "".join(shown) + pieces.rest() == text
    assert not any("\ufffd" in piece for piece in shown)


def test_a_cut_character_is_shown_at_the_end_and_noise_does_not_wait_forever():
    pieces = Pieces(_Bytes())
    assert [pieces.add(byte) for byte in "é".encode()[:1]] == [""]
    assert pieces.rest() == "\ufffd"
    pieces = Pieces(_Bytes())
    assert "".join(pieces.add(0xFF) for _ in range(20))


def test_nucleus_and_temperature_by_hand():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    draws = Sampler(1.0, 0.75, seed=1)
    found = [draws(logits)[0] for _ in range(400)]
    # 0.5 and 0.3 together cross 0.75; renormalised 5 to 3.
    assert set(found) == {0, 1}
    assert found.count(0) / 400 == pytest.approx(5 / 8, abs=0.08)
    assert Sampler(0.0)(logits) == (0, pytest.approx(float(torch.tensor(0.5).log())))
    sharp = Sampler(0.5, seed=2)
    found = [sharp(logits)[0] for _ in range(400)]
    assert found.count(0) / 400 == pytest.approx(0.25 / (0.25 + 0.09 + 0.0225 + 0.0025), abs=0.08)


def test_tokens_that_reach_top_p_exactly_are_enough():
    even = Sampler(1.0, 0.5, seed=3)
    assert {even(torch.zeros(4))[0] for _ in range(100)} == {0, 1}


def test_position_maps_are_listed_with_their_kind(cli):
    listed = {item["name"]: item["kind"] for item in cli("methods", "--json").json["position_maps"]}
    assert listed["zones"] == "zones"
    assert set(listed) == {"zones", "self-extend", "dpe", "rerope", "leaky-rerope", "dual-chunk"}
    assert set(listed.values()) == {"zones", "position-map"}
    assert "self-extend" in cli("methods").out
    shown = cli("methods", "zones").out
    assert "far_method" in shown
    assert "stock programs cannot carry it" in shown
    assert cli("methods", "zones", "--json").json["position_maps"][0]["parameters"]["discount"] == "log"


def test_a_position_map_from_the_command_line(cli, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("x = 1\n" * 100)
    words = (
        "generate",
        "hemp",
        "--prompt-file",
        str(file),
        "--max-new-tokens",
        "4",
        "--method",
        "zones",
        "--json",
    )
    done = cli(*words, "-p", "near=128", "-p", "discount=0")
    assert (done.json["factor"], done.json["ladder"], done.json["text"]) == (2.0, "zones", "x = ")
    assert cli(*words, "-p", "width=3").code == 2


@pytest.mark.parametrize("after", [0, 2])
def test_a_text_that_an_error_stops_is_not_called_interrupted(cli, monkeypatch, after):
    """The figures of what was written before it; of nothing written the error alone."""
    from ropewalk.generation.session import Session

    read, calls = Session.read, []

    def failing(self, ids):
        calls.append(ids)
        if len(calls) > after:
            self.forwarded += len(ids)
            raise RopewalkError("the output is not a number", hint="look at it")
        return read(self, ids)

    monkeypatch.setattr(Session, "read", failing)
    done = cli("generate", "hemp", "import os", "--max-new-tokens", "5")
    assert done.code == 1
    *before, last = done.err.strip().splitlines()
    assert last == "ropewalk: the output is not a number: look at it"
    assert ["ropewalk: 2 tokens in" in line and "ended by an error" in line for line in before] == [True] * (
        after > 0
    )
