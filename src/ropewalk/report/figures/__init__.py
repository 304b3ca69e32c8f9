"""Every kind of figure, one file each: a pure function from a view to a `Figure`."""

from ropewalk.report.figures.kinds import KINDS, FigureKind, figure_kind, find_kind, kinds_for

__all__ = ["KINDS", "FigureKind", "figure_kind", "find_kind", "kinds_for"]
