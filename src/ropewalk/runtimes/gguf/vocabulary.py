"""A tokenizer.json as GGUF metadata: byte-level BPE (GPT-2's kind), and BPE with byte fallback (SentencePiece's)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError
from ropewalk.models.config import read_json
from ropewalk.models.facts import ModelFacts
from ropewalk.models.gguf.file import Key
from ropewalk.runtimes.gguf.write import key_of

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_OWN_CONVERTER = "convert it with llama.cpp's convert_hf_to_gguf.py and pass the file with --gguf"
# How the text is cut before the merges, by the pattern in tokenizer.json; the names are llama.cpp's.
_PATTERNS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+": "llama-bpe",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+": "qwen2",
}
_SPECIALS = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}


def vocabulary_keys(folder: Path, facts: ModelFacts) -> list[Key]:
    """Every tokenizer key; RopewalkError for a kind whose cutting llama.cpp would have to guess."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise RopewalkError(f"{folder} holds no tokenizer.json", hint=_OWN_CONVERTER)
    document = read_json(path)
    model = document.get("model") or {}
    if model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        raise RopewalkError(f"{path} is a {model.get('type')} tokenizer, not BPE", hint=_OWN_CONVERTER)
    tokens, kinds = _tokens(document, int(facts.vocab_size or 0), fallback=bool(model.get("byte_fallback")))
    settings = (
        read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    )
    keys: dict[str, Any] = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds}
    if model.get("byte_fallback"):
        # Merge order stands in for SentencePiece's scores: earlier merges win.
        keys |= {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default"}
        keys["tokenizer.ggml.scores"] = [-float(number) for number in range(len(tokens))]
    else:
        keys |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": _pre(document, path)}
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges") or []]
    if not model.get("byte_fallback"):
        # llama.cpp refuses an empty list; a merge of the first two tokens into nothing it knows is never taken.
        keys["tokenizer.ggml.merges"] = merges or [f"{tokens[0]} {tokens[1]}"]
    keys |= _special(settings, facts, tokens)
    return [key_of(name, value) for name, value in keys.items()]


def _tokens(document: dict[str, Any], size: int, *, fallback: bool) -> tuple[list[str], list[int]]:
    """Every token in the order of its number, and its kind; numbers without a token are unused."""
    by_number = {int(number): text for text, number in document["model"]["vocab"].items()}
    kinds = dict.fromkeys(by_number, NORMAL)
    for number, text in by_number.items():
        if fallback and len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            kinds[number] = BYTE
    for added in document.get("added_tokens") or []:
        by_number[int(added["id"])] = str(added["content"])
        kinds[int(added["id"])] = CONTROL if added.get("special") else USER_DEFINED
    total = max(size, max(by_number) + 1)
    tokens = [by_number.get(number, f"[PAD{number}]") for number in range(total)]
    return tokens, [kinds.get(number, UNUSED) for number in range(total)]


def _pre(document: dict[str, Any], path: Path) -> str:
    """llama.cpp's name for how text is cut before merging."""
    steps = _steps(document.get("pre_tokenizer"))
    byte_level = next((step for step in steps if step.get("type") == "ByteLevel"), None)
    if byte_level is None:
        raise RopewalkError(f"{path}: not a byte-level tokenizer", hint=_OWN_CONVERTER)
    splits = [step for step in steps if step.get("type") == "Split"]
    if not splits and not document["model"].get("merges"):
        # Every byte is a token of its own: however the text is cut, the tokens are the same.
        return "gpt-2"
    if not splits and byte_level.get("use_regex", True) and len(steps) == 1:
        return "gpt-2"
    pattern = (splits[0].get("pattern") or {}).get("Regex") if len(splits) == 1 else None
    if pattern not in _PATTERNS:
        raise RopewalkError(
            f"{path}: llama.cpp's name for its pre-tokenizer is not known here", hint=_OWN_CONVERTER
        )
    return _PATTERNS[pattern]


def _steps(pre: Any) -> list[dict[str, Any]]:
    if not isinstance(pre, dict):
        return []
    if pre.get("type") == "Sequence":
        return [step for step in pre.get("pretokenizers") or [] if isinstance(step, dict)]
    return [pre]


def _special(settings: dict[str, Any], facts: ModelFacts, tokens: list[str]) -> dict[str, Any]:
    """Numbers of the special tokens, and whether one is put in front; by name first, then by config.json's number."""
    found: dict[str, Any] = {}
    numbers = {text: number for number, text in enumerate(tokens)}
    for name, key in _SPECIALS.items():
        text = settings.get(key)
        text = text.get("content") if isinstance(text, dict) else text
        number = numbers.get(text) if isinstance(text, str) else None
        if number is None and key in ("bos_token", "eos_token"):
            given = facts.text.get(f"{key}_id")
            number = given if isinstance(given, int) and 0 <= given < len(tokens) else None
        if number is not None:
            found[f"tokenizer.ggml.{name}_token_id"] = number
    add = settings.get("add_bos_token")
    found["tokenizer.ggml.add_bos_token"] = bool(add) and "tokenizer.ggml.bos_token_id" in found
    template = settings.get("chat_template")
    return found | ({"tokenizer.chat_template": template} if isinstance(template, str) else {})
