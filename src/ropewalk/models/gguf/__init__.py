"""GGUF files as models: their structure, read with suspicion, and what they say in the words of a config.json."""
