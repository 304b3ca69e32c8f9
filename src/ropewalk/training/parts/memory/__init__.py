"""Where activations wait between forward and backward."""
