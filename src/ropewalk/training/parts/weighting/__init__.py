"""Which tokens carry the loss, and how much."""
