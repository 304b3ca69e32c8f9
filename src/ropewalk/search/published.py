"""Factor lists that LongRoPE's authors searched and published: where searches on models of the same geometry begin.

A list is theta_i / theta'_i by pair, fastest first, on their grid of 0.01. What was found for one model is only a start
for another one with its rotary dimensions, base and window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ropewalk.geometry import FloatArray, RopeGeometry


@dataclass(frozen=True)
class Published:
    """One list, the model and factor that it was searched for, and where it stands."""

    name: str
    source: str
    rope_theta: float
    original_length: int
    factor: float
    factors: tuple[float, ...]

    def matches(self, geometry: RopeGeometry) -> bool:
        """Whether a model rotates as the one that this was searched for."""
        return (
            geometry.num_rotating == len(self.factors)
            and geometry.rope_theta == self.rope_theta
            and geometry.original_length == self.original_length
        )

    def at(self, factor: float) -> FloatArray:
        """The list at another factor: each pair keeps its share of the stretch, ln lambda_i / ln s.

        Where the published one falls, the larger factor before it holds: a search keeps lists non-decreasing.
        """
        risen = np.maximum.accumulate(np.asarray(self.factors))
        return np.asarray(risen ** (math.log(factor) / math.log(self.factor)))


_REPOSITORY = "github.com/microsoft/LongRoPE, cube-new/longrope_scale"
# fmt: off
PUBLISHED = (
    Published(
        "LongRoPE for Llama 2 7B, 256k", f"{_REPOSITORY}/ft_la2_256k.csv", 1e4, 4096, 64.0,
        (1.02, 1.03, 1.05, 1.05, 1.05, 1.05, 1.07, 1.09, 1.1, 1.12, 1.12, 1.18, 1.34, 1.42, 3.07, 3.91, 4.81, 11.31,
         11.59, 12.05, 12.59, 14.75, 15.35, 15.78, 16.71, 17.78, 17.92, 19.65, 20.65, 24.23, 26.85, 27.26, 30.53, 31.23,
         33.08, 33.49, 33.93, 36.33, 42.14, 42.62, 43.38, 43.43, 43.97, 55.76, 57.31, 59.34, 59.54, 60.9, 60.95, 60.98,
         60.98, 61.63, 62.23, 62.36, 62.93, 62.99, 63.7, 63.8, 64.0, 64.29, 64.34, 64.48, 64.49, 64.77),
    ),
    Published(
        "LongRoPE for Mistral 7B, 128k", f"{_REPOSITORY}/ft_mis_128k.csv", 1e4, 4096, 32.0,
        # As published it falls twice: 1.11 before 1.1, 1.09 and 1.08, and 1.27 before 1.26.
        (1.03, 1.05, 1.05, 1.05, 1.07, 1.11, 1.1, 1.09, 1.08, 1.14, 1.18, 1.21, 1.26, 1.27, 1.26, 1.33, 1.49, 1.56,
         1.69, 1.92, 2.15, 2.82, 3.45, 3.59, 3.59, 4.45, 5.18, 5.69, 7.68, 8.4, 8.82, 9.58, 10.0, 12.07, 12.17, 14.17,
         15.13, 15.76, 15.9, 18.24, 18.86, 18.94, 26.51, 27.67, 28.51, 28.71, 31.28, 31.39, 31.53, 31.6, 31.7, 31.71,
         31.84, 31.92, 32.01, 32.01, 32.2, 32.22, 32.29, 32.53, 32.73, 32.81, 32.95, 32.99),
    ),
)
# fmt: on


def published_for(geometry: RopeGeometry) -> list[Published]:
    """The lists that were searched for this geometry."""
    return [item for item in PUBLISHED if item.matches(geometry)]
