"""One file a part that changes micro-batches: its options, its documentation and its deed. No torch at import."""
