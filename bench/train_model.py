"""What both training benchmarks train: a small Llama with a vocabulary of 32k, plainly or by a recipe."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

VOCABULARY = 32768
MODEL = {
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}


def make_tokenizer(folder: Path) -> Path:
    """A byte tokenizer on disk: the model's vocabulary is larger, which is what costs."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate(alphabet)} | {"<end>": len(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
    return folder


def make_text(folder: Path, characters: int) -> Path:
    """One file of words."""
    rng = random.Random(0)
    words = ["rope", "walk", "strand", "hemp", "twist", "pull", "long", "lane", "spin", "yarn", "turn", "lay"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.txt").write_text(" ".join(rng.choices(words, k=characters // 4)), encoding="utf-8")
    return folder


def recipe(work: Path, *, length: int, rows: int, steps: int, **parts: Any) -> dict[str, Any]:
    """A recipe of `steps` steps of `rows` rows; `parts` go on top."""
    tokenizer = make_tokenizer(work / "tokenizer")
    text = make_text(work / "text", 4 * length * rows)
    return {
        "name": "bench",
        "model": {
            "init": MODEL | {"max_position_embeddings": length},
            "tokenizer": str(tokenizer),
        },
        "data": {"sources": [{"name": "text", "kind": "text", "paths": [str(text)]}]},
        "stages": [{"length": length, "steps": steps}],
        "tokens_per_step": length * rows,
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 1},
        "checkpoints": {"every": 10**6},
        "log_every": 1,
    } | parts


def plain_trainer(work: Path, *, length: int, rows: int, steps: int, callbacks: list[Any]) -> Any:
    """transformers' Trainer as its documentation uses it, on random tokens."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return rows * steps

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            ids = torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(index))
            return {"input_ids": ids, "labels": ids.clone()}

    fields = dict(MODEL)
    config = AutoConfig.for_model(
        fields.pop("model_type"), **fields, max_position_embeddings=length, use_cache=False
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    arguments = TrainingArguments(
        output_dir=str(work / "plain"),
        per_device_train_batch_size=rows,
        max_steps=steps,
        learning_rate=1e-3,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
    )
    return Trainer(model=model, args=arguments, train_dataset=Rows(), callbacks=callbacks)
