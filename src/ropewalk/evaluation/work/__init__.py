"""How work is done: shared between processes, kept as it ends, reported on the way."""
