"""Endless text: reading, writing, what is told about it, and the command."""

from __future__ import annotations

import io

import pytest
import torch
from generation_models import LONGROPE, model_of, some_tokens, whole_logits

from ropewalk.errors import UsageError
from ropewalk.generation.sampling import Sampler
from ropewalk.generation.stream import Stream, Turn, converse, streaming


def test_the_loss_of_what_is_read():
    model, ids = model_of("llama"), some_tokens(30)
    wanted = -whole_logits(model, ids)[:-1].log_softmax(-1)[range(29), ids[1:]]
    with Stream(model, sinks=4, window=28, piece=7) as stream:
        first = stream.read(ids[:11])
        rest = stream.read(ids[11:])
    assert first == pytest.approx(float(wanted[:10].sum()), rel=1e-5)
    assert rest == pytest.approx(float(wanted[10:].sum()), rel=1e-5)
    assert stream.told.loss == pytest.approx(float(wanted.mean()), rel=1e-5)
    assert (stream.told.read, stream.told.scored, stream.told.evicted) == (30, 29, 0)


def test_memory_stays_and_the_model_is_given_back():
    model, ids = model_of("llama"), some_tokens(300)
    before, own = whole_logits(model, ids[:20]), model.model.rotary_emb.forward
    sizes = []
    with Stream(model, sinks=2, window=14, piece=5) as stream:
        for first in range(0, 300, 30):
            stream.read(ids[first : first + 30])
            sizes.append(stream.told.kv_bytes)
    # Two layers of keys and values, 2 heads of 8, float32: twice the window and the sinks, and the sinks once more.
    assert set(sizes) == {2 * 2 * 2 * 8 * 4 * (2 * 14 + 2 + 2)}
    assert stream.told.evicted == 300 - 16
    assert model.model.rotary_emb.forward == own
    assert torch.equal(whole_logits(model, ids[:20]), before)


def test_what_was_written_stays_in_the_stream():
    model, ids = model_of("llama"), some_tokens(12)
    with Stream(model, sinks=2, window=14) as stream:
        stream.read(ids)
        written = []
        for token in stream.write(9, Sampler(), set()):
            written.append(token)
            if len(written) == 4:
                break
        after = stream.read([5])
        assert (stream.told.read, stream.told.written) == (13, 4)
    with Stream(model, sinks=2, window=14) as other:
        other.read(ids)
        for token in written:
            other.read([token])
        assert other.read([5]) == pytest.approx(after, rel=1e-5)


def test_an_end_token_ends_an_answer():
    model, ids = model_of("llama"), some_tokens(12)
    with Stream(model, sinks=2, window=14) as stream:
        stream.read(ids)
        free = list(stream.write(6, Sampler(), set()))
    with Stream(model, sinks=2, window=14) as stream:
        stream.read(ids)
        assert list(stream.write(6, Sampler(), {free[2]})) == free[: free.index(free[2])]


def test_longrope_keeps_one_set_for_ever():
    model, ids = model_of("llama", rope_parameters=LONGROPE, max_position_embeddings=128), some_tokens(60)
    long = whole_logits(model, ids)
    with streaming(model) as cache, torch.inference_mode():
        assert cache.window == 124
        found = [
            model(input_ids=torch.tensor([[token]]), past_key_values=cache).logits[0, -1] for token in ids
        ]
    assert torch.allclose(torch.stack(found), long, atol=3e-5)
    short = whole_logits(model, ids[:30])
    with streaming(model, sinks=4, window=28) as cache, torch.inference_mode():
        found = model(input_ids=torch.tensor([ids[:30]]), past_key_values=cache).logits[0]
    assert torch.allclose(found, short, atol=3e-5)


class _Letters:
    """Sixty-four letters, the last of them a line's end; an opening token before the first text."""

    eos_token_id = None

    def __call__(self, text, add_special_tokens=True, **kwargs):
        ids = [63 if letter == "\n" else ord(letter) - 60 for letter in text]
        return {"input_ids": [1] * add_special_tokens + ids}

    def decode(self, ids, **kwargs):
        return "".join("\n" if token == 63 else chr(token + 60) for token in ids)


def test_a_conversation_line_by_line():
    model = model_of("llama")
    with Stream(model, sinks=2, window=20) as stream:
        said = list(converse(stream, _Letters(), iter(["abc\n", "", "de\n"]), Turn(5, Sampler())))
        answers = "".join(said).splitlines()
        assert stream.told.read == 1 + 4 + 3
        assert 0 < stream.told.written <= 10
    assert len(answers) >= 1
    with Stream(model, sinks=2, window=20) as stream:
        assert list(converse(stream, _Letters(), iter(["abc\n"]), Turn(0, Sampler()))) == []
        assert stream.told.read == 5


def test_the_command(cli, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("import os\n" * 3))
    done = cli("generate", "hemp", "--stream", "--window", "60", "--max-new-tokens", "6")
    assert done.code == 0
    assert len(done.out.splitlines()) >= 3
    assert "30 tokens read" in done.err
    assert "4 sinks and a window of 60" in done.err
    monkeypatch.setattr("sys.stdin", io.StringIO("import os\n" * 30))
    document = cli(
        "generate", "hemp", "--stream", "--window", "60", "--max-new-tokens", "0", "--json", "-q"
    ).json
    assert (document["read_tokens"], document["tokens"], document["evicted_tokens"]) == (300, 0, 236)
    assert (document["text"], document["window"]) == ("", 64)
    assert document["loss"] < 2
    assert cli("generate", "hemp", "--stream", "--dynamic").code == 2
    assert cli("generate", "hemp", "--stream", "-p", "beta_fast=16").code == 2


def test_wrong_numbers_are_refused():
    with pytest.raises(UsageError, match="piece=0"):
        Stream(model_of("llama"), piece=0)
    with pytest.raises(UsageError, match="nothing to go on"), Stream(model_of("llama")) as stream:
        next(stream.write(1, Sampler(), set()))


def test_pieces_are_never_longer_than_the_window():
    model, ids = model_of("llama"), some_tokens(60)
    read = []
    for piece in (8, 64):
        with Stream(model, sinks=2, window=8, piece=piece) as stream:
            read.append(stream.read(ids))
    assert read[0] == read[1]


@pytest.mark.slow
def test_two_hundred_thousand_tokens_on_hemp():
    """Loss stays where it was inside the window, memory does not move."""
    from ropewalk.models.load import load_model, load_tokenizer
    from ropewalk.text.corpus import held_out_documents

    model, tokenizer = load_model("hemp", device="cpu"), load_tokenizer("hemp")
    text = "\n\n".join(document.text for document in held_out_documents())
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    ids = (ids * (200_000 // len(ids) + 1))[:200_000]
    losses, sizes = [], set()
    with Stream(model) as stream:
        for first in range(0, 200_000, 20_000):
            losses.append(stream.read(ids[first : first + 20_000]) / 20_000)
            sizes.add(stream.told.kv_bytes)
    assert len(sizes) == 1
    assert stream.told.evicted == 200_000 - 512
    assert max(losses[1:]) < losses[0] + 0.25
