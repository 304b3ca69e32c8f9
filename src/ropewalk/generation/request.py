"""`ropewalk.generate`: the factor that a request needs, no more, and the model as it was afterwards."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import torch

from ropewalk.attention.cache_kinds import parse_kind
from ropewalk.errors import UsageError, near_miss
from ropewalk.generation.ladder import MAX_FACTOR, Ladder, ladder_for, tempered
from ropewalk.generation.pieces import Pieces
from ropewalk.generation.sampling import Sampler
from ropewalk.generation.session import Session
from ropewalk.models.checkpoint.origin import fitted_elsewhere
from ropewalk.models.facts import read_facts
from ropewalk.models.live.rotary import alone, bare
from ropewalk.models.structure.values import shown

log = logging.getLogger("ropewalk")

# How a text ended that an error stopped; what was written until then stays.
FAILED = "an error"

Prompt = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | torch.Tensor


@dataclass(frozen=True)
class Settings:
    """What may be said about a request.

    `max_new_tokens=None` writes until an end token, which only `dynamic` can serve: a fixed factor must know the end.
    `method` or `schedule` (a ladder or schedule file) make the ladder, `growth` and `max_factor` its steps. `dynamic`
    climbs as the text grows, `cheap` turns cached keys instead of reading the text again. `chunk` is the number of
    tokens read at once. `attention_temperature` (`log-n`, `constant:1.1`, ...) sharpens attention in every
    window but the model's own; `temperature` is that of the draw. `cache` names the kind of cache.
    """

    max_new_tokens: int | None = 256
    method: str | None = None
    schedule: str | Path | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    growth: float = 2.0
    max_factor: float = MAX_FACTOR
    dynamic: bool = False
    cheap: bool = False
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop_at_end: bool = True
    chunk: int | None = None
    attention_temperature: str | None = None
    cache: str = "full"

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "chunk", "seed"):
            value = getattr(self, name)
            # None leaves the others open; a draw has a seed.
            if not isinstance(value, Integral) and (value is not None or name == "seed"):
                raise UsageError(f"{name}={shown(value)} is not a whole number", hint=f"give {name} as one")
        if not -(2**63) <= self.seed < 2**63:
            raise UsageError(f"seed={self.seed} is more than 64 bits hold", hint="use a smaller one")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise UsageError(f"max_new_tokens={self.max_new_tokens} writes nothing", hint="ask for 1 or more")
        if self.max_new_tokens is None and not self.dynamic:
            raise UsageError(
                "a factor fixed for the request needs to know where it ends",
                hint="give max-new-tokens, or use dynamic scaling",
            )
        if self.cheap and not self.dynamic:
            raise UsageError("cheap is a way of dynamic scaling", hint="add dynamic, or leave cheap out")
        if self.chunk is not None and self.chunk < 1:
            raise UsageError(f"chunk={self.chunk} holds no token", hint="use 1 or more, or leave it out")


@dataclass(frozen=True)
class Generated:
    """What was written for one prompt, and how.

    `factor` and `window` are those in force at the end; `switches` the lengths at which a dynamic request climbed.
    `drift` (cheap only) is the mean and largest |difference| of log-probability of the tokens written since the last
    climb, against a fresh reading.
    """

    text: str | None
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    prompt_tokens: int
    factor: float
    window: int
    ladder: str
    ended: str
    seconds: float
    kv_bytes: int
    forwarded: int
    switches: tuple[int, ...] = ()
    drift: tuple[float, float] | None = None

    @property
    def tokens_per_s(self) -> float:
        """Written tokens a second, the reading of the prompt included."""
        return len(self.ids) / self.seconds if self.seconds > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """For `generate --json`."""
        return {
            "text": self.text,
            "factor": self.factor,
            "window": self.window,
            "ladder": self.ladder,
            "tokens": len(self.ids),
            "prompt_tokens": self.prompt_tokens,
            "tokens_per_s": self.tokens_per_s,
            "seconds": self.seconds,
            "kv_bytes": self.kv_bytes,
            "ended": self.ended,
            "forwarded_tokens": self.forwarded,
            "switches": list(self.switches),
            "drift": None if self.drift is None else {"mean": self.drift[0], "max": self.drift[1]},
        }


class Writing:
    """One request while it is written: iterate for pieces of text, ask `result` for what there is so far."""

    def __init__(self, model: Any, ids: Sequence[int], settings: Settings, tokenizer: Any = None) -> None:
        self.model, self.prompt, self.settings, self.tokenizer = model, list(ids), settings, tokenizer
        if not self.prompt:
            raise UsageError("the prompt is empty", hint="give it one token or more")
        self.ends = end_tokens(model, tokenizer) if settings.stop_at_end else set()
        if settings.max_new_tokens is None and not self.ends:
            none = "neither the model nor its tokenizer has an end token, so"
            raise UsageError(
                f"{none if settings.stop_at_end else 'end tokens are ignored and there is no limit:'} "
                "nothing would end the text",
                hint="give max-new-tokens",
            )
        self.ladder: Ladder = ladder_for(
            model,
            method=settings.method,
            schedule=settings.schedule,
            parameters=settings.parameters,
            growth=settings.growth,
            max_factor=settings.max_factor,
        )
        source = getattr(bare(model).config, "name_or_path", "")
        files = (settings.schedule, settings.attention_temperature)
        # Of a model that was made in memory nothing is known.
        for other in fitted_elsewhere(files, source) if source else ():
            log.warning(other)
        if settings.attention_temperature is not None:
            original = read_facts(bare(model).config.to_dict()).original_length
            self.ladder = tempered(self.ladder, settings.attention_temperature, original)
        self.kind = parse_kind(settings.cache)
        if self.kind.sinks is not None:
            raise UsageError(
                f"cache {self.kind.name} forgets, and a request is read whole", hint="use --stream for sinks"
            )
        if self.kind.whole_prompt and settings.dynamic:
            raise UsageError(
                f"{self.kind.name} presses one prompt, and dynamic scaling reads the text again",
                hint="leave out dynamic",
            )
        if self.kind.name != "full" and settings.cheap:
            raise UsageError("cheap turns keys of the full cache", hint="leave out cheap, or cache")
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.text = ""
        self.ended = "interrupted"
        self._session: Session | None = None
        self._seconds = 0.0
        self._kv_bytes = 0
        self._drift: tuple[float, float] | None = None

    def __iter__(self) -> Iterator[str]:
        settings = self.settings
        limit = settings.max_new_tokens
        # The whole request at once: under one factor from the first token, nothing is ever read again.
        tokens = None if settings.dynamic or limit is None else len(self.prompt) + limit
        pieces = None if self.tokenizer is None else Pieces(self.tokenizer, self.prompt)
        sampler = Sampler(settings.temperature, settings.top_p, settings.seed)
        session = Session(
            self.model,
            self.ladder,
            tokens=tokens,
            chunk=settings.chunk,
            cheap=settings.cheap,
            kind=self.kind,
        )
        self._session, began = session, time.perf_counter()
        try:
            with session:
                yield from self._write(session, sampler, pieces)
                self._seconds, self._kv_bytes = time.perf_counter() - began, session.kv_bytes
                if settings.cheap and session.switches:
                    self._drift = self._measured_drift(session)
        except Exception:
            self.ended = FAILED
            raise
        finally:
            # A writing that is stopped or fails comes past here alone.
            self._seconds = self._seconds or time.perf_counter() - began

    def _write(self, session: Session, sampler: Sampler, pieces: Pieces | None) -> Iterator[str]:
        fed = self.prompt
        for number in itertools.count(1):
            token, logprob = sampler(session.read(fed))
            # At every token: whoever stops early asks for the figures when the cache is gone.
            self._kv_bytes = session.kv_bytes
            if token in self.ends:
                self.ended = "end token"
                break
            self.ids.append(token)
            self.logprobs.append(logprob)
            if pieces is not None:
                yield self._shown(pieces.add(token))
            if number == self.settings.max_new_tokens:
                self.ended = "limit"
                break
            fed = [token]
        if pieces is not None:
            yield self._shown(pieces.rest())

    def _shown(self, piece: str) -> str:
        self.text += piece
        return piece

    def _measured_drift(self, session: Session) -> tuple[float, float]:
        start = session.switches[-1]
        fresh = session.fresh_logprobs(start)
        # The last token was drawn and never read, so that the session's text may lack it.
        own = torch.tensor(self.logprobs[start - len(self.prompt) :])[: len(fresh)]
        apart = (own - fresh).abs()
        return (float(apart.mean()), float(apart.max())) if len(apart) else (0.0, 0.0)

    def result(self) -> Generated:
        """What has been written so far, and the figures."""
        session = self._session
        rung = session.rung if session is not None else None
        return Generated(
            text=self.text if self.tokenizer is not None else None,
            ids=tuple(self.ids),
            logprobs=tuple(self.logprobs),
            prompt_tokens=len(self.prompt),
            factor=1.0 if rung is None else rung.factor,
            window=0 if rung is None else rung.window,
            ladder=self.ladder.name,
            ended=self.ended,
            seconds=self._seconds,
            kv_bytes=self._kv_bytes,
            forwarded=0 if session is None else session.forwarded,
            switches=() if session is None else tuple(session.switches),
            drift=self._drift,
        )


def generate(
    model: Any,
    prompt: Prompt,
    *,
    tokenizer: Any = None,
    attention_mask: Any = None,
    listener: Callable[[str], None] | None = None,
    **settings: Any,
) -> Generated | list[Generated]:
    """Continue a prompt, or several, each under the smallest factor whose window holds it and what is to be written.

    `model` is a folder, `hemp`, or a loaded model; `prompt` is text (then with the tokenizer) or token ids, one or a
    list, or a padded (B, T) tensor with its `attention_mask`. A prompt that fits the window of the model as it is runs
    on it unmodified, bit for bit; rows run one by one, each under its own factor, and no row sees another. `listener`
    gets the pieces of text as they come. Keywords are the fields of `Settings`; row n draws with `seed + n`.

    >>> from ropewalk import generate
    >>> done = generate("hemp", "def add(a, b):", max_new_tokens=8)
    >>> done.factor, done.window, len(done.ids) <= 8
    (1.0, 512, True)
    """
    chosen = Settings(**_known(settings))
    if isinstance(model, str | Path):
        from ropewalk.models.load import load_model, load_tokenizer

        tokenizer = tokenizer if tokenizer is not None else load_tokenizer(model)
        model = load_model(model)
    # What is no model is said before what its prompt would need.
    alone(model)
    rows, single = prompt_rows(prompt, tokenizer, attention_mask)
    done = []
    for number, ids in enumerate(rows):
        # A fresh seed for each row: two equal prompts are two draws.
        writing = Writing(model, ids, replace(chosen, seed=chosen.seed + number), tokenizer)
        for piece in writing:
            if listener is not None and piece:
                listener(piece)
        done.append(writing.result())
    return done[0] if single else done


def prompt_rows(prompt: Prompt, tokenizer: Any, attention_mask: Any = None) -> tuple[list[list[int]], bool]:
    """The token ids of each prompt, padding on either side taken off, and whether there was just one."""
    if isinstance(prompt, torch.Tensor):
        rows_BT = prompt if prompt.ndim == 2 else prompt[None]
        mask_BT = torch.ones_like(rows_BT) if attention_mask is None else torch.as_tensor(attention_mask)
        if mask_BT.shape != rows_BT.shape:
            raise UsageError(
                f"an attention mask {tuple(mask_BT.shape)} does not cover prompts {tuple(rows_BT.shape)}",
                hint="give both as the tokenizer made them",
            )
        return [_unpadded(*pair) for pair in zip(rows_BT, mask_BT.reshape(rows_BT.shape), strict=True)], (
            prompt.ndim == 1
        )
    if attention_mask is not None:
        raise UsageError(
            "an attention mask belongs to a tensor of prompts", hint="pass input_ids as a tensor"
        )
    # Tokenizers give arrays too.
    prompt = prompt.tolist() if hasattr(prompt, "tolist") else prompt
    # Of bytes each would count as a token id.
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes | bytearray):
        raise UsageError(
            f"prompt {shown(prompt)} is neither text nor token ids",
            hint="give a string, token ids, or a list of them",
        )
    single = isinstance(prompt, str) or (len(prompt) > 0 and isinstance(prompt[0], Integral))
    prompts: Sequence[Any] = [prompt] if single else prompt
    if not len(prompts):
        raise UsageError("there is no prompt", hint="give one or more")
    return [_encoded(item, tokenizer) for item in prompts], single


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end a text, as the model's generation settings and its tokenizer name them."""
    configured = getattr(getattr(bare(model), "generation_config", None), "eos_token_id", None)
    found = set(configured) if isinstance(configured, list) else {configured}
    return {int(token) for token in found | {getattr(tokenizer, "eos_token_id", None)} if token is not None}


def _unpadded(row_T: torch.Tensor, mask_T: torch.Tensor) -> list[int]:
    kept = mask_T.bool().nonzero().flatten()
    # The kept tokens must be neighbours: a gap would be closed, and the text another one.
    if len(kept) and int(kept[-1] - kept[0]) + 1 != len(kept):
        raise UsageError("padding in the middle of a prompt", hint="pad on the left or on the right")
    return [int(token) for token in row_T[mask_T.bool()]]


def _encoded(prompt: Any, tokenizer: Any) -> list[int]:
    if not isinstance(prompt, str):
        return [int(token) for token in prompt]
    if not prompt:
        raise UsageError("the prompt is empty", hint="give it one token or more")
    if tokenizer is None:
        raise UsageError("text without a tokenizer", hint="pass tokenizer=, or token ids as the prompt")
    # Longer than a tokenizer's own idea of the window is what this is for: its warning would be wrong.
    return [int(token) for token in tokenizer(prompt, verbose=False)["input_ids"]]


def _known(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    names = list(Settings.__dataclass_fields__)
    for name in settings:
        if name not in names:
            raise UsageError(
                f"generate has no setting {name!r}", hint=near_miss(name, names, otherwise=", ".join(names))
            )
    return settings
