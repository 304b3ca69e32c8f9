"""hemp's tokenizer: one token a byte, as a real fast tokenizer. Token i below 256 is byte i."""

from __future__ import annotations

from pathlib import Path
from typing import Any

NUM_BYTES = 256
END_OF_TEXT = "<|endoftext|>"
PADDING = "<|padding|>"
VOCAB_SIZE = 264


def byte_letters() -> list[str]:
    """The printable letter that byte-level tokenizers write for each byte, in the order of the bytes.

    Bytes that print stand for themselves; the others take letters from U+0100 on, in order (the GPT-2 table).
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = iter(range(0x100, 0x200))
    return [chr(byte) if byte in plain else chr(next(shifted)) for byte in range(NUM_BYTES)]


def build_tokenizer(window: int = 512) -> Any:
    """A byte-level BPE without merges. No token is added in front of a text: every excerpt is a fair beginning."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(
        models.BPE(vocab={letter: byte for byte, letter in enumerate(byte_letters())}, merges=[])
    )
    # Without merges there is nothing that a split into words could keep apart.
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    reserved = [f"<|reserved_{number}|>" for number in range(VOCAB_SIZE - NUM_BYTES - 2)]
    backend.add_special_tokens([END_OF_TEXT, PADDING, *reserved])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END_OF_TEXT,
        pad_token=PADDING,
        model_max_length=window,
        # What is decoded are the very bytes that were encoded.
        clean_up_tokenization_spaces=False,
    )


def write_tokenizer(folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json."""
    build_tokenizer().save_pretrained(folder)
