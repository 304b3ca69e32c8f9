"""The parts on a whole model: the fused loss is the model's own, and every combination trains."""

from __future__ import annotations

import itertools

import pytest
import torch
from tinymodels import VOCABULARY, small_model, some_tokens
from torch.nn import functional

from ropewalk.errors import UsageError
from ropewalk.training.parts.loss import head
from ropewalk.training.parts.loss.head import Head, install_head, remove_head
from ropewalk.training.parts.loss.losses import IGNORE, shift_labels
from ropewalk.training.parts.loss.options import LossOptions
from ropewalk.training.parts.memory.options import MemoryOptions
from ropewalk.training.parts.options import PartsOptions
from ropewalk.training.parts.packing import PackingOptions
from ropewalk.training.parts.parts import Parts
from ropewalk.training.parts.positions import PositionOptions
from ropewalk.training.parts.weighting.options import WeightingOptions

SPECIAL = {
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 4.0},
    "phi": {},
}


def parts_of(**options):
    return Parts(PartsOptions(**options))


def _stock(model, tokens):
    loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    return loss.detach(), torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])


@pytest.mark.parametrize("kind", ["llama", *SPECIAL])
@pytest.mark.parametrize("tied", [False, True])
def test_fused_loss_and_gradients_are_the_models_own(kind, tied):
    attn = "eager" if kind == "gemma2" else "sdpa"
    model, tokens = (
        small_model(kind, attn=attn, tie_word_embeddings=tied, **SPECIAL.get(kind, {})),
        some_tokens(),
    )
    wanted, wanted_grads = _stock(model, tokens)
    assert install_head(model, LossOptions(kernel="chunked", chunk=7)).kernel == "chunked"
    targets = shift_labels(tokens)
    loss = model(input_ids=tokens, target_ids=targets).loss / (targets != IGNORE).sum()
    torch.testing.assert_close(loss.detach(), wanted, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(
        torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad]), wanted_grads
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=2e-6)
    remove_head(model)
    torch.testing.assert_close(_stock(model, tokens)[0], wanted)


def test_a_head_that_does_more_is_noticed():
    model, tokens = small_model(), some_tokens()
    model.lm_head.register_forward_hook(lambda module, args, output: output * 2)
    installed = install_head(model, LossOptions())
    assert installed.kernel == "plain"
    assert "whole logits" in str(installed.remark)
    targets = shift_labels(tokens)
    loss = model(input_ids=tokens, target_ids=targets).loss / (targets != IGNORE).sum()
    torch.testing.assert_close(loss, model(input_ids=tokens, labels=tokens, use_cache=False).loss)
    remove_head(model)
    with pytest.raises(UsageError, match="its own loss on"):
        install_head(model, LossOptions(kernel="chunked"))


def test_liger_without_a_gpu_is_refused():
    with pytest.raises(UsageError, match="liger-kernel and a GPU"):
        install_head(small_model(), LossOptions(kernel="liger"))


def _own_loss(model):
    """The model's own loss on the sixteen first tokens."""
    tokens = torch.arange(16)[None]
    with torch.no_grad():
        logits = model(input_ids=tokens, use_cache=False).logits.float()[0, :-1]
    return functional.cross_entropy(logits, tokens[0, 1:]).item()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-3)])
def test_a_head_may_differ_by_rounding_and_no_more(dtype, tolerance):
    """A layer after the head that moves the loss by half of what is allowed, and by twice as much."""
    for share, kernel in ((0.5, "chunked"), (2.0, "plain")):
        model = small_model().to(dtype)
        plain = _own_loss(model)
        size = [1.0]
        model.lm_head.register_forward_hook(lambda module, args, output, size=size: output.float() * size[0])
        wanted = plain + share * (1e-4 + tolerance * plain)
        low, high = 1.0, 2.0
        for _ in range(40):
            size[0] = (low + high) / 2
            low, high = (size[0], high) if _own_loss(model) < wanted else (low, size[0])
        assert _own_loss(model) == pytest.approx(wanted, abs=1e-5)
        assert install_head(model, LossOptions()).kernel == kernel


def test_a_vocabulary_smaller_than_the_trial_is_no_fault():
    assert install_head(small_model(vocab_size=10), LossOptions()).kernel == "chunked"


def test_what_a_head_holds_is_read_from_the_configuration():
    for kind, fields, scale, softcap in (
        ("llama", {}, None, None),
        ("cohere", {"logit_scale": 1.0}, None, None),
        ("cohere", {"logit_scale": 0.25}, 0.25, None),
        ("granite", {"logits_scaling": 4.0}, 0.25, None),
        ("gemma2", {"head_dim": 8, "final_logit_softcapping": 3.0}, None, 3.0),
    ):
        found = Head.of(small_model(kind, attn="eager", **fields))
        assert (found.scale, found.softcap) == (scale, softcap)
    both = small_model("cohere", logit_scale=0.5)
    both.config.logits_scaling = 4.0
    assert Head.of(both).scale == 0.5


