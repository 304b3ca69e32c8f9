"""From documents to the micro-batches of a step: sources, mixture, lengths by stage, rows, borders in a row."""
