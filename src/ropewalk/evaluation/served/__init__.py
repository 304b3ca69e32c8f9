"""Measuring a deployed model through its OpenAI-compatible server."""
