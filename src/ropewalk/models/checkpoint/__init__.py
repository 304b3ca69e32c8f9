"""The files of a checkpoint besides config.json: weights, tokenizer, card."""
