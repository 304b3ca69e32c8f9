"""Models with a known answer: one that copies perfectly (within a window), one that knows nothing; and tokenizers."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import LlamaConfig, PreTrainedTokenizerFast

from ropewalk.text import words

VOCABULARY = 256


class ByteTokenizer:
    """One token a byte, with the few methods of a Hugging Face tokenizer that evaluation uses."""

    chat_template: str | None = None
    eos_token_id = None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode("utf-8"))

    def decode(self, ids: Any, **options: Any) -> str:
        return bytes(int(token) for token in ids).decode("utf-8", errors="ignore")


def _corpus() -> list[str]:
    rng = random.Random(0)
    return [words.sentence(rng) for _ in range(500)]


def byte_level_tokenizer() -> Any:
    """Byte-level pairs as in GPT-2 and Llama 3, with a BOS token and a chat template, trained on our words."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        special_tokens=["<s>", "</s>", "<|user|>", "<|bot|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_corpus(), trainer)
    template = (
        "<s>{% for m in messages %}<|user|>{{ m['content'] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<|bot|>{% endif %}"
    )
    return _dressed(backend, chat_template=template)


def space_marking_tokenizer() -> Any:
    """Pairs over text whose spaces are letters, one more in front of every text, as in Llama 2 and Mistral."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)]],
        initial_alphabet=[chr(code) for code in range(33, 127)],
        show_progress=False,
    )
    # Pairs across words would make pieces depend on their neighbours, in real tokenizers of this kind as here.
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    backend.train_from_iterator(_corpus(), trainer)
    backend.pre_tokenizer = None
    return _dressed(backend, unk_token="<unk>")


def _dressed(backend: Tokenizer, **options: Any) -> Any:
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", **options)


class CopyModel(nn.Module):
    """Predicts what followed the longest earlier occurrence of the text's end, if that is `match` tokens or longer.

    `window` hides everything farther back than so many tokens. Where nothing matches, all words are equally likely.
    The words seen so far travel in the cache as keys of one head of width one, as in any cached model.
    """

    def __init__(self, window: int | None = None, match: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 4)
        self.config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=4,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
        )
        self.window, self.match = window, match
        self.tokens_read = 0

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding

    def forward(
        self, input_ids: torch.Tensor, past_key_values: Any = None, **options: Any
    ) -> SimpleNamespace:
        self.tokens_read += input_ids.shape[1]
        words = input_ids.float()[:, None, :, None]
        if past_key_values is not None:
            words, _ = past_key_values.update(words, words, 0)
        seen = words[:, 0, :, 0].long()
        rows = [self._logits(row, input_ids.shape[1]) for row in seen]
        return SimpleNamespace(logits=torch.stack(rows), past_key_values=past_key_values)

    def _logits(self, seen: torch.Tensor, new: int) -> torch.Tensor:
        total = len(seen)
        places = torch.arange(total)
        run = torch.zeros(total, dtype=torch.long)
        logits = torch.zeros(new, VOCABULARY)
        first = total - new
        # run[j]: how many tokens up to and including j equal those up to and including i.
        for i in range(max(0, first - 64), total):
            shifted = torch.cat([torch.zeros(1, dtype=torch.long), run[:-1]])
            run = torch.where(seen == seen[i], shifted + 1, torch.zeros_like(run))
            if i < first:
                continue
            found = run.clone()
            found[i:] = 0
            if self.window is not None:
                found = torch.where(places - found + 1 > i - self.window, found, torch.zeros_like(found))
            if int(found.max()) >= self.match:
                # The latest of the longest matches.
                best = int((found == found.max()).nonzero().max())
                logits[i - first, seen[best + 1]] = 30.0
        return logits


class UniformModel(CopyModel):
    """Every word is equally likely, always."""

    def __init__(self) -> None:
        super().__init__(match=1 << 30)
