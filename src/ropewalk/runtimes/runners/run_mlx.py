"""Log probabilities from mlx-lm, run in its own environment: one call of the model a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def logprobs(item: dict[str, Any]) -> list[list[float]]:
    """The next token's log probability at each place of each prompt."""
    import mlx.core as mx
    from mlx_lm.utils import load_model

    model, _ = load_model(Path(item["model"]))
    # Programs are compared in one type, whatever the checkpoint is stored in.
    model.set_dtype(getattr(mx, item.get("dtype", "float32")))
    found = []
    for prompt in item["prompts"]:
        logits = model(mx.array([prompt]))[0].astype(mx.float32)
        scores = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        wanted = mx.array(prompt[1:])[:, None]
        found.append(mx.take_along_axis(scores[:-1], wanted, axis=-1)[:, 0].tolist())
    return found


if __name__ == "__main__":
    from answering import answer

    answer(logprobs, ("mlx-lm", "mlx"))
