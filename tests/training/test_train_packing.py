"""Packing loses nothing, and a packed document is computed exactly as it would be alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tinymodels import small_model, some_tokens

from ropewalk.attention.interface import install_attention, remove_attention
from ropewalk.errors import UsageError
from ropewalk.training.data.packing import (
    PADDING,
    attention_inputs,
    fitting_engines,
    pack,
    row_labels,
    row_positions,
)
from ropewalk.training.parts import borders
from ropewalk.training.parts.borders import check_skips, choose_engine
from ropewalk.training.recipe.options import PackingOptions

DOCUMENTS = st.lists(st.integers(0, 30), min_size=0, max_size=12)


@settings(max_examples=80, deadline=None)
@given(sizes=DOCUMENTS, length=st.integers(1, 17), strategy=st.sampled_from(["stream", "fit"]))
def test_no_token_is_lost_or_repeated(sizes, length, strategy):
    starts = np.cumsum([1, *sizes])
    documents = [np.arange(start, start + size) for start, size in zip(starts, sizes)]
    rows = list(pack(documents, length, PackingOptions(), strategy=strategy))
    kept = np.concatenate([row.tokens[row.documents != PADDING] for row in rows]) if rows else np.array([])
    assert sorted(kept.tolist()) == list(range(1, sum(sizes) + 1))
    for row in rows:
        assert len(row.tokens) == len(row.documents) == len(row.positions) == length
        inside = row.documents != PADDING
        assert inside[: inside.sum()].all()
        for number in np.unique(row.documents[inside]):
            piece = row.documents == number
            assert (np.diff(row.tokens[piece]) == 1).all()
            assert row.positions[piece].tolist() == list(range(piece.sum()))
    if strategy == "stream" and rows:
        assert kept.tolist() == list(range(1, sum(sizes) + 1))
        assert len(rows) == -(-sum(sizes) // length)
    if strategy == "fit":
        whole = [size for size in sizes if 0 < size <= length]
        pieces = [
            int((row.documents == n).sum()) for row in rows for n in np.unique(row.documents) if n != PADDING
        ]
        assert len(pieces) == len(whole) + sum(-(-size // length) for size in sizes if size > length)


def test_best_fit_needs_few_rows():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 100, 300)
    rows = list(pack([np.ones(size, dtype=int) for size in sizes], 128, PackingOptions(), strategy="fit"))
    assert len(rows) <= 1.1 * sizes.sum() / 128 + 1


def test_labels_do_not_cross_borders():
    tokens, documents = torch.tensor([[1, 2, 3, 4, 5, 9]]), torch.tensor([[0, 0, 1, 1, 1, PADDING]])
    assert row_labels(tokens, documents).tolist() == [[2, -100, 4, 5, -100, -100]]


def test_positions_run_on_or_restart():
    documents = np.array([[0, 0, 0, 1, 1]])
    assert row_positions(documents, PackingOptions()).tolist() == [[0, 1, 2, 0, 1]]
    assert row_positions(documents, PackingOptions(positions="run-on")).tolist() == [[0, 1, 2, 3, 4]]
    assert row_positions(documents, PackingOptions(boundaries="none")).tolist() == [[0, 1, 2, 3, 4]]


def _packed():
    tokens = some_tokens(2, 40)
    documents = torch.zeros_like(tokens)
    documents[0, 13:] += 1
    documents[0, 30:] += 1
    documents[1, 7:] += 1
    return tokens, documents


@torch.no_grad()
def _alone(model, tokens, documents):
    """Every document by itself, without mask or packing."""
    rows = []
    for row, numbers in zip(tokens, documents):
        pieces = [row[numbers == number][None] for number in numbers.unique()]
        rows.append(torch.cat([model(input_ids=piece, use_cache=False).logits for piece in pieces], dim=1))
    return torch.cat(rows)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "phi3", "gpt_neox"])
@pytest.mark.parametrize(
    ("engine", "positions"),
    [
        ("varlen", "restart"),
        ("varlen", "run-on"),
        ("mask", "restart"),
        ("mask", "run-on"),
        ("native", "restart"),
    ],
)
def test_packed_documents_equal_documents_alone(kind, engine, positions):
    model = small_model(kind)
    tokens, documents = _packed()
    wanted = _alone(model, tokens, documents)
    placed = torch.from_numpy(row_positions(documents.numpy(), PackingOptions(positions=positions)))
    install_attention(model)
    with torch.no_grad():
        got = model(input_ids=tokens, **attention_inputs(documents, placed, engine=engine)).logits
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=2e-4)


def test_sliding_windows_hold_inside_documents():
    model = small_model("mistral", sliding_window=6)
    tokens, documents = _packed()
    wanted = _alone(model, tokens, documents)
    install_attention(model)
    placed = torch.from_numpy(row_positions(documents.numpy(), PackingOptions()))
    with torch.no_grad():
        got = model(input_ids=tokens, **attention_inputs(documents, placed, engine="varlen")).logits
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=2e-4)


def test_gradients_of_varlen_equal_those_of_the_mask():
    tokens, documents = _packed()
    placed = torch.from_numpy(row_positions(documents.numpy(), PackingOptions()))
    found = []
    for engine in ("varlen", "mask"):
        model = small_model()
        install_attention(model)
        logits = model(input_ids=tokens, **attention_inputs(documents, placed, engine=engine)).logits
        logits.float().logsumexp(-1).sum().backward()
        found.append([parameter.grad for parameter in model.parameters()])
    for mine, theirs in zip(*found):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


def test_without_borders_the_wrapper_changes_nothing():
    model, tokens = small_model(), some_tokens()
    with torch.no_grad():
        plain = model(input_ids=tokens, use_cache=False).logits
        install_attention(model)
        assert torch.equal(model(input_ids=tokens, use_cache=False).logits, plain)
        remove_attention(model)
    assert model.config._attn_implementation == "sdpa"


def test_skipped_positions_are_no_borders():
    """Stock transformers takes a jump in position_ids for a new document; told outright, it does not."""
    model, tokens = small_model(), some_tokens(1, 20)
    placed = torch.cat([torch.arange(10), torch.arange(100, 110)])[None]
    zeros = torch.zeros_like(tokens)
    with torch.no_grad():
        got = model(input_ids=tokens, **attention_inputs(zeros, placed, engine="none")).logits
        cached = model(input_ids=tokens, position_ids=placed, use_cache=True).logits
        guessed = model(input_ids=tokens, position_ids=placed, use_cache=False).logits
    torch.testing.assert_close(got, cached, rtol=1e-4, atol=1e-5)
    assert (guessed - cached).abs().max() > 1e-2


def test_engines_fit_the_attention():
    assert fitting_engines(PackingOptions(), "flash_attention_2") == ("varlen", "native")
    assert fitting_engines(PackingOptions(), "eager") == ("native",)
    with pytest.raises(UsageError, match="does not work with eager"):
        fitting_engines(PackingOptions(engine="varlen"), "eager")
    documents = torch.tensor([[0, 0, 1]])
    with pytest.raises(UsageError, match="do not restart"):
        attention_inputs(documents, torch.tensor([[0, 1, 2]]), engine="native")
    with pytest.raises(UsageError, match="length=0"):
        next(pack([[1]], 0, PackingOptions()))


def test_the_engine_is_one_that_the_model_heeds():
    model = small_model()
    assert choose_engine(model, PackingOptions()) == "varlen"
    assert model.config._attn_implementation == "ropewalk_sdpa"
    # StableLM does not hand keyword arguments on to its attention: cumulative lengths never arrive.
    deaf = small_model("stablelm", num_key_value_heads=4)
    assert choose_engine(deaf, PackingOptions()) == "mask"
    assert deaf.config._attn_implementation == "sdpa"
    with pytest.raises(UsageError, match="varlen: a document changes with the one before it"):
        choose_engine(deaf, PackingOptions(engine="varlen"))
    # Falcon does not use the attention interface at all, but takes a mask.
    with pytest.raises(UsageError, match="does not use transformers' attention interface"):
        choose_engine(small_model("falcon"), PackingOptions(engine="varlen"))


def test_sliding_windows_are_never_lost_in_packing():
    model = small_model("mistral", sliding_window=64)
    assert choose_engine(model, PackingOptions()) == "varlen"
    with pytest.raises(UsageError, match="would switch the sliding windows off"):
        choose_engine(small_model("mistral", sliding_window=64), PackingOptions(engine="mask"))


@pytest.mark.parametrize("kind", ["llama", "stablelm", "gpt_neox", "phi3"])
def test_models_that_heed_skipped_positions_pass(kind):
    check_skips(small_model(kind, num_key_value_heads=4), "none")


def test_models_that_do_not_are_refused(monkeypatch):
    with monkeypatch.context() as patch:
        # What stock transformers is given by whoever passes positions alone.
        patch.setattr(
            borders, "attention_inputs", lambda documents, positions, engine: {"position_ids": positions}
        )
        model = small_model()
        model.config.use_cache = False
        with pytest.raises(UsageError, match="takes a skipped position for the end of a document"):
            check_skips(model, "none")
    deaf = small_model()
    deaf.model.rotary_emb.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {"position_ids": torch.arange(args[0].shape[1])[None]}),
        with_kwargs=True,
    )
    with pytest.raises(UsageError, match="does not heed the positions"):
        check_skips(deaf, "none")
