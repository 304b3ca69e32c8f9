"""How the bundled model is made: its generated training text, its tokenizer, and how a run becomes what is shipped."""
