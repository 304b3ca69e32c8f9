"""Conversations as documents: written out by the tokenizer's own template, with the loss on what the assistant says.

Three spellings are read: `messages` of role and content (with `tools` beside them), ShareGPT's `conversations` of from
and value, and Alpaca's instruction, input and output.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import __version__

from ropewalk.errors import RopewalkError, UsageError, one_line
from ropewalk.training.data.cache import Ids, TokenCache, digest_of
from ropewalk.training.data.streams import Documents

ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "function": "tool"}
Conversation = dict[str, Any]


def conversation_of(line: Any, where: str) -> Conversation:
    """{"messages": [...], "tools": [...] or None} from any of the three spellings.

    >>> conversation_of({"instruction": "Add.", "input": "1 2", "output": "3"}, "x")["messages"][0]["content"]
    'Add.\\n\\n1 2'
    """
    tools = None
    if isinstance(line, dict) and isinstance(line.get("messages"), list):
        messages, tools = list(line["messages"]), line.get("tools")
    elif isinstance(line, dict) and isinstance(line.get("conversations"), list):
        messages = [_renamed(item, where) for item in line["conversations"]]
        tools = line.get("tools")
    elif isinstance(line, dict) and {"instruction", "output"} <= line.keys():
        asked = "\n\n".join(text for text in (line["instruction"], line.get("input") or "") if text)
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": line["output"]}]
        if line.get("system"):
            messages.insert(0, {"role": "system", "content": line["system"]})
    else:
        raise UsageError(
            f"{where} is no conversation",
            hint="one JSON object a line with messages, conversations, or instruction and output",
        )
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise UsageError(f"{where} has a message without a role", hint="give role and content")
    if not any(message["role"] == "assistant" for message in messages):
        raise UsageError(f"{where} has no turn of the assistant: nothing to learn", hint="leave it out")
    # Data sets write tools as a list, or as the JSON text of one.
    tools = json.loads(tools) if isinstance(tools, str) and tools.strip() else tools
    return {"messages": messages, "tools": tools or None}


def _renamed(item: Any, where: str) -> dict[str, Any]:
    if not isinstance(item, dict) or "from" not in item or "value" not in item:
        raise UsageError(
            f"{where} has a turn without from and value", hint="write ShareGPT's form, or messages"
        )
    return {"role": ROLES.get(item["from"], item["from"]), "content": item["value"]}


class Template:
    """A tokenizer's chat template, or one from a file."""

    def __init__(self, tokenizer: Any, file: str | None, source: str) -> None:
        self.tokenizer, self.source = tokenizer, source
        own = getattr(tokenizer, "chat_template", None)
        self.text: str | None = None
        if file is not None:
            try:
                self.text = Path(file).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(
                    f"source {source!r}: cannot read the template {file} ({one_line(error, 80)})",
                    hint="give a Jinja file, or leave template out",
                ) from error
        elif not own:
            raise UsageError(
                f"source {source!r}: the tokenizer has no chat template",
                hint="use a chat model's tokenizer, or give template: FILE with one in Jinja",
            )

        self.source_text = self.text if self.text is not None else json.dumps(own)

    def written(self, talk: Conversation, turns: int, *, asks: bool = False) -> str:
        """The first `turns` messages as text; with `asks` the opening of the assistant's turn after them."""
        text: str = self.tokenizer.apply_chat_template(
            talk["messages"][:turns],
            tools=talk["tools"],
            chat_template=self.text,
            tokenize=False,
            add_generation_prompt=asks,
        )
        return text

    def spans(self, talk: Conversation, name: str) -> tuple[str, list[tuple[int, int]]]:
        """The conversation as text, and where in it the assistant speaks: its words and the end of its turn."""
        try:
            whole = self.written(talk, len(talk["messages"]))
            found = [
                self._span(talk, turn, whole, name)
                for turn, message in enumerate(talk["messages"])
                if message["role"] == "assistant"
            ]
        except RopewalkError:
            raise
        except Exception as error:  # templates raise what they like
            raise UsageError(
                f"{name}: the chat template refuses it ({one_line(error, 120)})",
                hint="mend the conversation, leave it out, or give another template",
            ) from error
        return whole, found

    def _span(self, talk: Conversation, turn: int, whole: str, name: str) -> tuple[int, int]:
        before, after = self.written(talk, turn, asks=True), self.written(talk, turn + 1)
        if not (whole.startswith(after) and after.startswith(before)):
            # A template that opens the answer with more than the answer begins with: what both share is the asking.
            before = self.written(talk, turn)
        if not (whole.startswith(after) and after.startswith(before)):
            raise UsageError(
                f"{name}: the chat template writes turn {turn + 1} otherwise once others follow, so what the "
                "assistant said cannot be told apart",
                hint="give a template that only appends (template: FILE), or end the conversation there",
            )
        # The blank space that a template puts after the end of a turn is not the assistant's to say.
        return len(before), len(after.rstrip())


