"""GGUF files: read without trust, written whole, one tensor at a time."""
