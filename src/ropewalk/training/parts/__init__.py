"""What a recipe can switch on, each part a file of functions on tensors; `parts.py` puts them together."""
