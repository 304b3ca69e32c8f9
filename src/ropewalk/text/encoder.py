"""Text in pieces whose tokens are known, so that a sample can be exactly as long as asked.

A sample is put together from pieces that were encoded one by one; its tokens are the pieces' tokens, end to end. Pieces
begin with a space or after a line break, where tokenizers split anyway, so this reads like text encoded in one go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ropewalk.errors import RopewalkError, one_line

# Control characters, so that no template holds the mark itself or trims it.
MARK = "\x02content\x03"


@dataclass(frozen=True)
class Piece:
    """A text and its token ids."""

    text: str
    ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)


class Encoder(Protocol):
    """Whatever turns text into tokens and back."""

    @property
    def opening(self) -> tuple[int, ...]:
        """Tokens that stand before every text (the BOS token, or nothing)."""

    def ids(self, text: str) -> tuple[int, ...]:
        """The tokens of a piece that stands inside a text."""

    def beginning(self, text: str) -> tuple[int, ...]:
        """The tokens of a piece that a text begins with."""

    def text(self, ids: Sequence[int]) -> str:
        """The text of some tokens."""


class ByteEncoder:
    """One token a UTF-8 byte: the encoder of byte-level models, and of texts made before a tokenizer is known."""

    opening: tuple[int, ...] = ()

    def ids(self, text: str) -> tuple[int, ...]:
        """The UTF-8 bytes."""
        return tuple(text.encode("utf-8"))

    def beginning(self, text: str) -> tuple[int, ...]:
        """The same bytes."""
        return self.ids(text)

    def text(self, ids: Sequence[int]) -> str:
        """The text; a character cut in half is left out."""
        return bytes(ids).decode("utf-8", errors="ignore")


class TokenizerEncoder:
    """A Hugging Face tokenizer. Pieces are encoded behind an anchor, since many tokenizers treat a beginning apart."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._cache: dict[str, tuple[int, ...]] = {}
        self._anchors = {anchor: self._plain(anchor) for anchor in ("x", "\n")}
        self.opening: tuple[int, ...] = self._opening()

    def _plain(self, text: str) -> tuple[int, ...]:
        return tuple(int(i) for i in self.tokenizer.encode(text, add_special_tokens=False))

    def _opening(self) -> tuple[int, ...]:
        # Found by what it does: the token and the flags that promise a BOS disagree in many tokenizer files.
        bare = self._plain("x")
        dressed = tuple(int(i) for i in self.tokenizer.encode("x", add_special_tokens=True))
        for start in range(len(dressed) - len(bare) + 1):
            if dressed[start : start + len(bare)] == bare:
                return dressed[:start]
        return ()

    def ids(self, text: str) -> tuple[int, ...]:
        """The tokens that `text` has behind other text; `tokenizer.encode` is asked once per distinct piece."""
        found = self._cache.get(text)
        if found is None:
            # Tasks draw endless new sentences; emptying the cache now and then costs less than ordering it by use.
            if len(self._cache) > 50_000:
                self._cache.clear()
            found = self._cache[text] = self._encode(text)
        return found

    def _encode(self, text: str) -> tuple[int, ...]:
        if not text:
            return ()
        # A piece that begins with a letter stands behind a line break in a text; behind an "x" it would merge with it.
        anchor = "\n" if text[0].isalnum() else "x"
        before = self._anchors[anchor]
        whole = self._plain(anchor + text)
        ids = whole[len(before) :] if whole[: len(before)] == before else self._plain(text)
        if not ids:
            raise RopewalkError(
                f"the tokenizer gives no tokens for {text[:40]!r}",
                hint="this model's tokenizer cannot write the task",
            )
        return ids

    def beginning(self, text: str) -> tuple[int, ...]:
        """The tokens that `text` has at the very beginning, where some tokenizers put a space of their own."""
        return self._plain(text)

    def text(self, ids: Sequence[int]) -> str:
        """The text of some tokens from the middle of a text."""
        # Decoders drop a space at the very beginning, which here is not one.
        before = self._anchors["x"]
        return self._decoded([*before, *ids]).removeprefix(self._decoded(before))

    def _decoded(self, ids: Sequence[int]) -> str:
        tokenizer, tokens = self.tokenizer, list(ids)
        return str(tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@dataclass(frozen=True)
class Frame:
    """What stands around the content: nothing but BOS for a base model, the chat template's words for a chat model."""

    before: Piece
    after: Piece
    chat: bool = False


def completion_frame(encoder: Encoder) -> Frame:
    """The frame of a base model: its BOS token where it has one."""
    return Frame(before=Piece("", encoder.opening), after=Piece("", ()))


def chat_frame(encoder: TokenizerEncoder) -> Frame:
    """The frame of a chat model, cut from its own template around one user message."""
    tokenizer = encoder.tokenizer
    if not getattr(tokenizer, "chat_template", None):
        raise RopewalkError(
            "this tokenizer has no chat template", hint="use completion prompts (--style completion)"
        )
    try:
        written = tokenizer.apply_chat_template(
            [{"role": "user", "content": MARK}], tokenize=False, add_generation_prompt=True
        )
    # A template is a program of the model's author: it may raise whatever it likes about a lone user message.
    except Exception as error:
        raise RopewalkError(
            f"the chat template does not take one user message ({one_line(error, 120)})",
            hint="use completion prompts (--style completion)",
        ) from error
    before, mark, after = str(written).partition(MARK)
    if not mark:
        raise RopewalkError(
            "the chat template changes the message that it is given",
            hint="use completion prompts (--style completion)",
        )
    # The template writes BOS itself where the model wants one, so no opening is added here.
    head = tuple(int(i) for i in tokenizer.encode(before, add_special_tokens=False))
    return Frame(before=Piece(before, head), after=Piece(after, encoder.ids(after)), chat=True)
