"""A packed document is computed exactly as it would be alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tinymodels import small_model, some_tokens

from ropewalk.attention.interface import install_attention, remove_attention
from ropewalk.errors import UsageError
from ropewalk.training.parts import borders
from ropewalk.training.parts.borders import check_skips, choose_method
from ropewalk.training.parts.packing import (
    PackingOptions,
    attention_inputs,
    fitting_methods,
    row_positions,
)


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
        got = model(input_ids=tokens, **attention_inputs(documents, placed, method=engine)).logits
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=2e-4)


def test_sliding_windows_hold_inside_documents():
    model = small_model("mistral", sliding_window=6)
    tokens, documents = _packed()
    wanted = _alone(model, tokens, documents)
    install_attention(model)
    placed = torch.from_numpy(row_positions(documents.numpy(), PackingOptions()))
    with torch.no_grad():
        got = model(input_ids=tokens, **attention_inputs(documents, placed, method="varlen")).logits
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=2e-4)


def test_gradients_of_varlen_equal_those_of_the_mask():
    tokens, documents = _packed()
    placed = torch.from_numpy(row_positions(documents.numpy(), PackingOptions()))
    found = []
    for engine in ("varlen", "mask"):
        model = small_model()
        install_attention(model)
        logits = model(input_ids=tokens, **attention_inputs(documents, placed, method=engine)).logits
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
        got = model(input_ids=tokens, **attention_inputs(zeros, placed, method="none")).logits
        cached = model(input_ids=tokens, position_ids=placed, use_cache=True).logits
        guessed = model(input_ids=tokens, position_ids=placed, use_cache=False).logits
    torch.testing.assert_close(got, cached, rtol=1e-4, atol=1e-5)
    assert (guessed - cached).abs().max() > 1e-2


def test_engines_fit_the_attention():
    assert fitting_methods(PackingOptions(), "flash_attention_2") == ("varlen", "native")
    assert fitting_methods(PackingOptions(), "eager") == ("native",)
    with pytest.raises(UsageError, match="does not work with eager"):
        fitting_methods(PackingOptions(method="varlen"), "eager")
    documents = torch.tensor([[0, 0, 1]])
    with pytest.raises(UsageError, match="do not restart"):
        attention_inputs(documents, torch.tensor([[0, 1, 2]]), method="native")


def test_the_engine_is_one_that_the_model_heeds():
    model = small_model()
    assert choose_method(model, PackingOptions()) == "varlen"
    assert model.config._attn_implementation == "ropewalk_sdpa"
    # StableLM does not hand keyword arguments on to its attention: cumulative lengths never arrive.
    deaf = small_model("stablelm", num_key_value_heads=4)
    assert choose_method(deaf, PackingOptions()) == "mask"
    assert deaf.config._attn_implementation == "sdpa"
    with pytest.raises(UsageError, match="varlen: a document changes with the one before it"):
        choose_method(deaf, PackingOptions(method="varlen"))
    # Falcon does not use the attention interface at all, but takes a mask.
    with pytest.raises(UsageError, match="does not use transformers' attention interface"):
        choose_method(small_model("falcon"), PackingOptions(method="varlen"))


def test_sliding_windows_are_never_lost_in_packing():
    model = small_model("mistral", sliding_window=64)
    assert choose_method(model, PackingOptions()) == "varlen"
    with pytest.raises(UsageError, match="would switch the sliding windows off"):
        choose_method(small_model("mistral", sliding_window=64), PackingOptions(method="mask"))


def test_attention_that_is_not_told_its_sliding_window_is_noticed(monkeypatch):
    """A Llama whose layers are taken for sliding ones: its attention is told of none."""
    monkeypatch.setattr(borders, "chosen_layers", lambda model, layers: [0])
    with pytest.raises(UsageError, match="varlen: its attention is not told its sliding window"):
        choose_method(small_model(), PackingOptions(method="varlen"))


class Leaking(torch.nn.Module):
    """Documents apart but for a share of the logits' own spread: from the first token of the row, or of the place."""

    def __init__(self, *, before: float = 0.0, place: float = 0.0, size: float = 50.0) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(64, 16)
        self.before, self.place, self.size = before, place, size
        self.config = type("Config", (), {"_attn_implementation": "eager"})()

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.embedding

    def forward(self, input_ids: torch.Tensor, **inputs: torch.Tensor) -> object:
        generator = torch.Generator().manual_seed(0)
        table = torch.randn(64, 64, generator=generator)
        logits = self.size * table[input_ids]
        spread = logits[:, -12:].double().std().float()
        # The first row of the trial begins with token 3, the changed one with token 7.
        logits = logits + spread * self.before * (input_ids[:, :1, None] == 7)
        return type("Output", (), {"logits": logits + spread * self.place * (input_ids.shape[1] > 12)})()


def test_a_leak_of_rounding_is_allowed_where_numbers_are_rounded():
    """Three hundredths of the spread in bfloat16, stored or by autocast; float64 is as whole as float32."""
    changes = "a document changes with the one before it"

    def leak(share, dtype):
        model = Leaking(before=share)
        plain = model.forward

        def rounded(input_ids, **inputs):
            found = plain(input_ids, **inputs)
            found.logits = found.logits.to(dtype)
            return found

        model.forward = rounded
        return borders._leak(model, "none")

    assert [leak(share, torch.bfloat16) for share in (1e-2, 5e-2)] == [None, changes]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert [leak(share, torch.float32) for share in (1e-2, 5e-2)] == [None, changes]
    assert [leak(share, torch.float64) for share in (0.8e-4, 1e-2)] == [None, changes]


