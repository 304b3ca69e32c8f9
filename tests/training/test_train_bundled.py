"""Every bundled recipe, and every whole one of the docs, against the real configuration of its base, to the first step.

The bases are tiny models whose rope, window and lengths are those of the published config.json (values below); the
schedules are made for the recipe's own lengths, and each stage trains one step on a row of 64 tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ropewalk.training.recipe.reading import BUNDLED, read_recipe
from ropewalk.training.run import train

DOCS = Path(__file__).parents[2] / "docs"
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
# What decides, as published: the geometry of the rope, the window, sliding windows.
BASES: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-2-7b-hf": {"model_type": "llama", "max_position_embeddings": 4096, "rope_theta": 1e4},
    "huggyllama/llama-7b": {"model_type": "llama", "max_position_embeddings": 2048},
    "01-ai/Yi-6B": {"model_type": "llama", "max_position_embeddings": 4096, "rope_theta": 5e6},
    "mistralai/Mistral-7B-v0.1": {
        "model_type": "mistral",
        "max_position_embeddings": 32768,
        "rope_theta": 1e4,
        "sliding_window": 4096,
    },
    "Qwen/Qwen2.5-7B": {
        "model_type": "qwen2",
        "max_position_embeddings": 131072,
        "rope_theta": 1e6,
        "sliding_window": 131072,
        "use_sliding_window": False,
        "max_window_layers": 28,
    },
    "meta-llama/Llama-3.1-8B": {
        "model_type": "llama",
        "max_position_embeddings": 131072,
        "rope_theta": 5e5,
        "rope_scaling": LLAMA3,
    },
}
SHAPE = {
    "vocab_size": 272,
    "hidden_size": 256,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 128,
    "tie_word_embeddings": False,
}


def recipes() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every recipe with a base of the Hub: the bundled ones, and the whole ones that the page prints."""
    for path in sorted(BUNDLED.glob("*.yaml")):
        yield path.stem, yaml.safe_load(path.read_text())
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", (DOCS / "train.md").read_text(), re.S)):
        recipe = yaml.safe_load(block)
        if {"model", "data", "stages", "tokens_per_step"} <= recipe.keys() and "path" in recipe["model"]:
            yield f"page-{number}", recipe


WANTED = {name: recipe for name, recipe in recipes() if recipe["model"].get("path", "hemp") != "hemp"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: Path) -> dict[str, Path]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    made = {}
    for name, fields in BASES.items():
        folder = tmp_path_factory.mktemp("bases") / name.replace("/", "-")
        kind = fields["model_type"]
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(SHAPE | {"bos_token_id": 1})))
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(byte_tokenizer).save_pretrained(folder)
        # The older words for rope, as the published files have them.
        config = json.loads((folder / "config.json").read_text())
        for key in ("rope_parameters", "layer_types"):
            config.pop(key, None)
        (folder / "config.json").write_text(json.dumps(config | fields | {"torch_dtype": "bfloat16"}))
        made[name] = folder
    return made


def test_the_page_and_the_bundled_ones_are_all_here() -> None:
    assert {"qwen-staged-256k", "longchat-16k", "lora-24gb"} <= WANTED.keys()
    assert sum(name.startswith("page-") for name in WANTED) >= 3
    assert {recipe["model"]["path"] for recipe in WANTED.values()} <= BASES.keys()


@pytest.mark.parametrize("name", WANTED)
def test_it_starts_on_its_base(
    name: str,
    bases: dict[str, Path],
    tmp_path: Path,
    text_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = WANTED[name]
    lengths = [stage.length for stage in read_recipe(recipe).stages]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "vicuna.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    talk = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "So."}]
    texts = [path.read_text() for path in text_folder.glob("*.txt")]
    for source in recipe["data"]["sources"]:
        for path in map(Path, source["paths"]):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".jsonl":
                lines = [{"text": text, "messages": talk} for text in texts]
                path.write_text("".join(json.dumps(line) + "\n" for line in lines))
            else:
                path.mkdir()
                for number, text in enumerate(texts):
                    (path / f"{number}.txt").write_text(text)
    # The stretch keeps the length that it was written for; only the rows are short.
    changed = recipe | {"model": recipe["model"] | {"path": str(bases[recipe["model"]["path"]])}}
    changed |= {"tokens_per_step": 64, "micro_batch_tokens": 64, "engine": {"name": "single"}}
    changed["data"] = {key: value for key, value in recipe["data"].items() if key != "long_documents"}
    changed["stages"] = [
        {"length": 64, "steps": 1} | {key: stage[key] for key in ("rope",) if key in stage}
        for stage in recipe["stages"]
    ]
    changed.pop("evaluation", None)
    changed["optimizer"] = recipe.get("optimizer", {}) | {"warmup_steps": 0}
    changed["memory"] = {"checkpointing": recipe.get("memory", {}).get("checkpointing", False)}
    changed["checkpoints"] = {"every": 1, "keep_last": None}
    result = train(changed, output=tmp_path / "run", device="cpu", quiet=True)
    assert result.final["step"] == len(recipe["stages"])
    for length, checkpoint in zip(lengths, result.checkpoints, strict=True):
        config = json.loads((checkpoint / "config.json").read_text())
        # Every stage's checkpoint declares a window that holds its rows.
        assert config["max_position_embeddings"] >= length
        if recipe["model"].get("sliding_window") == "none":
            assert config["sliding_window"] is None
    assert "beyond the" not in capsys.readouterr().err
