"""What generation past the window costs, and that stock transformers' dynamic type computes something else.

    python bench/bench_generate.py --model hemp [--only dynamic,zones,stock]

- dynamic: processor seconds and tokens through the model of `--dynamic` against a factor fixed for the request, at the
  end of an epoch and just after a climb. The total cost of n tokens.
- zones: processor milliseconds for one token at 8 windows under zones, against one attention: YaRN, the model itself.
- stock: the largest difference of the last log-probabilities from a fresh forward under the factor in force.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

import ropewalk
from ropewalk.generation.ladder import in_force, ladder_for
from ropewalk.generation.session import Session
from ropewalk.models.facts import read_facts
from ropewalk.models.load import load_model, load_tokenizer
from ropewalk.text.corpus import held_out_documents


def written(model: Any, ids: list[int], total: int, *, dynamic: bool) -> tuple[float, int]:
    """Processor seconds and forwarded tokens until prompt and text are `total` tokens."""
    began = time.process_time()
    done = ropewalk.generate(
        model, ids, max_new_tokens=total - len(ids), stop_at_end=False, dynamic=dynamic, method="yarn"
    )
    return time.process_time() - began, done.forwarded


def dynamic_costs(model: Any, ids: list[int], window: int) -> None:
    """At the end of each of the first epochs, and 16 tokens after each climb."""
    prompt = ids[: window // 2]
    for climbs in (1, 2):
        for total in ((1 << climbs) * window // 2 + 16, (1 << climbs) * window):
            fixed = written(model, prompt, total, dynamic=False)
            climbing = written(model, prompt, total, dynamic=True)
            print(
                f"dynamic {total:6d} tokens  {climbing[0]:6.1f} s against {fixed[0]:6.1f} s: "
                f"{climbing[0] / fixed[0]:.2f} times; tokens through the model {climbing[1] / fixed[1]:.2f} times",
                flush=True,
            )


def zones_costs(model: Any, ids: list[int], window: int, steps: int = 24) -> None:
    """One token at 8 windows, several times; the prompt beside it."""
    base = None
    for name in ("none", "yarn", "zones", "self-extend"):
        rungs = ladder_for(model, method=None if name == "none" else name).rungs
        rung = rungs[0] if name == "none" else next(item for item in rungs if item.window >= 8 * window)
        with in_force(model, rung), torch.inference_mode():
            from ropewalk.attention.caches import new_cache

            cache = new_cache(model, 8 * window, forkable=False)
            row = torch.tensor([ids[: 8 * window - steps - 1]])
            began = time.process_time()
            for piece in row.split(2 * window, dim=1):
                model(input_ids=piece, past_key_values=cache, use_cache=True)
            prompt = time.process_time() - began
            began = time.process_time()
            for token in ids[8 * window - steps - 1 : 8 * window - 1]:
                model(input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            each = 1e3 * (time.process_time() - began) / steps
        base = base or (each, prompt)
        print(
            f"zones  {name:12s} {each:6.2f} ms a token ({each / base[0]:.2f} times), prompt {prompt:6.2f} s "
            f"({prompt / base[1]:.2f} times)",
            flush=True,
        )


@torch.inference_mode()
def stock_drift(model: Any, ids: list[int], window: int) -> None:
    """The same text token by token past the window: ours, and stock's dynamic type with its cache."""
    total, start = window + window // 4, window - 4
    session = Session(model, ladder_for(model, method="ntk"))
    with session:
        ours = [session.read(ids[:start]), *(session.read([token]) for token in ids[start:total])]
        assert session.rung is not None
        with in_force(model, session.rung):
            fresh = model(input_ids=torch.tensor([ids[:total]]), use_cache=False).logits[0, -1]
    print(f"stock  ours: {_apart(ours[-1], fresh):.1e} nats from a fresh forward", flush=True)
    config = type(model.config).from_dict(model.config.to_dict())
    config.rope_parameters = {
        "rope_type": "dynamic",
        "factor": 1.0,
        "rope_theta": read_facts(model.config.to_dict()).geometry.rope_theta,
    }
    stock = type(model)(config).eval()
    stock.load_state_dict(model.state_dict())
    cache, last = None, None
    for piece in ([ids[:start]], *([[token]] for token in ids[start:total])):
        output = stock(input_ids=torch.tensor(piece), past_key_values=cache, use_cache=True)
        cache, last = output.past_key_values, output.logits[0, -1]
    again = type(model)(config).eval()
    again.load_state_dict(model.state_dict())
    fresh = again(input_ids=torch.tensor([ids[:total]]), use_cache=False).logits[0, -1]
    print(f"stock  transformers' dynamic: {_apart(last, fresh):.1e} nats from a fresh forward", flush=True)


def _apart(one: Any, other: Any) -> float:
    return float((one.float().log_softmax(-1) - other.float().log_softmax(-1)).abs().max())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="hemp")
    parser.add_argument("--only", default="dynamic,zones,stock")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load_model(given.model), load_tokenizer(given.model)
    window = read_facts(model.config.to_dict()).original_length
    text = "\n\n".join(document.text for document in held_out_documents()[:8])
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][: 8 * window]
    for name, run in (("stock", stock_drift), ("zones", zones_costs), ("dynamic", dynamic_costs)):
        if name in given.only:
            run(model, ids, window)


if __name__ == "__main__":
    main()
