"""Colours of every figure and of the page: colour-blind-safe (after Okabe and Ito), one set for light, one for dark."""

from __future__ import annotations

from collections.abc import Mapping

LIGHT: Mapping[str, str] = {
    "series-0": "#0067a5",
    "series-1": "#d1520a",
    "series-2": "#00855f",
    "series-3": "#b3568c",
    "series-4": "#b87a00",
    "series-5": "#3d9bd4",
    "series-6": "#6a51a3",
    "series-7": "#7a6a58",
    "ink": "#1c2430",
    "muted": "#5b6675",
    "faint": "#c9d0d9",
    "grid": "#e6e9ee",
    "paper": "#ffffff",
}
DARK: Mapping[str, str] = {
    "series-0": "#5cb3ee",
    "series-1": "#f2894a",
    "series-2": "#3cc79b",
    "series-3": "#e39ac3",
    "series-4": "#f0b840",
    "series-5": "#9ad4f7",
    "series-6": "#b4a2e8",
    "series-7": "#c4b39d",
    "ink": "#e8ecf2",
    "muted": "#9aa6b5",
    "faint": "#4a5564",
    "grid": "#2b3440",
    "paper": "#151a21",
}
# Cividis: even in lightness and the same to all three common kinds of colour vision.
HEAT: tuple[tuple[float, str], ...] = (
    (0.0, "#00224e"),
    (0.125, "#123570"),
    (0.25, "#3b496c"),
    (0.375, "#575d6d"),
    (0.5, "#707173"),
    (0.625, "#8a8678"),
    (0.75, "#a59c74"),
    (0.875, "#c3b369"),
    (1.0, "#fee838"),
)


def theme(*, dark: bool) -> Mapping[str, str]:
    """Token to colour."""
    return DARK if dark else LIGHT
