"""Every method on one model, beside the controls."""
