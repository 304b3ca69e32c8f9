"""Training: a recipe in (`recipe.Recipe`), a run folder with checkpoints out (`run.train`)."""
