"""Which schedule does a server run, and which window does it truly serve?

A static stretch changes even the log probabilities of a short prompt. So a few hundred tokens, put to the server and to
the base model on this machine under every candidate, tell which one the server computes; and prompts at growing
lengths tell how much of a prompt it reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ropewalk.errors import UsageError
from ropewalk.evaluation.served.asking import connect
from ropewalk.evaluation.served.endpoint import EndpointError, TooLongError
from ropewalk.evaluation.served.plan import Gauge
from ropewalk.evaluation.served.probe import Probe, findings_of, probe_lengths
from ropewalk.evaluation.served.server import Server
from ropewalk.models.facts import ModelFacts, read_facts
from ropewalk.models.load import load_model, load_tokenizer
from ropewalk.runtimes import fingerprint_references as references
from ropewalk.runtimes.fingerprint_asking import Said, Witness, probe_ids
from ropewalk.runtimes.fingerprint_references import Candidate, Match, References
from ropewalk.schedule import FrequencySchedule
from ropewalk.units import format_length

FORMAT = "ropewalk-fingerprint/1"
# Where a server tells only what it writes, each place is a request of its own.
SHORT_TOKENS, PLACES = 320, 48
# A prompt beyond the original window is also run on this machine, so it stays short.
LONG_LIMIT = 4096
PROBE_LIMIT = 32768
# The best candidate of a server that runs none of them is hardly better than the usual one.
_UNLIKE = 0.5
_KEPT = 5
_EXPECTED = "as expected"


@dataclass(frozen=True)
class Identified:
    """What the answers at one length say: every candidate, the likeliest first."""

    tokens: int
    values: int
    matches: tuple[Match, ...]
    unlike: bool

    @property
    def best(self) -> Match:
        """The likeliest candidate."""
        return self.matches[0]

    @property
    def ratio(self) -> float:
        """Natural log of how much likelier the best is than the next."""
        return self.matches[1].log_ratio if len(self.matches) > 1 else math.inf

    @property
    def rivals(self) -> tuple[str, ...]:
        """Candidates within a thousand to one of the best."""
        return tuple(row.candidate.name for row in self.matches[1:] if row.log_ratio < references.SURE)

    def to_json(self) -> dict[str, Any]:
        """One row of `identified`."""
        return {
            "tokens": self.tokens,
            "values": self.values,
            "best": self.best.candidate.name,
            "log_ratio": self.ratio,
            "inseparable": list(self.rivals),
            "unlike": self.unlike,
            "candidates": [row.to_json() for row in self.matches],
        }


@dataclass(frozen=True)
class Fingerprint:
    """The verdict on a server, and what it rests on."""

    server: str
    model: str
    base: str
    way: str
    original_length: int
    claimed_length: int | None
    identified: tuple[Identified, ...]
    probes: tuple[Probe, ...]
    findings: tuple[dict[str, Any], ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Whether nothing was found that users of the server would have to know."""
        return all(finding["severity"] != "error" for finding in self.findings)

    @property
    def served_length(self) -> int | None:
        """The longest prompt that was read whole."""
        read = [
            probe.length for probe in self.probes if probe.refused is None and probe.head_read is not False
        ]
        cut = [
            finding["length"] for finding in self.findings if finding["id"] in ("truncates", "head-unread")
        ]
        return max((length for length in read if not cut or length < min(cut)), default=None)

    @property
    def verdict(self) -> str:
        """One sentence."""
        short = self.identified[0]
        if short.unlike:
            return (
                f"none of {len(short.matches)} candidates explains the answers: the nearest is "
                f"{short.best.candidate.name}, off by {short.best.difference:.2g} on average"
            )
        if short.rivals:
            return (
                f"{short.best.candidate.name}, but {short.values} log probabilities cannot tell it from "
                f"{', '.join(short.rivals)}"
            )
        return (
            f"{short.best.candidate.name}: {_odds(short.ratio)} times likelier than "
            f"{short.matches[1].candidate.name}, off by {short.best.difference:.2g} on average"
        )

    def to_json(self) -> dict[str, Any]:
        """For `--json` and the run folder."""
        names = ("server", "model", "base", "way", "original_length", "claimed_length", "served_length")
        document: dict[str, Any] = {"format": FORMAT, **{name: getattr(self, name) for name in names}}
        return document | {
            "passed": self.passed,
            "verdict": self.verdict,
            "identified": [one.to_json() for one in self.identified],
            "probes": [probe.to_json() for probe in self.probes],
            "findings": list(self.findings),
        }