@pytest.mark.parametrize("size", [50.0, 0.02])
def test_a_leak_is_measured_against_the_spread_of_the_logits(size: float) -> None:
    """A ten-thousandth of it from the document before, a thousandth from being packed; whatever the logits' size."""
    leaks = [
        borders._leak(Leaking(size=size, **leak), "none")
        for leak in ({}, {"before": 0.8e-4}, {"before": 1.2e-4}, {"place": 0.8e-3}, {"place": 1.2e-3})
    ]
    changes, alone = "a document changes with the one before it", "a document is not computed as it is alone"
    assert leaks == [None, None, changes, None, alone]


@pytest.mark.parametrize("kind", ["llama", "stablelm", "gpt_neox", "phi3"])
def test_models_that_heed_skipped_positions_pass(kind):
    check_skips(small_model(kind, num_key_value_heads=4), "none")


def test_models_that_do_not_are_refused(monkeypatch):
    with monkeypatch.context() as patch:
        # What stock transformers is given by whoever passes positions alone.
        patch.setattr(
            borders, "attention_inputs", lambda documents, positions, method: {"position_ids": positions}
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


def test_borders_by_hand():
    """Two rows of three and one documents; the second row begins with the number that the first one ends with."""
    documents = torch.tensor([[0, 0, 0, 1, 2, 2], [2, 2, 2, 2, 2, 2]])
    placed = torch.tensor([[0, 1, 2, 0, 0, 1], [0, 1, 2, 3, 4, 5]])
    ones = torch.ones(2, 6, dtype=torch.long)
    given = attention_inputs(documents, placed, method="varlen")
    assert given.keys() == {
        "position_ids", "use_cache", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "attention_mask",
    }  # fmt: skip
    assert given["position_ids"] is placed
    assert given["use_cache"] is False
    for side in ("q", "k"):
        assert given[f"cu_seq_lens_{side}"].tolist() == [0, 3, 4, 6, 12]
        assert given[f"cu_seq_lens_{side}"].dtype == torch.int32
        assert given[f"max_length_{side}"] == 6
    assert torch.equal(given["attention_mask"], ones)
    mask = attention_inputs(documents, placed, method="mask")["attention_mask"]
    assert mask.shape == (2, 1, 6, 6)
    wanted = [
        [[bool(row[a] == row[b]) and b <= a for b in range(6)] for a in range(6)]
        for row in documents.tolist()
    ]
    assert mask[:, 0].tolist() == wanted
    assert attention_inputs(documents, placed, method="native") == {
        "position_ids": placed,
        "use_cache": False,
    }
    for wrong in ([[0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 4, 5]], [[0, 1, 2, 0, 0, 1], [0, 1, 2, 0, 1, 2]]):
        with pytest.raises(UsageError, match="do not restart exactly"):
            attention_inputs(documents, torch.tensor(wrong), method="native")
    none = attention_inputs(documents, placed, method="none")
    assert none.keys() == {"position_ids", "use_cache", "attention_mask"}
    assert torch.equal(none["attention_mask"], ones)
    with pytest.raises(UsageError, match="'magic' is not known"):
        attention_inputs(documents, placed, method="magic")
    both = np.array([[0, 0, 0, 1, 2, 2], [2, 2, 2, 2, 3, 2]])
    assert row_positions(both, PackingOptions()).tolist() == [[0, 1, 2, 0, 0, 1], [0, 1, 2, 3, 0, 0]]
    assert row_positions(both, PackingOptions(positions="run-on")).tolist() == [[0, 1, 2, 3, 4, 5]] * 2
    assert row_positions(both, PackingOptions(boundaries="none")).tolist() == [[0, 1, 2, 3, 4, 5]] * 2


@pytest.mark.parametrize(
    ("implementation", "fitting"),
    [
        ("sdpa", ("varlen", "mask", "native")),
        ("flash_attention_2", ("varlen", "native")),
        ("flash_attention_3", ("varlen", "native")),
        ("flex_attention", ("native",)),
        ("eager", ("native",)),
    ],
)
def test_what_each_attention_may_understand(implementation, fitting):
    assert fitting_methods(PackingOptions(), implementation) == fitting
    for method in ("varlen", "mask", "native"):
        if method in fitting:
            assert fitting_methods(PackingOptions(method=method), implementation) == (method,)
        else:
            with pytest.raises(
                UsageError, match=f"packing.method={method} does not work with {implementation}"
            ):
                fitting_methods(PackingOptions(method=method), implementation)


@pytest.mark.parametrize("training", [True, False])
def test_trials_leave_the_model_as_it_was(training):
    """Its mode and its attention; and what cannot be tried at all is said in one line."""
    model = small_model("stablelm", num_key_value_heads=4).train(training)
    assert choose_method(model, PackingOptions()) == "mask"
    assert (model.training, model.config._attn_implementation) == (training, "sdpa")
    check_skips(model, "none")
    assert model.training is training
    broken = small_model().train(training)
    broken.model.layers[0].register_forward_pre_hook(
        lambda *given: (_ for _ in ()).throw(RuntimeError("no\nkernel"))
    )
    with pytest.raises(UsageError, match=r"varlen: no kernel; mask: no kernel; native: no kernel"):
        choose_method(broken, PackingOptions())
    assert (broken.training, broken.config._attn_implementation) == (training, "sdpa")
    tiny_vocabulary = small_model(vocab_size=5)
    assert choose_method(tiny_vocabulary, PackingOptions()) == "varlen"
    check_skips(tiny_vocabulary, "varlen")
