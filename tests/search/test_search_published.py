"""Published factor lists: which models get them, what they are at another factor, and who begins from them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ropewalk.geometry import RopeGeometry
from ropewalk.search import evolution
from ropewalk.search.evolution import EvolutionSettings
from ropewalk.search.published import PUBLISHED, published_for
from ropewalk.search.sweep import candidates

LLAMA2 = RopeGeometry(head_dim=128, rope_theta=1e4, original_length=4096)


def test_only_models_that_rotate_alike_get_a_list() -> None:
    assert [item.name.split()[2] for item in published_for(LLAMA2)] == ["Llama", "Mistral"]
    for other in (
        RopeGeometry(head_dim=96, rope_theta=1e4, original_length=4096),
        RopeGeometry(head_dim=128, rope_theta=5e5, original_length=4096),
        RopeGeometry(head_dim=128, rope_theta=1e4, original_length=8192),
    ):
        assert published_for(other) == []


def test_a_list_at_another_factor_keeps_each_pair_at_its_share_of_the_stretch() -> None:
    llama, mistral = PUBLISHED
    assert (llama.factor, mistral.factor) == (262144 / 4096, 131072 / 4096)
    np.testing.assert_allclose(llama.at(64.0), llama.factors, rtol=1e-12)
    # 3.07 is the fifteenth of Llama's; at 8 = sqrt(64) each is its square root.
    assert llama.at(8.0)[14] == pytest.approx(math.sqrt(3.07))
    # Mistral's falls from 1.11 to 1.08, and again from 1.27; the larger one before it holds.
    risen = mistral.at(32.0)
    assert risen[5:10].tolist() == pytest.approx([1.11, 1.11, 1.11, 1.11, 1.14])
    assert risen[13:16].tolist() == pytest.approx([1.27, 1.27, 1.33])
    assert all((np.diff(item.at(8.0)) >= 0).all() for item in PUBLISHED)


def test_both_searches_begin_from_them() -> None:
    settings, rng = EvolutionSettings(population=8), np.random.default_rng(0)
    first = evolution._first(LLAMA2, 64.0, settings, rng)
    assert first[3].factors == PUBLISHED[0].factors
    assert len(first) == 8
    other = RopeGeometry(head_dim=128, rope_theta=5e5, original_length=4096)
    assert PUBLISHED[0].factors not in [item.factors for item in evolution._first(other, 64.0, settings, rng)]
    swept = {item.name: item for item in candidates(LLAMA2, 8.0)}
    made = swept[PUBLISHED[1].name].schedule
    np.testing.assert_allclose(made.stretch, PUBLISHED[1].at(8.0), rtol=1e-12)
    # LongRoPE's own attention factor, sqrt(1 + ln s / ln L).
    assert made.attention_factor == pytest.approx(math.sqrt(1 + math.log(8) / math.log(4096)))
