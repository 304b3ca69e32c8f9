"""Every causal architecture of the installed transformers: a prompt inside the window is stock, bit for bit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from ropewalk.errors import RopewalkError
from ropewalk.generation.ladder import ladder_for, own_window
from ropewalk.generation.session import Session
from ropewalk.models.facts import read_facts

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import tiny

STEPS = 4


def _stock(model, ids):
    model.generation_config.eos_token_id = None
    with torch.inference_mode():
        done = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=STEPS,
            do_sample=False,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return done.sequences[0, len(ids) :].tolist(), torch.cat(done.logits)


@pytest.mark.slow
@pytest.mark.parametrize("kind", tiny.causal_types())
def test_inside_the_window_it_is_stock_bit_for_bit(kind):
    try:
        model = tiny.tiny_model(kind)
    except (ImportError, ValueError, AttributeError, StrictDataclassClassValidationError) as error:
        pytest.skip(f"cannot be built here: {str(error)[:60]}")
    try:
        facts = read_facts(model.config.to_dict())
    except RopewalkError as error:
        pytest.skip(f"does not rotate: {error.message[:60]}")
    ids = tiny.tokens(12)[0].tolist()
    try:
        wanted, logits = _stock(model, ids)
    except (
        ValueError,
        TypeError,
        AttributeError,
        RuntimeError,
        NotImplementedError,
        IndexError,
        KeyError,
    ) as error:
        pytest.skip(f"stock generate: {type(error).__name__} {str(error)[:80]}")
    assert own_window(facts) >= 16
    with Session(model, ladder_for(model), tokens=16) as session:
        found = [session.read(ids), *(session.read([token]) for token in wanted[:-1])]
    if session.reads_whole:
        # RecurrentGemma keeps its state to itself: every step is a fresh reading, with other last bits.
        assert torch.allclose(torch.stack(found), logits, atol=1e-5)
        return
    assert torch.equal(torch.stack(found), logits)
