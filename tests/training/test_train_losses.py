"""The chunked loss equals the plain one, in value and in every gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from ropewalk.errors import UsageError
from ropewalk.training.parts.loss.losses import IGNORE, chunked_cross_entropy, shift_labels, token_losses

B, T, C, V = 2, 13, 8, 21


def _inputs(dtype=torch.float32, *, bias=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(B, T, C, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(V, C, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    offset = (
        torch.randn(V, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() if bias else None
    )
    labels = torch.randint(0, V, (B, T), generator=generator)
    labels[0, 3] = labels[1, -1] = IGNORE
    weights = torch.rand(B, T, generator=generator, dtype=torch.float64).to(dtype)
    return hidden, weight, offset, labels, weights


def _plain(hidden, weight, bias, labels, weights=None, softcap=None, scale=None):
    logits = functional.linear(hidden, weight, bias)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    logits = logits if scale is None else logits * scale
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    losses = functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORE
    )
    losses = losses if weights is None else losses * weights.flatten()
    return losses.sum() / (labels != IGNORE).sum()


@pytest.mark.parametrize("chunk", [1, 5, 26, 1000])
@pytest.mark.parametrize(("softcap", "scale"), [(None, None), (3.0, None), (None, 0.5), (3.0, 0.25)])
@pytest.mark.parametrize("weighted", [False, True])
def test_parity_in_float32(chunk, softcap, scale, weighted):
    hidden, weight, bias, labels, weights = _inputs()
    weights = weights if weighted else None
    wanted = _plain(hidden, weight, bias, labels, weights, softcap, scale)
    wanted_grads = torch.autograd.grad(wanted * 1.7, (hidden, weight, bias))
    got = chunked_cross_entropy(
        hidden, weight, labels, token_weights_BT=weights, chunk=chunk, bias=bias, softcap=softcap, scale=scale
    )
    grads = torch.autograd.grad(got * 1.7, (hidden, weight, bias))
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
    for mine, theirs in zip(grads, wanted_grads):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("softcap", "scale"), [(None, None), (2.0, 0.7)])
def test_gradcheck_in_float64(softcap, scale):
    hidden, weight, bias, labels, weights = _inputs(torch.float64)
    weights.requires_grad_()

    def loss(hidden, weight, bias, weights):
        return chunked_cross_entropy(
            hidden, weight, labels, token_weights_BT=weights, chunk=4, bias=bias, softcap=softcap, scale=scale
        )

    assert torch.autograd.gradcheck(loss, (hidden, weight, bias, weights))


def test_frozen_head_gets_no_gradient():
    hidden, weight, _, labels, _ = _inputs(bias=False)
    frozen = weight.detach()
    got = torch.autograd.grad(chunked_cross_entropy(hidden, frozen, labels, chunk=4), hidden)[0]
    wanted = torch.autograd.grad(_plain(hidden, frozen, None, labels), hidden)[0]
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-7)


def test_bfloat16_autocast_follows_the_plain_loss():
    hidden, weight, bias, labels, _ = _inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = _plain(hidden, weight, bias, labels)
        got = chunked_cross_entropy(hidden, weight, labels, chunk=4, bias=bias)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    mine = torch.autograd.grad(got, weight)[0]
    theirs = torch.autograd.grad(wanted, weight)[0]
    assert mine.dtype == torch.float32
    torch.testing.assert_close(mine, theirs, rtol=0.02, atol=2e-3)


def test_logits_are_never_whole():
    biggest = 0

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, kinds, args=(), kwargs=None):
            nonlocal biggest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                biggest = max(biggest, result.numel())
            return result

    tokens, vocabulary, chunk = 256, 512, 16
    hidden = torch.randn(1, tokens, 8, requires_grad=True)
    weight = torch.randn(vocabulary, 8, requires_grad=True)
    labels = torch.randint(0, vocabulary, (1, tokens))
    with Watch():
        chunked_cross_entropy(hidden, weight, labels, chunk=chunk).backward()
    assert biggest <= chunk * vocabulary


def test_denominator_of_accumulated_batches():
    hidden, weight, _, labels, _ = _inputs(bias=False)
    whole = chunked_cross_entropy(hidden, weight, labels)
    count = (labels != IGNORE).sum()
    parts = [
        chunked_cross_entropy(hidden[i : i + 1], weight, labels[i : i + 1], denominator=count) for i in (0, 1)
    ]
    torch.testing.assert_close(sum(parts), whole)


def test_all_ignored_is_zero_with_zero_gradient():
    hidden, weight, _, labels, _ = _inputs(bias=False)
    loss = chunked_cross_entropy(hidden, weight, torch.full_like(labels, IGNORE))
    loss.backward()
    assert loss.item() == 0.0
    assert not hidden.grad.any()


def test_token_losses_equal_the_plain_ones():
    hidden, weight, bias, labels, _ = _inputs()
    logits = functional.linear(hidden, weight, bias).flatten(0, 1)
    wanted = functional.cross_entropy(logits, labels.flatten(), reduction="none", ignore_index=IGNORE).view(
        B, T
    )
    torch.testing.assert_close(token_losses(hidden, weight, labels, bias=bias, chunk=4), wanted.detach())


def test_losses_are_kept_only_where_the_weights_want_a_gradient():
    hidden, weight, _, labels, weights = _inputs(bias=False)
    for wanted in (False, True):
        summed = chunked_cross_entropy(hidden, weight, labels, token_weights_BT=weights, denominator=1)
        kept = summed.grad_fn.next_functions[0][0].saved_tensors[3]
        assert (kept is not None) == wanted
        weights.requires_grad_()


def test_shift_labels():
    # The number that transformers and torch leave out, in labels as they come from elsewhere.
    assert IGNORE == -100
    assert shift_labels(torch.tensor([[5, 6, 7]])).tolist() == [[6, 7, -100]]
    hidden, weight, _, labels, _ = _inputs(bias=False)
    marked = torch.where(labels == IGNORE, -100, labels)
    assert (token_losses(hidden, weight, marked) == 0).nonzero().tolist() == [[0, 3], [1, 12]]
    assert shift_labels(torch.tensor([[1, 2, 3], [4, IGNORE, 6]])).tolist() == [
        [2, 3, IGNORE],
        [IGNORE, 6, IGNORE],
    ]


def test_shapes_that_do_not_belong_together_are_refused():
    hidden, weight, _, labels, weights = _inputs(bias=False)
    with pytest.raises(UsageError, match="do not belong together"):
        chunked_cross_entropy(hidden, weight, labels[:, 1:])
    with pytest.raises(UsageError, match="token weights"):
        chunked_cross_entropy(hidden, weight, labels, token_weights_BT=weights[:1])
    with pytest.raises(UsageError, match="chunk=0"):
        chunked_cross_entropy(hidden, weight, labels, chunk=0)


@pytest.mark.parametrize(
    "wanted", [(h, w, b, t) for h in (0, 1) for w in (0, 1) for b in (0, 1) for t in (0, 1)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_choice_of_gradients_is_the_plain_ones(wanted, dtype):
    """Frozen head, frozen hidden state, no bias: each alone and together, in chunks that do not divide the tokens."""
    hidden, weight, bias, labels, weights = _inputs(dtype)
    everything = [
        item.detach().requires_grad_(bool(one)) for item, one in zip((hidden, weight, bias, weights), wanted)
    ]
    hidden, weight, bias, weights = everything
    options = {"softcap": 4.0, "scale": 0.5}
    got = chunked_cross_entropy(
        hidden, weight, labels, token_weights_BT=weights, chunk=7, bias=bias, denominator=3.0, **options
    )
    plain = _plain(hidden, weight, bias, labels, weights, **options) * (labels != IGNORE).sum() / 3.0
    torch.testing.assert_close(got, plain.to(got.dtype), rtol=1e-5, atol=1e-6)
    assert got.dtype == dtype
    asked = [item for item, one in zip(everything, wanted) if one]
    assert got.requires_grad == bool(asked)
    if asked:
        mine, theirs = torch.autograd.grad(got * 2.5, asked), torch.autograd.grad(plain * 2.5, asked)
        for one, other in zip(mine, theirs):
            assert one.dtype == dtype
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_types_that_differ_and_sums_in_bfloat16():
    """A float64 hidden state over a float32 head; a head in bfloat16 sums its gradient wider than it is."""
    hidden, weight, bias, labels, _ = _inputs()
    wide = hidden.detach().double().requires_grad_()
    got = chunked_cross_entropy(wide, weight, labels, bias=bias, chunk=5)
    plain = _plain(wide, weight.double(), bias.double(), labels)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, plain)
    torch.testing.assert_close(torch.autograd.grad(got, wide)[0], torch.autograd.grad(plain, wide)[0])
    found = token_losses(wide, weight, labels, bias=bias, chunk=5)
    assert found.dtype == torch.float64
    small = [item.detach().bfloat16().requires_grad_() for item in (hidden, weight, bias)]
    loss = chunked_cross_entropy(small[0], small[1], labels, bias=small[2], chunk=1)
    assert loss.dtype == torch.float32
    plain = _plain(small[0], small[1], small[2], labels)
    torch.testing.assert_close(loss, plain, rtol=2e-2, atol=2e-2)
    mine, theirs = (torch.autograd.grad(one, small) for one in (loss, plain))
    for one, other in zip(mine, theirs):
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(one.float(), other.float(), rtol=0.05, atol=5e-3)


def test_losses_of_tokens_with_all_that_a_head_may_hold():
    hidden, weight, bias, labels, _ = _inputs()
    for chunk in (1, 7, 1000):
        for options in ({}, {"softcap": 3.0}, {"scale": 0.5}, {"softcap": 3.0, "scale": 0.5}):
            logits = functional.linear(hidden, weight, bias) * options.get("scale", 1.0)
            cap = options.get("softcap")
            logits = logits if cap is None else cap * torch.tanh(logits / cap)
            wanted = functional.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORE
            )
            found = token_losses(hidden, weight, labels, bias=bias, chunk=chunk, **options)
            torch.testing.assert_close(found, wanted.view(B, T).detach())
            assert not found.requires_grad
    with pytest.raises(UsageError, match="chunk=0"):
        token_losses(hidden, weight, labels, chunk=0)
    with pytest.raises(UsageError, match="do not belong together"):
        token_losses(hidden[..., :4], weight, labels)
    assert chunked_cross_entropy(hidden, weight, labels, bias=bias, chunk=1).item() == pytest.approx(
        _plain(hidden, weight, bias, labels).item(), rel=1e-6
    )


def test_autocast_is_followed_where_it_is_on():
    hidden, weight, _, labels, _ = _inputs(bias=False)
    plain = token_losses(hidden, weight, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = token_losses(hidden, weight, labels)
        wanted = functional.cross_entropy(
            functional.linear(hidden, weight).float().flatten(0, 1), labels.flatten(), reduction="none",
            ignore_index=IGNORE,
        )  # fmt: skip
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.flatten(), wanted.detach(), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(rounded, plain, rtol=1e-5)


def test_a_second_derivative_is_refused():
    hidden, weight, _, labels, _ = _inputs(bias=False)
    [first] = torch.autograd.grad(
        chunked_cross_entropy(hidden, weight, labels) ** 2, hidden, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