@pytest.mark.parametrize("usable", [False, True])
def test_kernels_are_chosen_by_what_fits(monkeypatch, usable):
    """With a GPU's kernel at hand and without: asked for, or by itself."""
    monkeypatch.setattr(head, "liger_usable", lambda device: usable)
    assert install_head(small_model(), LossOptions()).kernel == ("liger" if usable else "chunked")
    assert install_head(small_model(), LossOptions(kernel="plain")).kernel == "plain"
    assert install_head(small_model(), LossOptions(kernel="chunked")).remark is None
    if usable:
        assert install_head(small_model(), LossOptions(kernel="liger")).kernel == "liger"
    router = small_model("mixtral", num_local_experts=2, num_experts_per_tok=1, output_router_logits=True)
    installed = install_head(router, LossOptions())
    assert installed.kernel == "plain"
    assert "the router's loss" in str(installed.remark)
    with pytest.raises(UsageError, match=r"loss.kernel=chunked does not fit: output_router_logits"):
        install_head(router, LossOptions(kernel="chunked"))


def test_the_gpus_kernel_gets_what_it_can_compute(monkeypatch):
    """No weights and no scale; chunks of 256 tokens on a CPU unless asked otherwise."""
    seen = []
    real = head.chunked_cross_entropy

    def chunked(*args, **kwargs):
        # The trial on sixteen tokens, before anything is installed, asks for neither.
        if "chunk" in kwargs:
            seen.append(kwargs["chunk"])
            assert kwargs["denominator"] == 1.0
        return real(*args, **kwargs)

    def fused(hidden, weight, targets, *, bias, softcap):
        seen.append("liger")
        return real(hidden, weight, targets, bias=bias, softcap=softcap, denominator=1.0)

    monkeypatch.setattr(head, "liger_usable", lambda device: True)
    monkeypatch.setattr(head, "chunked_cross_entropy", chunked)
    monkeypatch.setattr(head, "liger_sum", fused)
    tokens = some_tokens(1, 20)
    targets = shift_labels(tokens)
    for kind, options, more in (
        ("llama", LossOptions(kernel="liger"), {}),
        ("llama", LossOptions(kernel="liger"), {"token_weights": torch.ones(1, 20)}),
        ("llama", LossOptions(kernel="chunked"), {}),
        ("llama", LossOptions(kernel="chunked", chunk=3), {}),
        ("cohere", LossOptions(kernel="liger"), {}),
    ):
        model = small_model(kind, **SPECIAL.get(kind, {}))
        wanted = (model(input_ids=tokens, labels=tokens, use_cache=False).loss * 19).item()
        install_head(model, options)
        seen.clear()
        loss = model(input_ids=tokens, target_ids=targets, **more).loss.item()
        seen.append(loss)
        assert loss == pytest.approx(wanted, rel=1e-4)
        told = {"liger": "liger", "chunked": 256}[options.kernel]
        assert seen[0] == (256 if more or kind == "cohere" else options.chunk or told)


