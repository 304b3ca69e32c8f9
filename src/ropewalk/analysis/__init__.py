"""What a geometry and a schedule mean for a model, from arithmetic alone: bounds, reach, coverage, decay."""

from ropewalk.analysis.base import base_bound, base_bound_within
from ropewalk.analysis.bounds import out_of_bound, suggested_betas
from ropewalk.analysis.coverage import Coverage, coverage, star_discrepancy
from ropewalk.analysis.decay import decay_curve, kernel_distortion, neighbour_resolution, rotary_kernel
from ropewalk.analysis.reach import effective_factor, nominal_factor

__all__ = [
    "Coverage",
    "base_bound",
    "base_bound_within",
    "coverage",
    "decay_curve",
    "effective_factor",
    "kernel_distortion",
    "neighbour_resolution",
    "nominal_factor",
    "out_of_bound",
    "rotary_kernel",
    "star_discrepancy",
    "suggested_betas",
]
