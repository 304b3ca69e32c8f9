"""Zones fitted: near width by a sweep; far profile, discounts, far temperatures and sharpness by the gradient.

    far angle of pair i at distance d:  near * theta_i + (d - near) * theta_i * s ** -m_i,  s = (T - near) / (L - near)
    logits of head h, query p >= L:     ((p + 1) / L) ** sharp_h * logits                            all of them
    and in the far zone                 exp(heat + heat_h) * those - (cool + cool_h) * ln((p + 1) / L)

m is non-decreasing. A head that looks things up needs the far zone, and its key to stand out among more of them; one
that reads its neighbours only loses by it: with one number for all, text and answers are traded against each other,
with one for each head both get better. The numbers ride in a `Family` of one rung (its factor is s, `top` is m), so
that steps, noise, validation and the way on after an interruption are those of every other fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ropewalk.attention.maps import FarZone
from ropewalk.evaluation.candidates.candidate import Candidate
from ropewalk.geometry import FloatArray, RopeGeometry
from ropewalk.position_maps import Zones, map_for
from ropewalk.search.family import METHOD, Family, monotone
from ropewalk.search.map_family import Leaves, MapFamily, turned_frequencies

# The near zone as a share of the window.
WIDTHS = (0.25, 0.5, 0.75)
FAR_METHODS = ("linear", "by-parts")
# (constant discount, log discount); the last is none at all.
# The constants must be 0: a family starts from one of these and has no number for them.
DISCOUNTS = ((0.0, 1.0), (0.0, 0.0))
LEAST_LOG, MOST_LOG = -1.0, 3.0
COLDEST, HOTTEST = -0.5, 0.5
# How far a head may stand from the shared numbers, and move in a step at the full rate.
HEAD_LOG, HEAD_HEAT, HEAD_SHARP = 3.0, 0.7, 0.35
LOG_RATE, HEAT_RATE, SHARP_RATE = 0.15, 0.06, 0.03


@dataclass(frozen=True)
class ZoneFamily(MapFamily):
    """The numbers above; `cool` is the log discount, `heat` the logarithm of the far temperature.

    `heads` (3, layers, heads) holds what each head adds to the two, and its sharpness; it may be empty.
    """

    near: int = 1
    heads: FloatArray = field(default_factory=lambda: np.zeros((3, 0, 0)))

    @classmethod
    def at(cls, geometry: RopeGeometry, plan: Zones, heads: tuple[int, int] = (0, 0)) -> ZoneFamily:
        """The family that starts at a map, for a model of so many layers with so many heads each."""
        assert plan.far_inv_freq is not None
        count = geometry.num_rotating
        # m from the far frequencies, theta' = theta * s ** -m; 1e-300 for a pair that stands still.
        stretch = np.log(geometry.inv_freq[:count] / np.maximum(plan.far_inv_freq[:count], 1e-300))
        top = monotone(stretch / math.log(plan.far_factor))
        heat = math.log(plan.far_logits)
        apart = np.zeros((3, *heads))
        return cls(geometry, plan.far_factor, top, top, plan.log_discount, heat, near=plan.near, heads=apart)

    def plan(self) -> Zones:
        """The map of these numbers."""
        own = self.geometry.inv_freq[: self.geometry.num_rotating]
        single = self.heads.size > 0
        return Zones(
            near=self.near,
            original_length=self.geometry.original_length,
            far_logits=math.exp(self.heat),
            log_discount=self.cool,
            far_inv_freq=self.geometry.padded(own * self.highest**-self.top),
            far_method=METHOD,
            far_factor=self.highest,
            head_log_discount=self.cool + self.heads[0] if single else None,
            head_far_logits=np.exp(self.heat + self.heads[1]) if single else None,
            head_sharpness=self.heads[2] if single else None,
        )

    @property
    def extra(self) -> FloatArray:
        """What the heads add, as one vector."""
        return self.heads.reshape(-1)

    @property
    def extra_rates(self) -> FloatArray:
        """Discounts move faster than temperatures, which act on every logit."""
        return np.repeat([LOG_RATE, HEAT_RATE, SHARP_RATE], self.heads[0].size)

    def with_extra(self, values: FloatArray) -> ZoneFamily:
        """Other heads, kept sane."""
        bounds = np.array([HEAD_LOG, HEAD_HEAT, HEAD_SHARP])[:, None, None]
        return replace(self, heads=np.clip(values.reshape(self.heads.shape), -bounds, bounds))

    def moved(self, low: FloatArray, top: FloatArray, cool: float, heat: float) -> ZoneFamily:
        """Other numbers, brought back to where profiles are monotone and the others sane."""
        profile = monotone(top)
        return replace(
            self,
            low=profile,
            top=profile,
            cool=float(np.clip(cool, LEAST_LOG, MOST_LOG)),
            heat=float(np.clip(heat, COLDEST, HOTTEST)),
        )

    def to_json(self) -> dict[str, Any]:
        """For going on after an interruption."""
        return {**super().to_json(), "near": self.near, "heads": self.heads.tolist()}

    @classmethod
    def from_json(cls, geometry: RopeGeometry, document: Mapping[str, Any]) -> ZoneFamily:
        """What `to_json` wrote."""
        shared = vars(Family.from_json(geometry, document))
        # An empty list has lost its shape.
        heads = np.asarray(document["heads"], dtype=np.float64)
        return cls(**shared, near=int(document["near"]), heads=heads if heads.size else np.zeros((3, 0, 0)))

    def leaves(self) -> Leaves:
        """These numbers as tensors."""

        def make(top: Tensor, cool: Tensor, heat: Tensor, heads: Tensor) -> tuple[Tensor, ...]:
            # Without numbers for heads the same formula makes scalars.
            apart = heads if heads.numel() else torch.zeros(3, dtype=torch.float64)
            return (
                turned_frequencies(self.geometry, self.highest, top),
                cool + apart[0],
                (heat + apart[1]).exp(),
                apart[2],
            )

        return Leaves.of(self, self.heads, make, FarZone)


def offered(geometry: RopeGeometry, target_length: int) -> list[Candidate]:
    """What the sweep over zones looks at: widths, closed forms of the far zone, with and without discount."""
    found = []
    for share in WIDTHS:
        near = max(1, round(share * geometry.original_length))
        for method in FAR_METHODS:
            for constant, log in DISCOUNTS:
                plan = map_for(
                    "zones",
                    geometry,
                    target_length,
                    near=near,
                    far_method=method,
                    discount=constant,
                    log_discount=log,
                )
                name = f"zones {near} {method}{' log' if log else ''}"
                found.append(Candidate(name, "zones", variant="sweep", plan=plan))
    return found
