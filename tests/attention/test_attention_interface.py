"""One hijack for everybody: names come and go by their users, routes answer or pass on, numbers stay."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ropewalk.attention.interface import (
    add_query_hook,
    attention_modules,
    base_implementation,
    install_attention,
    remove_attention,
    remove_query_hook,
    routed,
    split_attention,
)
from ropewalk.errors import UsageError


def _model(attn: str = "sdpa"):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation=attn).eval()


def _logits(model, length: int = 24):
    ids = torch.arange(length)[None] * 7 % 64
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("order", sorted(permutations(["install", "split", "routed"])))
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_users_may_leave_in_any_order(order, attn):
    model, wanted = _model(attn), _logits(_model(attn))
    split, route = split_attention(model), routed(model, {0: lambda call: None})
    enter = {"install": lambda: install_attention(model), "split": split.__enter__, "routed": route.__enter__}
    leave = {
        "install": lambda: remove_attention(model),
        "split": lambda: split.__exit__(None, None, None),
        "routed": lambda: route.__exit__(None, None, None),
    }
    for name in ("install", "split", "routed"):
        enter[name]()
        assert base_implementation(model) == attn
    assert model.config._attn_implementation == ("ropewalk_split" if attn == "sdpa" else "ropewalk_eager")
    for name in order:
        assert torch.equal(_logits(model), wanted)
        leave[name]()
    assert model.config._attn_implementation == attn
    assert "_ropewalk_attention" not in vars(model)
    remove_attention(model)
    assert model.config._attn_implementation == attn


def test_a_wrapped_model_and_its_inside_share_one_count():
    model = _model()
    wrapper = torch.nn.Module()
    wrapper.get_base_model = lambda: model
    wrapper._can_set_attn_implementation = lambda: True
    install_attention(wrapper)
    install_attention(model)
    remove_attention(wrapper)
    assert model.config._attn_implementation == "ropewalk_sdpa"
    remove_attention(model)
    assert model.config._attn_implementation == "sdpa"


def test_the_latest_route_is_asked_first_and_what_it_answers_stands():
    model, asked = _model(), []
    wanted = _logits(model)

    def passing(call):
        asked.append(("passing", call.layer, call.query_BHTD.shape, call.key_BHKD.shape))

    def answering(call):
        asked.append(("answering", call.layer))
        return torch.zeros(1, 24, 4, 8) if call.layer == 1 else None

    with routed(model, {0: passing, 1: passing}), routed(model, {1: answering}):
        changed = _logits(model)
    shapes = ((1, 4, 24, 8), (1, 2, 24, 8))
    assert asked == [("passing", 0, *shapes), ("answering", 1)]
    assert not torch.equal(changed, wanted)
    # Layer 1 attends to nothing: what is left is its feed-forward on layer 0's output.
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight.zero_()
    assert torch.allclose(_logits(model), changed, atol=1e-6)
    assert all(module._ropewalk_routes == () for module in attention_modules(model).values())


def test_routes_see_queries_after_the_hooks():
    model, seen = _model(), []

    def doubled(module, query, key, kwargs):
        seen.append(query)
        return 2 * query, kwargs

    module = attention_modules(model)[0]
    add_query_hook(module, doubled)
    with routed(model, {0: lambda call: seen.append(call.query_BHTD)}):
        _logits(model)
    remove_query_hook(module, doubled)
    assert torch.equal(seen[1], 2 * seen[0])


def test_a_model_outside_of_the_interface_is_refused():
    model = _model()
    model._can_set_attn_implementation = lambda: False
    with pytest.raises(UsageError, match="does not use transformers' attention interface"):
        install_attention(model)
    with pytest.raises(UsageError, match="no attention module with a layer index"):
        attention_modules(torch.nn.ModuleList([torch.nn.Linear(2, 2)]))
    assert model.config._attn_implementation == "sdpa"
