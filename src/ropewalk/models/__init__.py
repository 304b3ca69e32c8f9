"""The room that knows transformers: read a config, write it, load a model, apply a schedule, extend, verify."""
