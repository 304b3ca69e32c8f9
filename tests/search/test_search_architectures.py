"""Every causal architecture of the installed transformers: a search reads what the stretched model computes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

import ropewalk
from ropewalk.errors import RopewalkError
from ropewalk.search.family import Family
from ropewalk.search.objective import Objective, weigh
from ropewalk.search.reading import Reader
from ropewalk.search.rows import Row

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import tiny

# Sizes under other names, one a layer, frequencies made anew in every forward, latent attention, a layer type each.
ALWAYS = ("blt", "deepseek_v3", "gemma3_text", "gemma3n_text", "gpt_neox", "phimoe", "qwen3_next")


def kinds() -> list[Any]:
    """All of them, the most behind the marker of slow tests."""
    return [
        pytest.param(kind, marks=() if kind in ALWAYS else pytest.mark.slow) for kind in tiny.causal_types()
    ]


@pytest.mark.parametrize("kind", kinds())
def test_a_search_reads_what_the_stretched_model_computes(kind: str) -> None:
    try:
        model = tiny.tiny_model(kind)
    except (ImportError, ValueError, AttributeError, StrictDataclassClassValidationError) as error:
        pytest.skip(f"cannot be built here: {str(error)[:60]}")
    ids = tiny.tokens(100)
    try:
        reader = Reader(model)
    except RopewalkError as error:
        if "no rotary" not in error.message:
            raise
        pytest.skip(error.message[:80])
    with reader:
        made = ropewalk.schedule("yarn", reader.rotation.geometry, factor=4.0)
        [row] = weigh([Row(ids[0].numpy())], min(reader.original_length, 50), Objective())
        [slope] = reader.slopes(Family.through([made]), 4.0, [[row]])
        [losses], _ = reader.read(made, [row.row.ids])
    assert np.abs(slope.top).max() > 0
    assert slope.heat != 0
    with ropewalk.apply(model, made):
        logits = tiny.logits_of(model, ids)[0].double()
    wanted = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none").numpy()
    np.testing.assert_allclose(losses[1:], wanted, atol=2e-4)
    np.testing.assert_allclose(slope.value, wanted @ row.weights[1:], atol=2e-4)


@pytest.mark.parametrize("all_of_it", [True, False])
def test_a_model_that_rotates_by_tables_of_its_own_is_refused(all_of_it: bool) -> None:
    model = tiny.tiny_model("llama")
    rotary = model.model.rotary_emb

    class Tabled(type(rotary)):
        """Like early remote code: cos and sin are made once, or the temperature is."""

        def forward(self, x: Any, position_ids: Any) -> Any:
            if all_of_it:
                return self.cos[position_ids], self.sin[position_ids]
            angles = position_ids[..., None].double() * self.inv_freq.double()
            return angles.cos().float().repeat(1, 1, 2), angles.sin().float().repeat(1, 1, 2)

    with torch.no_grad():
        rotary.cos, rotary.sin = (table[0] for table in rotary(torch.zeros(1), torch.arange(200)[None]))
    rotary.__class__ = Tabled
    with pytest.raises(RopewalkError, match="does not rotate by the frequencies of its rotary module"):
        Reader(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
