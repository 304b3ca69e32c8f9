"""A tokenizer.json as GGUF metadata: byte-level BPE (GPT-2's kind), and BPE with byte fallback (SentencePiece's)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ropewalk.errors import DamagedError, RopewalkError, one_line
from ropewalk.models.config import read_json
from ropewalk.models.facts import ModelFacts
from ropewalk.models.gguf.file import Key
from ropewalk.runtimes.gguf.families import OWN_CONVERTER
from ropewalk.runtimes.gguf.write import key_of

# llama.cpp's numbers for what a token is.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
# Ten times the largest vocabulary there is: one mistaken number must not make a list that fills the memory.
MOST_TOKENS = 10_000_000
# The cuts of GPT-4o, of Llama 3, and the last of DeepSeek-V3's three; a pattern that differs by a letter is another.
_CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PLAIN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_MARKED = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# How the text is cut before the merges: the steps of tokenizer.json in short, and llama.cpp's name for them.
_CUTS = {
    ("bytes by words",): "gpt-2",
    ("each digit", "bytes by words"): "starcoder",
    (_PLAIN, "bytes"): "dbrx",
    (_PLAIN.replace("{1,3}", ""), "bytes"): "qwen2",
    (_CASED, "bytes"): "gpt-4o",
    (r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+", _MARKED, "bytes"): "deepseek-v3",
}
# The same cut, and whole words that are tokens are taken without merging.
_WHOLE_WORDS = {"dbrx": "llama-bpe"}
_SPECIALS = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}


def vocabulary_keys(folder: Path, facts: ModelFacts) -> list[Key]:
    """Every tokenizer key; RopewalkError for a kind whose cutting llama.cpp would have to guess."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise RopewalkError(f"{folder} holds no tokenizer.json", hint=OWN_CONVERTER)
    document = read_json(path)
    model = document.get("model") or {}
    if model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        raise RopewalkError(f"{path} is a {model.get('type')} tokenizer, not BPE", hint=OWN_CONVERTER)
    beside = folder / "tokenizer_config.json"
    settings = read_json(beside) if beside.is_file() else {}
    template = folder / "chat_template.jinja"
    if template.is_file():
        # Where newer checkpoints keep it; it wins, as in transformers.
        settings = {**settings, "chat_template": template.read_text(encoding="utf-8")}
    try:
        return _keys(path, document, settings, facts)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(
            f"{path} is not a tokenizer as the tokenizers library writes one ({type(error).__name__}: "
            f"{one_line(error, 80)})",
            hint="copy it again from the model's own folder",
        ) from error


