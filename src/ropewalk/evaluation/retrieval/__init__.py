"""Retrieval: how questions are planned, read through one shared cache, and scored."""
