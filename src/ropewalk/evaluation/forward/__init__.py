"""Forward passes for measurement: chunks, caches that fork, logits only where scored."""
