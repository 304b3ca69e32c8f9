"""Loss by length, retrieval, controls and health of a model: what a longer window is really worth."""
