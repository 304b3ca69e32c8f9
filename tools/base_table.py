"""Writes src/ropewalk/analysis/base_table.py, the base bounds of common heads, so that `inspect` is instant."""

from __future__ import annotations

from pathlib import Path

from ropewalk.analysis.base import scan_base_bound

ROTARY_DIMS = (8, 16, 32, 64, 80, 96, 128, 192, 256)
LENGTHS = tuple(1024 * 2**power for power in range(13))
TARGET = Path(__file__).parents[1] / "src" / "ropewalk" / "analysis" / "base_table.py"
HEAD = '''"""Base bounds of common heads and lengths, made by `tools/base_table.py`; do not edit by hand."""

# (rotary_dim, length) -> smallest rope_theta; "inf": none up to 1e12
BASE_BOUNDS: dict[tuple[int, int], float] = {
'''


def main() -> None:
    """Scan every pair and write the table."""
    rows = []
    for rotary_dim in ROTARY_DIMS:
        bound = 2.0
        for length in LENGTHS:
            bound = scan_base_bound(rotary_dim, length, least=bound)
            value = 'float("inf")' if bound == float("inf") else f"{bound:.6g}"
            rows.append(f"    ({rotary_dim}, {length}): {value},")
            print(rows[-1], flush=True)
    TARGET.write_text(HEAD + "\n".join(rows) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