@pytest.mark.parametrize("engine", ["chunked", "plain"])
def test_token_weights_multiply_the_losses(engine):
    model, tokens = small_model(), some_tokens()
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1].flatten(0, 1)
    losses = functional.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="none").view(2, -1)
    weights = torch.linspace(0.0, 3.0, tokens.numel()).view_as(tokens)
    install_head(model, LossOptions(kernel=engine))
    found = model(input_ids=tokens, target_ids=shift_labels(tokens), token_weights=weights).loss
    torch.testing.assert_close(found, (losses * weights[:, :-1]).sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("engine", ["chunked", "plain"])
def test_a_weigher_sees_the_losses_and_decides(engine):
    model, tokens = small_model(), some_tokens()
    install_head(model, LossOptions(kernel=engine))
    targets = shift_labels(tokens)
    logits = model(input_ids=tokens, use_cache=False).logits.flatten(0, 1)
    wanted = functional.cross_entropy(logits, targets.flatten(), reduction="none", ignore_index=IGNORE)
    seen = {}

    def weigh(losses_BT, losses_of):
        seen.update(own=losses_BT, again=losses_of(targets, input_ids=tokens, use_cache=False))
        return (losses_BT > losses_BT.median()).float()

    loss = model(input_ids=tokens, target_ids=targets, weigher=weigh).loss
    torch.testing.assert_close(seen["own"].flatten(), wanted.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen["again"], seen["own"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss, wanted[wanted > wanted.median()].sum(), rtol=1e-4, atol=1e-4)


def _batch(length=48):
    tokens = some_tokens(2, length)
    documents = torch.zeros(2, length, dtype=torch.int32)
    documents[0, 19:] = 1
    weights = torch.ones(2, length)
    weights[1, :10] = 0.0
    labels = tokens.masked_fill(weights == 0, IGNORE)
    return {"input_ids": tokens, "labels": labels, "documents": documents, "weights": weights}


def _run(parts, *, step=0, rank=0, target_length=256, model=None):
    model = small_model().train() if model is None else model
    parts.install(model)
    batch = parts.transform(
        _batch(), step=step, rank=rank, number=0, target_length=target_length, vocabulary_size=VOCABULARY
    )
    with parts.activations(model):
        loss = model(**parts.model_inputs(batch)).loss
        loss.backward()
    return batch, loss.detach(), [parameter.grad for parameter in model.parameters()]


def test_all_parts_off_is_the_plain_weighted_loss():
    batch, loss, grads = _run(parts_of())
    model, plain = small_model().train(), _batch()
    logits = model(input_ids=plain["input_ids"], use_cache=False).logits[:, :-1]
    losses = functional.cross_entropy(
        logits.flatten(0, 1), plain["labels"][:, 1:].flatten(), reduction="none", ignore_index=IGNORE
    )
    wanted = (losses * plain["weights"][:, 1:].flatten()).sum()
    wanted.backward()
    torch.testing.assert_close(loss, wanted.detach(), rtol=1e-5, atol=1e-4)
    assert batch["target_weights"].sum() == 47 + 38
    for mine, theirs in zip(grads, [parameter.grad for parameter in model.parameters()]):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


WEIGHTING = {
    "shape": {"shape": "ramp", "low": 0.5, "high": 1.5},
    "long_tokens": {"context": 8},
    "near": {"tokens": 4},
    "easy": {"quantile": 0.2},
    "input_noise": {"share": 0.1},
    "far_drop": {"share": 0.3, "near": 16},
}


@pytest.mark.parametrize("names", [*itertools.combinations(WEIGHTING, 1), tuple(WEIGHTING)])
@pytest.mark.parametrize("kind", ["plain", "pose", "random"])
@pytest.mark.parametrize("boundaries", ["none", "block-diagonal"])
def test_every_part_alone_and_all_together(names, kind, boundaries):
    parts = parts_of(
        positions=PositionOptions(kind=kind),
        packing=PackingOptions(boundaries=boundaries),
        weighting=WeightingOptions(**{name: WEIGHTING[name] for name in names}),
    )
    batch, loss, grads = _run(parts)
    assert torch.isfinite(loss)
    assert loss > 0
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert any(grad.abs().max() > 0 for grad in grads)
    assert batch["position_ids"].max() < (256 if kind != "plain" else 48)
    if kind != "plain":
        assert batch["position_ids"].max() >= 48


def test_random_choices_follow_seed_step_and_rank():
    parts = parts_of(
        positions=PositionOptions(kind="pose"), weighting=WeightingOptions(input_noise={"share": 0.2})
    )
    first, again = _run(parts)[0], _run(parts)[0]
    assert torch.equal(first["position_ids"], again["position_ids"])
    assert torch.equal(first["input_ids"], again["input_ids"])
    for other in (_run(parts, step=1)[0], _run(parts, rank=1)[0]):
        assert not torch.equal(first["position_ids"], other["position_ids"])


def test_memory_options_change_nothing_in_the_gradient(tmp_path, monkeypatch):
    monkeypatch.setattr("ropewalk.training.parts.memory.activations._refuse_memory", lambda root: None)
    parts = {"weighting": WeightingOptions(long_tokens={"context": 8}), "packing": PackingOptions()}
    _, loss, grads = _run(parts_of(**parts))
    options = MemoryOptions(
        checkpointing=True, offload="disk", offload_folder=str(tmp_path), offload_smallest=0
    )
    _, other, found = _run(parts_of(memory=options, **parts))
    assert torch.equal(loss, other)
    for mine, theirs in zip(found, grads):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_block_diagonal_boundaries_keep_documents_apart():
    found = []
    for first in (3, 9):
        model = small_model()
        parts = parts_of(packing=PackingOptions())
        parts.install(model)
        batch = _batch()
        batch["input_ids"][0, :19] = first
        batch["labels"] = torch.where(batch["documents"].bool(), batch["labels"], IGNORE)
        batch["labels"][1] = IGNORE
        made = parts.transform(
            batch, step=0, rank=0, number=0, target_length=None, vocabulary_size=VOCABULARY
        )
        assert made["target_ids"][0, 18] == IGNORE
        with torch.no_grad():
            found.append(model(**parts.model_inputs(made)).loss)
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"positions": PositionOptions(kind="pose")},
        {"packing": PackingOptions(positions="run-on")},
        {"weighting": WeightingOptions(far_drop={"share": 0.2, "near": 8})},
    ],
)
def test_attention_that_reads_borders_off_positions_refuses_jumps(changes):
    with pytest.raises(UsageError, match="knows document borders by positions alone"):
        parts_of(**({"packing": PackingOptions()} | changes)).install(small_model(attn="eager"))