class ChatDocuments(Documents):
    """Conversations by number: tokens by the template, weight 1 on what the assistant says and 0 elsewhere.

    A conversation of more than `limit` tokens ends after the last turn of the assistant that fits; `shortened` and
    `left_out` count those that were cut so, and those of which nothing fits.
    """

    def __init__(
        self,
        talks: Sequence[tuple[str, Conversation]],
        template: Template,
        limit: int,
        cache: TokenCache | None = None,
    ) -> None:
        self._tokenizer, self._template, self.limit = template.tokenizer, template, limit
        self.shortened = self.left_out = 0
        self._ids: dict[int, Ids] = {}
        self._weights: dict[int, NDArray[np.float32]] = {}
        self.names: list[str] = []
        # A template that writes today's date makes other tokens tomorrow.
        fixed = cache is not None and "strftime" not in template.source_text
        names = str(getattr(template.tokenizer, "special_tokens_map", ""))
        how = ("chat", __version__, template.source_text, names)
        self._store = cache.store(*how) if cache is not None and fixed else None
        for name, talk in talks:
            self._add(name, talk)
        if not self.names:
            raise UsageError(
                f"source {template.source!r}: no conversation fits into a row of {limit} tokens",
                hint="lengthen the stages, or shorten the conversations",
            )

    def _add(self, name: str, talk: Conversation) -> None:
        turns = [turn for turn, message in enumerate(talk["messages"], 1) if message["role"] == "assistant"]
        for left, turn in enumerate(reversed(turns)):
            part = {"messages": talk["messages"][:turn], "tools": talk["tools"]}
            ids, weights = self._tokens(part, name)
            if len(ids) <= self.limit:
                number = len(self.names)
                self.names.append(name)
                self._ids[number], self._weights[number] = ids, weights
                self.shortened += left > 0
                return
        self.left_out += 1

    def _tokens(self, talk: Conversation, name: str) -> tuple[Ids, NDArray[np.float32]]:
        """Tokens and weights, from the store where they are kept: ids without loss lie there as -1 - id."""
        if self._store is None:
            return self._made_tokens(talk, name)
        digest = digest_of(json.dumps(talk))
        kept = self._store.get(digest)
        if kept is None:
            ids, weights = self._made_tokens(talk, name)
            # -1 - id and not -id, because token 0 has no sign.
            self._store.put([(digest, np.where(weights > 0, ids, -1 - ids).astype(np.int32))])
            return ids, weights
        return np.where(kept < 0, -1 - kept, kept).astype(np.int32), (kept >= 0).astype(np.float32)

    def _made_tokens(self, talk: Conversation, name: str) -> tuple[Ids, NDArray[np.float32]]:
        text, spans = self._template.spans(talk, name)
        # The template has written its special tokens into the text: a second beginning would be one too many.
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        starts = np.array([start for start, _ in encoded["offset_mapping"]], dtype=np.int64)
        ends = np.array([end for _, end in encoded["offset_mapping"]], dtype=np.int64)
        weights = np.zeros(len(starts), dtype=np.float32)
        for begin, end in spans:
            # A token belongs to the assistant where it holds any character of a span.
            weights[(starts < end) & (ends > begin)] = 1.0
        return np.asarray(encoded["input_ids"], dtype=np.int32), weights

    @property
    def characters(self) -> list[int]:
        """What stands for characters here: the tokens, which are all made already."""
        return [len(self._ids[number]) for number in range(len(self))]

    def weights(self, number: int) -> NDArray[np.float32] | None:
        """1 for the assistant's tokens, 0 for all others."""
        return self._weights[number]
