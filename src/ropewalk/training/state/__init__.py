"""What survives a kill: checkpoints on disk, weights and optimiser state as files, random states, identity of a run."""
