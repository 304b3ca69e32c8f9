"""The loss of a step: its options, its kernels, and the forward that ends in it."""
