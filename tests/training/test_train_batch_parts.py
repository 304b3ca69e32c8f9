"""What every part that changes micro-batches promises, those of other packages included."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ropewalk.training.parts.part import PARTS

# Options for parts whose defaults say nothing.
EXAMPLES = {
    "input-noise": {"share": 0.4, "span": 2},
    "far-drop": {"share": 0.5, "near": 8},
}
VOCABULARY = 64


def batch_of(rows):
    """Random tokens in rows of 40, every tensor that a part meets."""
    tokens = torch.randint(0, VOCABULARY, (3, 41), generator=torch.Generator().manual_seed(1))[rows]
    places = torch.arange(40).expand(len(rows), 40)
    return {
        "input_ids": tokens[:, :-1].clone(),
        "target_ids": tokens[:, 1:].clone(),
        "target_weights": torch.ones(len(rows), 40),
        "documents": torch.zeros_like(places),
        "position_ids": places.clone(),
    }


def changed(name, rows):
    made = PARTS[name](**EXAMPLES.get(name, {}))
    return made.change(
        batch_of(rows), rngs=[np.random.default_rng([7, row]) for row in rows], vocabulary_size=VOCABULARY
    )


@pytest.mark.parametrize("name", list(PARTS))
def test_a_part_keeps_what_every_part_promises(name):
    given, kept = batch_of([0, 1, 2]), batch_of([0, 1, 2])
    made = PARTS[name](**EXAMPLES.get(name, {}))
    found = made.change(
        given, rngs=[np.random.default_rng([7, row]) for row in range(3)], vocabulary_size=VOCABULARY
    )
    assert all(torch.equal(given[key], kept[key]) for key in kept), "the batch that was given stays as it was"
    assert set(found) == set(kept)
    assert len({tensor.shape for tensor in found.values()}) == 1
    assert all(found[key].dtype == kept[key].dtype for key in kept)
    assert any(not torch.equal(found[key], kept[key]) for key in kept), "the example changes something"
    assert found["input_ids"].min() >= 0
    assert found["input_ids"].max() < VOCABULARY
    gaps = found["position_ids"].diff(dim=1)
    assert (gaps > 0).all()
    assert bool((gaps > 1).any()) is made.moves_positions
    # Each label still names the token that truly follows, wherever its row was cut.
    whole = batch_of([0, 1, 2])["target_ids"]
    assert torch.equal(found["target_ids"], whole.gather(1, found["position_ids"]))


@pytest.mark.parametrize("name", list(PARTS))
def test_what_a_part_does_to_a_row_depends_on_that_row_alone(name):
    """However many micro-batches and processes a step has, the same rows come out."""
    together = changed(name, [0, 1, 2])
    for row in range(3):
        alone = changed(name, [row])
        assert all(torch.equal(alone[key][0], together[key][row]) for key in together)
