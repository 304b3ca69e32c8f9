"""What a recipe says of keeping short quality. No torch here: it is read with a recipe."""

from __future__ import annotations

from ropewalk.training.vocabulary import Count, Positive, Strict


class RetentionOptions(Strict):
    """On rows inside the original window, `distil` times the distance from the base's hidden states joins the loss.

    The distance is relative and the mean over `layers` decoder layers at equal steps, the last among them.
    """

    distil: Positive = 1.0
    layers: Count = 3
