"""The model that is trained: built from a recipe, with adapters, initialised by length, and its optimiser."""
