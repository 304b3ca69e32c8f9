"""From the last checkpoint of `ropewalk train hemp` to the shipped folder.

    python -m ropewalk.training.hemp.ship RUN...

Several runs are given in the order in which they were trained; the weights are the last one's.

Weights become bfloat16 (a rounding of at most 2**-9, relative), the configuration carries both dialects, and the log of
the training goes beside it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ropewalk.errors import UsageError
from ropewalk.files import whole_folder, write_json
from ropewalk.hemp.files import FOLDER
from ropewalk.training.hemp.tokenizer import write_tokenizer

LIMIT_BYTES = 16 * 1024**2
LOGGED = ("step", "kind", "loss", "learning_rate", "length", "tokens", "tokens_per_s", "seconds")


def ship(runs: list[Path], target: Path) -> Path:
    """Write the model folder from the last run's newest checkpoint; an existing README.md is kept."""
    from ropewalk.training.state.checkpoint import newest_checkpoint

    run = runs[-1]
    checkpoint = newest_checkpoint(run / "checkpoints", print)
    if checkpoint is None:
        raise UsageError(
            f"{run} has no whole checkpoint", hint="give the run folder of `ropewalk train hemp`"
        )
    card = (target / "README.md").read_bytes() if (target / "README.md").is_file() else None
    with whole_folder(target, force=True) as working:
        _write_weights(checkpoint.path, working)
        _write_config(checkpoint.path, working)
        write_tokenizer(working)
        write_json(working / "training-log.json", training_log(runs))
        if card is not None:
            (working / "README.md").write_bytes(card)
    return target


def _write_weights(checkpoint: Path, working: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tensors: dict[str, Any] = {}
    for file in sorted(checkpoint.glob("model*.safetensors")):
        tensors |= load_file(file)
    rounded = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in sorted(tensors.items())}
    path = working / "model.safetensors"
    save_file(rounded, path, metadata={"format": "pt"})
    path.chmod(0o644)
    if path.stat().st_size > LIMIT_BYTES:
        raise UsageError(
            f"{path.stat().st_size} bytes are too many for the repository", hint="train a smaller model"
        )


def _write_config(checkpoint: Path, working: Path) -> None:
    """Both dialects say the same: `rope_parameters` for transformers 5, the older pair of keys for the rest."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    config["dtype"] = config["torch_dtype"] = "bfloat16"
    config["rope_theta"] = float(config["rope_parameters"]["rope_theta"])
    config["rope_scaling"] = None
    config["use_cache"] = True
    # It names a folder of the machine that trained.
    config.pop("_name_or_path", None)
    write_json(working / "config.json", config)
    write_json(
        working / "generation_config.json",
        {
            "do_sample": False,
            "eos_token_id": config["eos_token_id"],
            "pad_token_id": config["pad_token_id"],
        },
    )


def training_log(runs: list[Path]) -> dict[str, Any]:
    """Recipes, data, hardware and loss curves of the runs, as they were logged."""
    from ropewalk.runs.environment import hardware, versions

    return {"hardware": hardware(), "versions": versions(), "runs": [_log_of(run) for run in runs]}


def _log_of(run: Path) -> dict[str, Any]:
    from ropewalk.training.state.identity import recipe_of

    described = json.loads((run / "run.json").read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "recipe": recipe_of(run),
        "data": described["data"],
        "log": [
            {key: line[key] for key in LOGGED if key in line}
            | {key: value for key, value in line.items() if key.startswith("loss@")}
            for line in lines
        ],
    }


if __name__ == "__main__":
    print(ship([Path(word) for word in sys.argv[1:]], FOLDER))
