"""Token weights: each formula by hand, their products, and what is done to inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ropewalk.errors import UsageError
from ropewalk.training.parts.batch.far import FarDrop
from ropewalk.training.parts.batch.noise import InputNoise
from ropewalk.training.parts.loss.losses import IGNORE
from ropewalk.training.parts.options import PartsOptions
from ropewalk.training.parts.weighting.options import LongTokenWeight, ShapeWeight, WeightingOptions
from ropewalk.training.parts.weighting.weights import (
    context_of,
    cropped_losses,
    repeat_distance,
    shape_weight,
    token_weights,
)

REACH = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7]])
LABELS = torch.tensor([[5, 6, 7, 8, 9, 10, IGNORE, 11]])


def test_shapes_by_hand():
    power = shape_weight(ShapeWeight(shape="power", exponent=2.0), REACH)[0]
    assert power.tolist() == pytest.approx([((x + 1) / 8) ** 2 for x in range(8)])
    ramp = shape_weight(ShapeWeight(shape="ramp", low=1.0, high=3.0, span=4), REACH)[0]
    assert ramp.tolist() == pytest.approx([1, 1.5, 2, 2.5, 3, 3, 3, 3])
    bands = shape_weight(ShapeWeight(shape="bands", bands=[(2, 0.0), (5, 4.0)]), REACH)[0]
    assert bands.tolist() == [1, 1, 0, 0, 0, 4, 4, 4]


def test_weights_are_those_of_the_shape_over_scored_tokens_only():
    weights = token_weights(WeightingOptions(shape={"shape": "power", "exponent": 1.0}), labels_BT=LABELS)
    assert weights[0].tolist() == pytest.approx([x / 8 for x in (1, 2, 3, 4, 5, 6, 0, 8)])


def test_context_starts_again_in_each_document():
    documents = torch.tensor([[0, 0, 0, 1, 1, 2], [4, 4, 4, 4, 4, 4]])
    assert context_of(documents).tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 4, 5]]


def test_repeat_distance_stays_inside_a_document_and_a_row():
    inputs = torch.tensor([[1, 2, 1, 2, 1, 2], [1, 2, 3, 4, 1, 2]])
    labels = torch.tensor([[2, 1, 2, 1, 2, 9], [2, 3, 4, 1, 2, 3]])
    documents = torch.tensor([[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]])
    assert repeat_distance(inputs, labels, documents).tolist() == [[0, 0, 2, 2, 0, 0], [0, 0, 0, 0, 4, 4]]
    assert repeat_distance(inputs, labels).tolist() == [[0, 0, 2, 2, 2, 0], [0, 0, 0, 0, 4, 4]]


@pytest.mark.parametrize("seed", range(4))
def test_repeat_distance_is_that_of_a_walk_with_a_dictionary(seed):
    rng = np.random.default_rng(seed)
    inputs, labels = torch.from_numpy(rng.integers(0, 4, (2, 3, 40)))
    documents = torch.from_numpy(np.sort(rng.integers(0, 3 + seed, (3, 40)), axis=1))
    wanted = []
    for row in zip(inputs.tolist(), labels.tolist(), documents.tolist(), strict=True):
        last: dict[tuple[int, int, int], int] = {}
        wanted.append([])
        for place, step in enumerate(zip(*row, strict=True)):
            wanted[-1].append(place - last[step] if step in last else 0)
            last[step] = place
    assert repeat_distance(inputs, labels, documents).tolist() == wanted


def test_products_with_the_datas_own_weights():
    options = WeightingOptions(
        shape={"shape": "ramp", "low": 1.0, "high": 3.0, "span": 4}, near={"by": "position", "tokens": 2}
    )
    base = torch.tensor([[0.5, 0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 0.0]])
    plain = token_weights(options, labels_BT=LABELS, base_BT=base)
    # Where the label is IGNORE nothing counts, whatever the data says.
    assert plain[0].tolist() == pytest.approx([0.0, 0.0, 1.0, 1.25, 3.0, 3.0, 0.0, 0.0])


def test_near_tokens_lose_their_weight():
    weights = token_weights(WeightingOptions(near={"tokens": 4}), labels_BT=LABELS)
    assert (weights[0] > 0).tolist() == [False] * 4 + [True, True, False, True]
    distant = token_weights(
        WeightingOptions(near={"by": "distance", "tokens": 3}),
        labels_BT=torch.tensor([[2, 3, 4, 1, 2, 3]]),
        inputs_BT=torch.tensor([[1, 2, 3, 4, 1, 2]]),
    )
    assert distant.tolist() == [[0, 0, 0, 0, 1, 1]]


def test_long_tokens_weigh_by_what_far_context_gives():
    losses = torch.tensor([[1.0, 1.0, 2.0, 0.5, 1.0, 1.0, 9.0, 1.0]])
    cropped = torch.tensor([[1.0, 3.0, 1.0, 9.0, 1.0, 1.0, 9.0, 1.0]])
    options = WeightingOptions(long_tokens={"context": 2, "ceiling": 5.0})
    weights = token_weights(options, labels_BT=LABELS, losses_BT=losses, cropped_losses_BT=cropped)
    raw = [1.0, 5.0, math.exp(-1), 5.0, 1.0, 1.0, 0.0, 1.0]
    assert weights[0].tolist() == pytest.approx(raw, rel=1e-5)


def test_easy_tokens_by_bound_and_by_quantile():
    losses = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.0, 0.7]])
    below = token_weights(WeightingOptions(easy={"below": 0.35}), labels_BT=LABELS, losses_BT=losses)
    assert (below[0] > 0).tolist() == [False, False, False, True, True, True, False, True]
    low = token_weights(WeightingOptions(easy={"quantile": 0.5}), labels_BT=LABELS, losses_BT=losses)
    assert (low[0] > 0).tolist() == [False, False, False, False, True, True, False, True]


def test_nothing_left_means_no_loss():
    losses = torch.zeros_like(LABELS, dtype=torch.float32)
    weights = token_weights(WeightingOptions(easy={"below": 1.0}), labels_BT=LABELS, losses_BT=losses)
    assert not weights.any()


def test_a_row_without_a_scored_token_has_no_weight():
    labels = torch.full_like(LABELS, IGNORE)
    losses = torch.ones_like(LABELS, dtype=torch.float32)
    weights = token_weights(WeightingOptions(easy={"quantile": 0.5}), labels_BT=labels, losses_BT=losses)
    assert weights.tolist() == [[0.0] * 8]


@settings(max_examples=40, deadline=None)
@given(st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 1000))
def test_any_combination_is_the_product_of_its_parts_and_of_the_datas_own_weights(
    shape, near, easy, long, seed
):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 50, (3, 40), generator=generator)
    labels[0, :5] = IGNORE
    base = torch.rand(3, 40, generator=generator) * (labels != IGNORE)
    given = {
        "shape": ShapeWeight(shape="ramp", low=0.5, high=2.0) if shape else None,
        "near": {"tokens": 7} if near else None,
        "easy": {"quantile": 0.3} if easy else None,
        "long_tokens": LongTokenWeight(context=8) if long else None,
    }
    known = {
        "labels_BT": labels,
        "losses_BT": torch.rand(3, 40, generator=generator) * 4,
        "cropped_losses_BT": torch.rand(3, 40, generator=generator) * 6,
    }
    weights = token_weights(WeightingOptions(**given), base_BT=base, **known)
    wanted = base
    for name, part in given.items():
        wanted = wanted * token_weights(WeightingOptions(**{name: part}), **known)
    torch.testing.assert_close(weights, wanted)
    assert not weights[labels == IGNORE].any()


def test_cropped_losses_see_only_the_window():
    length, rows = 37, 2
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 100, (rows, length), generator=generator)
    positions = torch.arange(length).expand(rows, length)
    seen = []

    def losses(tokens, labels, documents, places):
        seen.append(tokens.numel())
        # A stand-in whose "loss" is how many tokens of context it was given.
        return torch.arange(tokens.shape[1]).expand(tokens.shape).float()

    options = LongTokenWeight(context=8, stride=4)
    got = cropped_losses(
        losses,
        options,
        inputs_BT=inputs,
        labels_BT=inputs,
        documents_BT=torch.zeros_like(inputs),
        positions_BT=positions,
    )
    assert got[0, :12].tolist() == list(range(12))
    assert got[:, 12:].min() >= 8
    assert got[:, 12:].max() <= 11
    assert max(seen) <= rows * length


@pytest.mark.parametrize(("context", "stride"), [(8, 4), (8, None), (5, 3), (4, 9)])
def test_cropped_losses_by_a_walk_over_windows(context, stride):
    """A stand-in whose loss is token, document and position, and the place in the window."""
    rows, length = 2, 37
    step = context if stride is None else stride
    window = context + step
    tokens = torch.arange(rows * length).view(rows, length)
    seen = []

    def losses(inputs, labels, documents, positions):
        assert torch.equal(labels, inputs + 1)
        assert torch.equal(documents, inputs + 2)
        assert torch.equal(positions, inputs + 3)
        seen.append(inputs.numel())
        return inputs * 100.0 + torch.arange(inputs.shape[1])

    found = cropped_losses(
        losses,
        LongTokenWeight(context=context, stride=stride),
        inputs_BT=tokens,
        labels_BT=tokens + 1,
        documents_BT=tokens + 2,
        positions_BT=tokens + 3,
    )
    starts = [*range(0, length - window, step), length - window]
    wanted = torch.zeros(rows, length)
    for row in range(rows):
        for start in starts:
            for place in range(0 if start == 0 else context, window):
                wanted[row, start + place] = tokens[row, start + place] * 100.0 + place
    assert torch.equal(found, wanted)
    # As many windows at a time as are no longer than the batch itself, and no fewer.
    assert sum(seen) == rows * len(starts) * window
    assert seen[0] == min(rows * length // window, rows * len(starts)) * window


def test_a_row_as_long_as_a_window_is_read_once():
    seen = []

    def losses(*given):
        seen.append(given[0].shape)
        return given[0].float()

    for length, shapes in ((12, [(1, 12)]), (13, [(1, 12), (1, 12)])):
        seen.clear()
        rows = torch.ones(1, length, dtype=torch.long)
        given = {f"{name}_BT": rows for name in ("inputs", "labels", "documents", "positions")}
        assert cropped_losses(losses, LongTokenWeight(context=8, stride=4), **given).tolist() == [
            [1.0] * length
        ]
        assert [tuple(shape) for shape in seen] == shapes


def test_cropped_losses_of_a_short_row_are_its_own():
    inputs = torch.ones(1, 6, dtype=torch.long)
    got = cropped_losses(
        lambda tokens, *rest: tokens.float() * 2,
        LongTokenWeight(context=8),
        inputs_BT=inputs,
        labels_BT=inputs,
        documents_BT=inputs,
        positions_BT=inputs,
    )
    assert got.tolist() == [[2.0] * 6]


@pytest.mark.parametrize("span", [1, 4])
def test_noise_replaces_about_the_share_and_never_the_first(span):
    inputs = torch.full((8, 512), 7)
    rng = np.random.default_rng(0)
    batch = {"input_ids": inputs}
    made = InputNoise(share=0.2, kind="token", token_id=3, span=span)
    noisy = made.change(batch, vocabulary_size=50, rngs=[rng] * len(inputs))["input_ids"]
    assert torch.equal(batch["input_ids"], inputs)
    changed = (noisy != inputs).float().mean().item()
    assert 0.15 < changed <= 0.2
    assert (noisy[:, 0] == 7).all()
    assert set(noisy.unique().tolist()) == {3, 7}
    random = InputNoise(share=0.5).change(batch, vocabulary_size=50, rngs=[rng] * len(inputs))["input_ids"]
    assert random.max() < 50
    assert random.unique().numel() > 20


def test_dropped_far_tokens_leave_positions_and_labels_true():
    length, near = 64, 16
    tokens = torch.arange(length).expand(3, length)
    batch = {"input_ids": tokens, "position_ids": tokens.clone(), "target_ids": tokens + 1}
    rngs = [np.random.default_rng(row) for row in range(3)]
    kept = FarDrop(share=0.5, near=near).change(batch, vocabulary_size=50, rngs=rngs)
    places = kept["position_ids"]
    assert places.shape == (3, length - int(0.5 * (length - near - 1)))
    assert torch.equal(kept["input_ids"], places)
    assert torch.equal(kept["target_ids"], places + 1)
    assert (places.diff(dim=1) > 0).all()
    assert (places[:, 0] == 0).all()
    assert torch.equal(places[:, -near:], tokens[:, -near:])
    assert not torch.equal(places[0], places[1])


def test_dropping_nothing_and_shapes_that_differ():
    batch = {"input_ids": torch.ones(1, 8), "position_ids": torch.ones(1, 8)}
    rngs = [np.random.default_rng(0)]
    assert FarDrop(share=0.5, near=8).change(batch, vocabulary_size=50, rngs=rngs) is batch
    with pytest.raises(UsageError, match="shapes"):
        FarDrop(share=0.5, near=2).change(batch | {"x": torch.ones(2, 8)}, vocabulary_size=50, rngs=rngs)


def test_a_part_by_its_name_is_the_one_under_weighting():
    noise, far = {"share": 0.2, "span": 2}, {"share": 0.3, "near": 8}
    by_name = PartsOptions.model_validate({"parts": {"input-noise": noise, "far-drop": far}})
    older = PartsOptions.model_validate({"weighting": {"input_noise": noise, "far_drop": far}})
    assert by_name.changing == older.changing == [InputNoise(**noise), FarDrop(**far)]
    assert PartsOptions.model_validate(by_name.model_dump(mode="json")) == by_name
    # They act as they are named: noise after a drop is another thing than a drop after noise.
    turned = PartsOptions.model_validate({"parts": {"far-drop": far, "input-noise": noise}})
    assert [part.name for part in turned.changing] == ["far-drop", "input-noise"]
    for written, words in (
        (
            {"parts": {"input-noise": noise}, "weighting": {"input_noise": noise}},
            "input-noise is asked for twice",
        ),
        ({"parts": {"input-nose": noise}}, "did you mean input-noise"),
        ({"parts": {"far-drop": {"share": 0.3, "far": 8}}}, "far-drop: near: Field required; far: Extra"),
    ):
        with pytest.raises(ValidationError, match=words):
            PartsOptions.model_validate(written)


def test_missing_losses_and_contradictory_options_are_refused():
    with pytest.raises(UsageError, match="losses_BT"):
        token_weights(WeightingOptions(easy={"below": 1.0}), labels_BT=LABELS)
    with pytest.raises(UsageError, match="cropped"):
        token_weights(WeightingOptions(long_tokens={}), labels_BT=LABELS, losses_BT=LABELS.float())
    with pytest.raises(UsageError, match="by distance needs the inputs"):
        token_weights(WeightingOptions(shape={"by": "distance"}), labels_BT=LABELS)
    for fields in (
        {"easy": {}},
        {"easy": {"below": 1.0, "quantile": 0.5}},
        {"shape": {"shape": "bands"}},
        {"shape": {"shape": "bands", "bands": [(4, 1.0), (2, 1.0)]}},
        {"input_noise": {"share": 0.1, "kind": "token"}},
        {"far_drop": {"share": 1.0, "near": 4}},
        {"speed": 3},
    ):
        with pytest.raises(ValidationError):
            WeightingOptions(**fields)


def test_gains_are_clipped_on_both_sides_and_before_they_overflow():
    """exp of a gain of 50 at the most; between floor and ceiling; only one alone of the two parts that need losses."""
    losses = torch.tensor([[1.0, 1.0, 5.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    cropped = torch.tensor([[61.0, 51.0, 1.0, 2.0, 1.0, 1.0, 1.0, 500.0]])
    options = WeightingOptions(long_tokens={"context": 2, "floor": 0.25, "ceiling": 1e30})
    found = token_weights(options, labels_BT=LABELS, losses_BT=losses, cropped_losses_BT=cropped)
    raw = [math.exp(50), math.exp(50), 0.25, math.e, 1.0, 1.0, 0.0, math.exp(50)]
    assert found[0].tolist() == pytest.approx(raw, rel=1e-5)
    both = WeightingOptions(long_tokens={"context": 2, "ceiling": 2.0}, easy={"below": 1.0})
    easy = torch.tensor([[1.0, 1.001, 5.0, 0.5, 2.0, 1.0, 9.0, 3.0]])
    found = token_weights(both, labels_BT=LABELS, losses_BT=easy, cropped_losses_BT=easy + 0.5)
    kept = [0, math.exp(0.5), math.exp(0.5), 0, math.exp(0.5), 0, 0, math.exp(0.5)]
    assert found[0].tolist() == pytest.approx(kept, rel=1e-5)


@pytest.mark.parametrize(
    ("quantile", "bound"), [(0.01, 0.1), (0.34, 0.3), (0.49, 0.3), (0.5, 0.4), (0.99, 0.6)]
)
def test_the_lowest_share_is_known_and_no_more(quantile, bound):
    """Of seven scored losses the one at the whole place below quantile * 6: what is not above it carries no loss."""
    losses = torch.tensor([[0.4, 0.2, 0.7, 0.1, 0.5, 0.6, -9.0, 0.3]])
    options = WeightingOptions(easy={"quantile": quantile})
    found = token_weights(options, labels_BT=LABELS, losses_BT=losses)
    assert found[0].tolist() == [
        float(loss > bound) and float(loss > 0) for loss in (0.4, 0.2, 0.7, 0.1, 0.5, 0.6, -9, 0.3)
    ]


def test_weights_by_distance_by_hand():
    inputs = torch.tensor([[1, 2, 3, 1, 2, 3, 1, 2]])
    labels = torch.tensor([[2, 3, 1, 2, 3, 1, 2, 9]])
    documents = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1]])
    shaped = WeightingOptions(shape={"by": "distance", "shape": "power", "exponent": 1.0, "span": 8})
    found = token_weights(shaped, labels_BT=labels, inputs_BT=inputs)
    assert found[0].tolist() == pytest.approx([1 / 8] * 3 + [4 / 8] * 4 + [1 / 8])
    apart = token_weights(shaped, labels_BT=labels, inputs_BT=inputs, documents_BT=documents)
    assert apart[0].tolist() == pytest.approx([1 / 8] * 3 + [4 / 8] * 2 + [1 / 8] * 3)
    near = WeightingOptions(near={"tokens": 2})
    by_place = token_weights(near, labels_BT=labels, documents_BT=documents)
    assert by_place.tolist() == [[0, 0, 1, 1, 1, 0, 0, 1]]
    assert by_place.dtype == torch.float32


def test_spans_and_bands_at_their_edges():
    wide = shape_weight(ShapeWeight(shape="power", exponent=2.0, span=4), REACH)[0]
    assert wide.tolist() == pytest.approx([1 / 16, 4 / 16, 9 / 16, 1, 1, 1, 1, 1])
    ramp = shape_weight(ShapeWeight(shape="ramp", low=2.0, high=1.0), REACH)[0]
    assert ramp.tolist() == pytest.approx([2 - x / 8 for x in range(8)])
    bands = shape_weight(ShapeWeight(shape="bands", bands=[(1, 0.5), (3, 2.0), (7, 0.0)]), REACH)[0]
    assert bands.tolist() == [1, 0.5, 0.5, 2, 2, 2, 2, 0]
