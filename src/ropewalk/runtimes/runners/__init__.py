"""Scripts that run in another program's own environment and give log probabilities; nothing here imports ropewalk.

    PYTHON run_PROGRAM.py JOBS.json OUT.jsonl

JOBS holds `items`, each `{name, model, max_length, prompts, positions}`: a folder or GGUF file, lists of token ids,
and for programs that are asked one position at a time the positions wanted. OUT gets one line an item, written as
soon as it is there: `{name, versions, logprobs}` with `logprobs[prompt][i]` that of token i + 1 after tokens 0 to i
(null where it was not asked), or `{name, versions, error}`.
"""
