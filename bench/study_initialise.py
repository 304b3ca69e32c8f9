"""What initialisation by length does: attention entropy, output variance and first gradients at T = 128 .. 32768.

Not a comparison with another tool, so not part of `make bench`: `python bench/study_initialise.py [--longest 32768]`.
`--gradients-at 32768` does the first gradients of that one length and nothing else.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ropewalk.attention.interface import (
    add_query_hook,
    attention_modules,
    install_attention,
    remove_attention,
    remove_query_hook,
)
from ropewalk.training.model.initialise import initialise
from ropewalk.training.parts.loss.losses import IGNORE, shift_labels
from ropewalk.training.parts.loss.options import LossOptions
from ropewalk.training.parts.memory.options import MemoryOptions
from ropewalk.training.parts.options import PartsOptions
from ropewalk.training.parts.parts import Parts

REFERENCE = 512
RULES = (None, "critical", "variance", "entropy")
HIDDEN, HEADS = 64, 4


def new_model(spread: float, length: int, layers: int = 2) -> Any:
    """A small Llama whose logits have the standard deviation `spread` under unit-RMS inputs."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=HIDDEN,
        intermediate_size=3 * HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=length,
        initializer_range=math.sqrt(spread / HIDDEN),
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)


@torch.no_grad()
def attention_at(model: Any, length: int, places: int = 96) -> tuple[float, float]:
    """(variance of the attention output per element, entropy in nats) of layer 0 under independent unit-RMS inputs.

    Both are means over all queries of a row, from one query in each of `places` bins that grow geometrically (the first
    queries see few keys and hold much of the variance). The variance includes the output projection.
    """
    module = attention_modules(model)[0]
    noise = torch.randn(1, length, HIDDEN, generator=torch.Generator().manual_seed(1))
    values = module.v_proj(noise).view(length, HEADS, -1).transpose(0, 1)
    edges = (
        torch.logspace(0, math.log10(length + 1), places + 1, dtype=torch.float64).round().long().unique() - 1
    )
    queries, weights = (edges[1:] + edges[:-1]) // 2, (edges[1:] - edges[:-1]).double() / length
    found: dict[str, float] = {}

    def watch(
        owner: Any, query: Tensor, key: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        logits = query[0][:, queries] @ key[0].transpose(1, 2) * module.scaling
        hidden = torch.arange(length)[None, :] > queries[:, None]
        attention = logits.masked_fill(hidden, -math.inf).softmax(-1)
        output = module.o_proj((attention @ values).transpose(0, 1).reshape(len(queries), -1))
        found["variance"] = (output.square().mean(-1) * weights).sum().item()
        found["entropy"] = (torch.special.entr(attention).sum(-1).mean(0) * weights).sum().item()
        return query, kwargs

    install_attention(model)
    add_query_hook(module, watch)
    cos, sin = model.model.rotary_emb(noise, position_ids=torch.arange(length)[None])
    module(hidden_states=noise, position_embeddings=(cos, sin), attention_mask=None)
    remove_query_hook(module, watch)
    remove_attention(model)
    return found["variance"], found["entropy"]


def first_steps(model: Any, length: int, steps: int = 3) -> list[tuple[float, float]]:
    """(loss, norm of the gradient) of the first steps of AdamW on one row of the standard library's source."""
    parts = Parts(PartsOptions(loss=LossOptions(kernel="chunked"), memory=MemoryOptions(checkpointing=True)))
    parts.install(model)
    text = b"".join(path.read_bytes() for path in sorted(Path(argparse.__file__).parent.glob("*.py")))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    found = []
    for step in range(steps):
        tokens = torch.frombuffer(
            bytearray(text[step * length : (step + 1) * length]), dtype=torch.uint8
        ).long()[None]
        targets = shift_labels(tokens)
        loss = model(input_ids=tokens, target_ids=targets).loss / (targets != IGNORE).sum()
        optimiser.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf)
        optimiser.step()
        found.append((loss.item(), norm.item()))
    return found


def main() -> None:
    """Two tables in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--longest", type=int, default=32768)
    parser.add_argument("--spread", type=float, default=0.5)
    parser.add_argument("--gradients-at", type=int)
    arguments = parser.parse_args()
    if arguments.gradients_at is not None:
        gradients([arguments.gradients_at], arguments.spread)
        return
    lengths = [2**power for power in range(7, 16, 2) if 2**power <= arguments.longest]
    print(
        f"sigma_0 = {arguments.spread}, T0 = {REFERENCE}; variance of the attention output / entropy in nats\n"
    )
    print("| T | ln T | " + " | ".join(rule or "as it is" for rule in RULES) + " |")
    print("|---|---|" + "---|" * len(RULES))
    for length in lengths:
        cells = []
        for rule in RULES:
            model = new_model(arguments.spread, length)
            if rule is not None:
                initialise(model, length, qk=rule, reference_length=REFERENCE)
            variance, entropy = attention_at(model, length)
            cells.append(f"{variance:.2e} / {entropy:.2f}")
        print(f"| {length} | {math.log(length):.2f} | " + " | ".join(cells) + " |", flush=True)
    gradients(lengths[1:], arguments.spread)


def gradients(lengths: list[int], spread: float) -> None:
    """The second table."""
    print("\nnorm of the gradient in the first steps (loss)\n")
    print("| T | " + " | ".join(rule or "as it is" for rule in RULES) + " |")
    print("|---|" + "---|" * len(RULES))
    for length in lengths:
        cells = []
        for rule in RULES:
            model = new_model(spread, length)
            if rule is not None:
                initialise(model, length, qk=rule, reference_length=REFERENCE)
            cells.append(", ".join(f"{norm:.3f} ({loss:.2f})" for loss, norm in first_steps(model, length)))
        print(f"| {length} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