@pytest.mark.gpu
@pytest.mark.parametrize("attn", ["flex_attention", "flash_attention_2"])
@pytest.mark.parametrize("boundaries", ["none", "block-diagonal"])
def test_kernels_of_a_gpu_give_the_loss_of_sdpa(attn, boundaries):
    if attn == "flash_attention_2":
        pytest.importorskip("flash_attn")
    losses = []
    for kind in ("sdpa", attn):
        model = small_model(attn=kind).to("cuda", torch.bfloat16)
        parts = parts_of(packing=PackingOptions(boundaries=boundaries))
        parts.install(model)
        batch = {name: tensor.to("cuda") for name, tensor in _batch(128).items()}
        made = parts.transform(
            batch, step=0, rank=0, number=0, target_length=None, vocabulary_size=VOCABULARY
        )
        losses.append(model(**parts.model_inputs(made)).loss.detach())
    torch.testing.assert_close(*losses, rtol=0.02, atol=1.0)


@pytest.mark.gpu
def test_liger_equals_the_chunked_loss():
    pytest.importorskip("liger_kernel")
    model, tokens = small_model().to("cuda"), some_tokens().to("cuda")
    targets = shift_labels(tokens)
    losses = []
    for engine in ("chunked", "liger"):
        assert install_head(model, LossOptions(kernel=engine)).kernel == engine
        losses.append(model(input_ids=tokens, target_ids=targets).loss)
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-3)


def test_a_second_head_stands_around_the_models_own_forward_too():
    model, tokens = small_model(), some_tokens()
    own = model.forward
    targets = shift_labels(tokens)
    remove_head(model)
    found = []
    for kernel in ("chunked", "plain", "chunked"):
        install_head(model, LossOptions(kernel=kernel))
        found.append(model(input_ids=tokens, target_ids=targets).loss.item())
    assert found[1:] == pytest.approx([found[0]] * 2, rel=1e-5)
    # Without targets it is the model's own forward, cache and logits and all.
    output = model(input_ids=tokens)
    assert output.logits.shape == (2, 40, VOCABULARY)
    assert output.past_key_values is not None
    remove_head(model)
    assert model.forward == own
    assert not hasattr(model, "_ropewalk_forward")


@pytest.mark.parametrize("training", [True, False])
def test_the_trial_of_a_head_leaves_the_model_in_its_mode(training):
    """Dropout would draw differently in the two forwards that are compared: the trial is made without."""
    model = small_model(attention_dropout=0.5).train(training)
    assert install_head(model, LossOptions()).kernel == "chunked"
    assert model.training is training
    broken = small_model().train(training)
    broken.model.norm.register_forward_pre_hook(
        lambda *given: (_ for _ in ()).throw(RuntimeError("no\nnorm"))
    )
    installed = install_head(broken, LossOptions())
    assert (installed.kernel, broken.training) == ("plain", training)
    assert str(installed.remark) == "the loss keeps whole logits in memory: no norm"


def test_what_a_head_cannot_be_is_said():
    model = small_model()
    model.lm_head = torch.nn.Identity()
    with pytest.raises(UsageError, match="the output layer is a Identity, not a linear layer"):
        Head.of(model)
    biased = Head.of(small_model("phi"))
    assert biased.arguments() == {"bias": biased.layer.bias, "scale": None, "softcap": None}
    assert biased.layer.bias is not None
    capped = small_model("gemma2", attn="eager", head_dim=8, final_logit_softcapping=0.0)
    assert Head.of(capped).softcap is None


def test_a_routers_own_loss_travels_with_the_plain_one():
    fields = {"num_local_experts": 2, "num_experts_per_tok": 1, "output_router_logits": True}
    model, tokens = small_model("mixtral", **fields), some_tokens()
    wanted = model(input_ids=tokens, use_cache=False).aux_loss
    install_head(model, LossOptions())
    found = model(input_ids=tokens, target_ids=shift_labels(tokens))
    torch.testing.assert_close(found.aux_loss, wanted)
    assert found.logits is None
