"""What the numbers say: effective length, ranks and words."""
