"""Tokens as text, as they come: nothing is printed that a later token would change."""

from __future__ import annotations

from typing import Any

_CUT = "\ufffd"
# A character is cut over a few tokens at most; beyond that the replacement mark is what the model wrote.
_PATIENCE = 8


class Pieces:
    """The text of a growing list of tokens. Each `add` costs the same, however long the text is."""

    def __init__(self, tokenizer: Any, context: list[int] | None = None) -> None:
        self._tokenizer = tokenizer
        # Tokens are decoded behind those before them: many tokenizers drop a space at a beginning.
        self._ids = list(context or ())[-_PATIENCE:]
        self._shown = len(self._ids)

    def add(self, token: int) -> str:
        """The text that this token completes; empty while a character is only begun."""
        self._ids.append(token)
        return self._take(final=False)

    def rest(self) -> str:
        """What was held back, marks for cut characters included."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> str:
        before, whole = self._text(self._ids[: self._shown]), self._text(self._ids)
        waiting = whole.endswith(_CUT) and len(self._ids) - self._shown < _PATIENCE
        if len(whole) <= len(before) or (waiting and not final):
            return ""
        self._ids = self._ids[self._shown :]
        self._shown = len(self._ids)
        return whole[len(before) :]

    def _text(self, ids: list[int]) -> str:
        # Without clean-up: it takes away spaces before marks, some of which have been printed by then.
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
