"""Training under zones: loss and gradients against the attention matrix written out, and what a recipe may ask."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tinymodels import small_model

import ropewalk
from ropewalk.attention.interface import Call, routed
from ropewalk.attention.rotation import rotations
from ropewalk.map_files import map_file
from ropewalk.models.facts import read_facts
from ropewalk.position_maps import Zones, map_for
from ropewalk.training.parts.options import PartsOptions
from ropewalk.training.parts.parts import Parts, zones_of
from ropewalk.training.parts.zones import ZonesOptions
from ropewalk.training.recipe.recipe import Recipe

NEAR, WINDOW = 12, 32


def matrix(plan: Zones, inv_freq: torch.Tensor) -> Any:
    """The attention of zones by definition, every logit of the row at once, on which autograd differentiates."""

    def attend(call: Call) -> torch.Tensor:
        query, key, value = call.query_BHTD, call.key_BHKD, call.value_BHKD
        groups, length = query.shape[1] // key.shape[1], query.shape[2]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        places = torch.arange(length, dtype=torch.float64)
        change = torch.tensor(plan.far_inv_freq) - inv_freq

        def turned(states: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
            one, two = states.chunk(2, dim=-1)
            cos, sin = angles.cos().float(), angles.sin().float()
            return torch.cat([one * cos - two * sin, two * cos + one * sin], dim=-1)

        scale = query.shape[-1] ** -0.5
        near = scale * query @ key.transpose(2, 3)
        growth = ((places + 1) / WINDOW).clamp(min=1)[:, None]
        near = near * growth.float() ** plan.sharpness
        far_query = turned(query, torch.outer(places - plan.near, change))
        far = scale * plan.far_logits * far_query @ turned(key, torch.outer(places, change)).transpose(2, 3)
        far = far * growth**plan.sharpness - plan.log_discount * growth.log()
        distance = places[:, None] - places[None]
        is_far = (distance >= plan.near) & (places[:, None] >= WINDOW)
        logits = torch.where(is_far, far.float(), near).masked_fill(distance < 0, -math.inf)
        return (logits.softmax(-1) @ value).transpose(1, 2)

    return attend


def test_loss_and_gradients_are_those_of_the_matrix() -> None:
    model = small_model(max_position_embeddings=WINDOW)
    options = ZonesOptions(target=128, near=NEAR, log_discount=0.8, far_logits=1.1, sharpness=0.2)
    plan = zones_of(model, options)
    assert isinstance(plan, Zones)
    assert (plan.near, plan.log_discount, plan.far_logits, plan.far_method) == (NEAR, 0.8, 1.1, "linear")
    assert plan.sharpness == 0.2
    assert plan.far_factor == pytest.approx((128 - NEAR) / (WINDOW - NEAR))
    found = rotations(model)
    routes = {index: matrix(plan, item.inv_freq.cpu()) for index, item in found.items() if item is not None}
    ids = torch.randint(3, 60, (2, 70), generator=torch.Generator().manual_seed(2))

    def slopes() -> tuple[float, list[torch.Tensor]]:
        model.zero_grad()
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        loss.backward()
        return float(loss.detach()), [item.grad.clone() for item in model.parameters()]

    plain = slopes()
    with routed(model, routes):
        wanted = slopes()
    parts = Parts(PartsOptions(zones=options))
    remarks = parts.install(model)
    assert any("no part of a checkpoint" in remark for remark in remarks)
    from ropewalk.training.parts.loss.head import remove_head

    remove_head(model)
    got = slopes()
    assert got[0] == pytest.approx(wanted[0], abs=1e-5)
    assert abs(plain[0] - wanted[0]) > 1e-4
    for one, other in zip(got[1], wanted[1], strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_run_trains_under_zones(tiny: Any, tmp_path: Path) -> None:
    recipe = tiny(
        zones={"target": 64, "near": 8}, packing={"boundaries": "none"}, stages=[{"length": 64, "steps": 1}]
    )
    recipe["model"]["init"] |= {"attention_dropout": 0.0, "max_position_embeddings": 32}
    losses = []
    for number, made in enumerate((recipe, {key: value for key, value in recipe.items() if key != "zones"})):
        run = ropewalk.train(made, output=tmp_path / str(number), device="cpu", quiet=True)
        lines = [json.loads(line) for line in (Path(run.run) / "metrics.jsonl").read_text().splitlines()]
        losses.append(next(line["loss"] for line in lines if line.get("kind") == "train"))
    assert losses[0] != losses[1]


def test_what_does_not_go_with_zones_is_refused(tiny: Any, tmp_path: Path) -> None:
    plain = {"zones": {"target": 64}, "packing": {"boundaries": "none"}}
    Recipe.model_validate(tiny(**plain))
    for more in (
        {"packing": {"boundaries": "block-diagonal"}},
        {"positions": {"kind": "pose", "target_length": 64}},
        {"zones": {}},
        {"zones": {"target": 64, "file": "x"}},
        {"zones": {"target": 64, "widht": 3}},
    ):
        with pytest.raises(ValidationError):
            Recipe.model_validate(tiny(**(plain | more)))
    model = small_model(max_position_embeddings=WINDOW)
    geometry = read_facts(model.config.to_dict()).geometry
    plan = map_for("zones", geometry, 128, near=NEAR)
    path = tmp_path / "zones.json"
    path.write_text(json.dumps(map_file(plan, geometry, 128).to_json()))
    assert zones_of(model, ZonesOptions(file=str(path))).to_json() == plan.to_json()
