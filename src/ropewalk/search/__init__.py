"""Fitting a schedule to a model: sweeps, a gradient fit through the frozen model, and gradient-free opponents."""
