"""Keeping short quality: distillation from the base on short rows."""