def _keys(path: Path, document: dict[str, Any], settings: dict[str, Any], facts: ModelFacts) -> list[Key]:
    model = document["model"]
    tokens, kinds = _tokens(document, int(facts.vocab_size or 0), fallback=bool(model.get("byte_fallback")))
    keys: dict[str, Any] = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": kinds}
    if model.get("byte_fallback"):
        keys |= {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default"}
        # SentencePiece's algorithm knows no list of merges: it joins the neighbours whose whole has the highest score.
        ranks: dict[str, int] = {}
        for rank, pair in enumerate(model.get("merges") or []):
            left, right = pair.split(" ") if isinstance(pair, str) else pair
            ranks.setdefault(left + right, rank)
        keys["tokenizer.ggml.scores"] = [
            -float(ranks.get(token, len(ranks) + number)) for number, token in enumerate(tokens)
        ]
        keys["tokenizer.ggml.add_space_prefix"] = _adds_space(document)
    else:
        keys |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": _pre(document, path)}
    # Older files hold a merge as one text, newer ones as a pair; byte-level tokens hold no space to blur the two.
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges") or []]
    if not model.get("byte_fallback"):
        # llama.cpp refuses an empty list; a merge of the first two tokens into nothing it knows is never taken.
        keys["tokenizer.ggml.merges"] = merges or [f"{tokens[0]} {tokens[1]}"]
    keys |= _special(settings, facts, tokens, document)
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
    # An embedding is often padded to a round number of rows, and llama.cpp wants a token for each.
    total = max(size, max(by_number) + 1)
    if min(by_number) < 0 or total > MOST_TOKENS:
        raise ValueError(f"tokens numbered {min(by_number)} to {total - 1}")
    tokens = [by_number.get(number, f"[PAD{number}]") for number in range(total)]
    return tokens, [kinds.get(number, UNUSED) for number in range(total)]


def _adds_space(document: dict[str, Any]) -> bool:
    """Whether text gets a space in front, by either of the two steps that do it."""
    normalizers = _steps(document.get("normalizer"), "normalizers")
    before = [step for step in normalizers if step.get("type") == "Prepend"]
    marks = [step for step in _steps(document.get("pre_tokenizer")) if step.get("type") == "Metaspace"]
    schemes = [
        # Older files say add_prefix_space.
        step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
        for step in marks
    ]
    return bool(before) or any(scheme != "never" for scheme in schemes)


def _pre(document: dict[str, Any], path: Path) -> str:
    """llama.cpp's name for how text is cut before merging."""
    steps = _steps(document.get("pre_tokenizer"))
    byte_level = next((step for step in steps if step.get("type") == "ByteLevel"), None)
    if byte_level is None:
        raise RopewalkError(f"{path}: not a byte-level tokenizer", hint=OWN_CONVERTER)
    # The first word would get other tokens than in training.
    if byte_level.get("add_prefix_space"):
        raise RopewalkError(f"{path}: it puts a space in front, which llama.cpp does not", hint=OWN_CONVERTER)
    if not document["model"].get("merges"):
        # Every byte is a token of its own: however the text is cut, the tokens are the same.
        return "gpt-2"
    name = _CUTS.get(tuple(_short(step) for step in steps))
    if name is None:
        raise RopewalkError(
            f"{path}: llama.cpp's name for its pre-tokenizer is not known here", hint=OWN_CONVERTER
        )
    return _WHOLE_WORDS.get(name, name) if document["model"].get("ignore_merges") else name


def _short(step: dict[str, Any]) -> str:
    """One step of cutting in short: its pattern, or what it does."""
    kind = step.get("type")
    if kind == "ByteLevel":
        return "bytes by words" if step.get("use_regex", True) else "bytes"
    if kind == "Digits" and step.get("individual_digits"):
        return "each digit"
    isolated = kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert")
    pattern = str((step.get("pattern") or {}).get("Regex"))
    # Some files hold the characters, others their names.
    return pattern.replace("\r", r"\r").replace("\n", r"\n") if isolated else str(kind)


def _steps(given: Any, inside: str = "pretokenizers") -> list[dict[str, Any]]:
    if not isinstance(given, dict):
        return []
    if given.get("type") == "Sequence":
        return [step for step in given.get(inside) or [] if isinstance(step, dict)]
    return [given]


def _special(
    settings: dict[str, Any], facts: ModelFacts, tokens: list[str], document: dict[str, Any]
) -> dict[str, Any]:
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
    add, first = settings.get("add_bos_token"), found.get("tokenizer.ggml.bos_token_id")
    if add is None:
        # Newer files say it in the template alone.
        add = first is not None and _first_special(document) == tokens[first]
    found["tokenizer.ggml.add_bos_token"] = bool(add) and first is not None
    template = settings.get("chat_template")
    return found | ({"tokenizer.chat_template": template} if isinstance(template, str) else {})


def _first_special(document: dict[str, Any]) -> str | None:
    """The special token that the template puts in front of a text."""
    for step in _steps(document.get("post_processor"), "processors"):
        parts = step.get("single") or []
        if step.get("type") == "TemplateProcessing" and parts and "SpecialToken" in parts[0]:
            return str(parts[0]["SpecialToken"].get("id"))
    return None
