"""What is read, for evaluation and training alike: corpora, segments, token encoding, words to write with."""
