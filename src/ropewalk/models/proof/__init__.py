"""What `verify` computes: the original, probes, a stock process, the checks."""
