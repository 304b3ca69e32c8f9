"""Base bounds of common heads and lengths, made by `tools/base_table.py`; do not edit by hand."""

# (rotary_dim, length) -> smallest rope_theta
BASE_BOUNDS: dict[tuple[int, int], float] = {}