def fingerprint(
    url: str,
    base: str | Path,
    *,
    model: str | None = None,
    expect: str | Path | None = None,
    lengths: Sequence[int] = (),
    device: str = "auto",
    dtype: str = "auto",
    attn: str = "sdpa",
    trust_remote_code: bool = False,
    timeout_s: float = 300.0,
) -> Fingerprint:
    """Ask a server for log probabilities and name the schedule that it runs; `base` is the unstretched model.

    `expect` is the checkpoint that it should serve. `lengths` are prompt lengths to try (default: from the original
    window, doubling, to what the server or the expected checkpoint claims).
    """
    server = connect(url, model, timeout_s=timeout_s)
    if server.chat:
        raise UsageError(
            f"{url} has the chat API only, whose template stands between the probe and the model",
            hint="serve /completions too, or use `ropewalk eval http://...` for what answers alone can show",
        )
    tokenizer = load_tokenizer(base, trust_remote_code=trust_remote_code)
    loaded = load_model(base, device=device, dtype=dtype, attn=attn, trust_remote_code=trust_remote_code)
    facts = read_facts(loaded.config.to_dict())
    expected = None if expect is None else read_facts(expect)
    claimed = _claimed(server) or (None if expected is None else expected.max_position_embeddings)
    witness = Witness(server, tokenizer)
    tried = references.candidates(facts, _schedule_of(expected), claimed)
    # Inside the original window: a schedule of two sets still runs its short one there.
    short = min(SHORT_TOKENS, int(0.9 * facts.original_length))
    identified = [_identify(loaded, facts, tried, witness.ask(probe_ids(tokenizer, short, seed=0), PLACES))]
    gauge = Gauge(server, tokenizer, max(64, min(short, facts.original_length // 2)))
    wanted = sorted(set(lengths)) or _lengths(facts.original_length, claimed)
    probes = probe_lengths(server, gauge, wanted, seed=0)
    findings = findings_of(probes)
    accepted = max((probe.length for probe in probes if probe.refused is None), default=0)
    cut = any(finding["severity"] == "error" for finding in findings)
    beyond = min(2 * facts.original_length, accepted, LONG_LIMIT)
    # A server that cuts prompts would be judged by another text than it was sent.
    if beyond > facts.original_length and not cut:
        try:
            said = witness.ask(probe_ids(tokenizer, beyond - 8, seed=1), PLACES // 2)
            long = _identify(loaded, facts, _likeliest(identified[0], tried), said)
            # Another winner among the few that were kept may be the best of wrong ones.
            if long.best.candidate.name != identified[0].best.candidate.name:
                long = _identify(loaded, facts, tried, said)
            identified.append(long)
        except TooLongError:
            pass
    made = Fingerprint(
        server.endpoint.url, server.model, str(base), witness.way, facts.original_length, claimed,
        tuple(identified), tuple(probes),
    )  # fmt: skip
    own = [*_findings(made, facts, expected is not None), *findings]
    return Fingerprint(**(vars(made) | {"findings": tuple(own)}))


def _identify(model: Any, facts: ModelFacts, tried: Sequence[Candidate], said: Said) -> Identified:
    """The candidates on these answers; where none is clearly right, also the factor between them that fits best."""
    known = References(model, said)
    rows = known.matches(tried)
    finer = None
    if rows[0].difference > references.CLOSE:
        finer = references.refined(facts, known, rows[0].candidate)
    if finer is not None:
        with_finer = known.matches([*tried, finer])
        place = next(row for row in with_finer if row.candidate is rows[0].candidate)
        # A free factor nearly always fits a little better; it has to be far likelier than the round one.
        if with_finer[0].candidate is finer and place.log_ratio >= references.SURE:
            rows = with_finer
    typical = sorted(row.difference for row in rows)[len(rows) // 2]
    unlike = rows[0].difference > _UNLIKE * typical
    return Identified(len(said.ids), len(known.told), tuple(rows), unlike)


def _likeliest(short: Identified, tried: Sequence[Candidate]) -> list[Candidate]:
    """What a longer prompt is compared with: a forward there costs more, and most candidates are out of question."""
    near = [row.candidate for row in short.matches[:_KEPT]]
    return near + [
        one for one in tried if one not in near and one.kind in ("base", "expected", "expected-short")
    ]


def _schedule_of(expected: ModelFacts | None) -> FrequencySchedule | None:
    if expected is None:
        return None
    if expected.rope.schedule is None:
        raise UsageError(
            f"the expected checkpoint's rope type {expected.rope.rope_type!r} has no fixed frequencies",
            hint="leave out --expect: the server's own frequencies are found without it",
        )
    return expected.rope.schedule


def _claimed(server: Server) -> int | None:
    """The window that the server says it has, where it says one."""
    try:
        listed = server.endpoint.get("/models")
    except EndpointError:
        return None
    rows = listed.get("data") if isinstance(listed, dict) else None
    for row in rows or []:
        if isinstance(row, dict) and row.get("id") == server.model:
            meta = row.get("meta")
            meta = meta if isinstance(meta, dict) else {}
            # n_ctx_train is what llama.cpp's file says, n_ctx what it serves, so that comes first.
            for value in (row.get("max_model_len"), meta.get("n_ctx"), meta.get("n_ctx_train")):
                if isinstance(value, int) and value > 0:
                    return value
    return None


def _lengths(original: int, claimed: int | None) -> list[int]:
    """The original window and its doubles up to what is claimed, or four times where nothing is."""
    # The original window is tried however long it is; beyond it every probe costs the server a whole prompt.
    top = min(claimed or 4 * original, max(PROBE_LIMIT, original))
    found = [max(128, original // 2)]
    while 2 * found[-1] < top:
        found.append(2 * found[-1])
    return sorted({*found, top})


def _findings(made: Fingerprint, facts: ModelFacts, expects: bool) -> list[dict[str, Any]]:
    """What the schedule means for whoever uses this server."""
    short = made.identified[0]
    best = short.best.candidate
    if short.unlike:
        fix = "is --base the model that it serves? If so its schedule is not among the candidates: give --expect"
        # Every other finding would speak of a candidate that the server does not run.
        return [_finding("unknown-schedule", "error", made.verdict, fix)]
    found = []
    if expects and best.kind != "expected" and not any(name.startswith(_EXPECTED) for name in short.rivals):
        said = f"the server runs {best.name}, not the expected schedule"
        fix = "look at its launch line: its flags may replace what the checkpoint says"
        found.append(_finding("not-as-expected", "error", said, fix))
    if best.kind == "base-changed":
        said = f"the server rotates with {best.name}, the model's is {facts.geometry.rope_theta:.6g}"
        fix = "correct rope_theta (vLLM: --hf-overrides, llama.cpp: --rope-freq-base)"
        found.append(_finding("wrong-base", "error", said, fix))
    window = made.served_length
    plain = best.kind in ("base", "none") and not facts.rope.is_scaled
    if plain and window is not None and window > facts.original_length:
        said = (
            f"the server takes {format_length(window)} tokens and rotates them unscaled: the model never saw positions "
            f"past {format_length(facts.original_length)}"
        )
        fix = "serve a checkpoint of `ropewalk extend`, written for this program with `ropewalk export`"
        found.append(_finding("unscaled-window", "error", said, fix, window))
    if short.rivals:
        said = f"the probe cannot tell {best.name} from {', '.join(short.rivals)}"
        fix = "ask a server of higher precision, or one that gives the prompt's log probabilities"
        found.append(_finding("inseparable", "warning", said, fix))
    return found + _switches(made)


def _switches(made: Fingerprint) -> list[dict[str, Any]]:
    """Whether prompts past the original window run another schedule than short ones."""
    if len(made.identified) < 2:
        return []
    short, long = made.identified[:2]
    name = short.best.candidate.name
    if not long.unlike and name in (long.best.candidate.name, *long.rivals):
        return []
    other = "none of the candidates" if long.unlike else long.best.candidate.name
    said = f"short prompts run {name}, prompts of {long.tokens} tokens {other}"
    fix = "a schedule that depends on the prompt's length: cached prefixes may not fit it"
    return [_finding("switches", "warning", said, fix, long.tokens)]


def _finding(name: str, severity: str, message: str, fix: str, length: int | None = None) -> dict[str, Any]:
    return {"id": name, "severity": severity, "length": length, "message": message, "fix": fix}


def _odds(log_ratio: float) -> str:
    if log_ratio > math.log(1e6):
        return f"1e{min(999, int(log_ratio / math.log(10.0)))}"
    return f"{math.exp(log_ratio):,.0f}"
