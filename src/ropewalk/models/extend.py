"""`extend`: a checkpoint with a longer window, written as configuration only; the weights are linked, never read."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.errors import RopewalkError, UsageError, one_line, renamed, shown_command
from ropewalk.files import as_path, whole_folder, write_bytes, write_json, write_text
from ropewalk.models.checkpoint import companions
from ropewalk.models.checkpoint import weights as weight_files
from ropewalk.models.checkpoint.card import card_with
from ropewalk.models.checkpoint.job import Extended, Finish, Ready, Request, result_of
from ropewalk.models.checkpoint.manifest import write_manifest
from ropewalk.models.checkpoint.origin import fitted_elsewhere
from ropewalk.models.checkpoint.output import check_output
from ropewalk.models.config import read_config, tokenizer_settings
from ropewalk.models.defects.changes import changes
from ropewalk.models.defects.encoding import encoding_rules
from ropewalk.models.defects.findings import find
from ropewalk.models.defects.model import nothing_to_stretch
from ropewalk.models.defects.repair import repaired_config, with_original
from ropewalk.models.drafts import difference, draft_folders, prediction_layers
from ropewalk.models.facts import ModelFacts, read_facts
from ropewalk.models.load import refuse_remote_code
from ropewalk.models.source import Place, is_gguf, locate
from ropewalk.models.stretch import Stretch, already_reaches, stretch_for
from ropewalk.models.structure.values import naming
from ropewalk.models.writing.carrier import carry
from ropewalk.schedule import FrequencySchedule
from ropewalk.units import format_bytes

# Where a draft model goes inside the extended checkpoint.
DRAFT = "draft"


@renamed(out="output")
def extend(
    source: str | Path,
    *,
    output: str | Path | None = None,
    target: str | int | None = None,
    factor: float | None = None,
    method: str = "yarn",
    params: Mapping[str, Any] | None = None,
    schedule: FrequencySchedule | str | Path | None = None,
    weights: weight_files.Mode = "link",
    layers: str = "full",
    force: bool = False,
    trust_remote_code: bool = False,
    repair: bool = False,
    replace: bool = False,
    original_length: int | None = None,
    draft: str | Path | None = None,
    finish: Finish | None = None,
    dry_run: bool = False,
) -> Extended:
    """Write `source` with a longer window to the folder `output`; stock software loads it without any code of ours.

    Give `target` (tokens, `32k` or `8x`) or `factor`, both counted from the ORIGINAL window, or a finished `schedule`
    (an object, or the path of its JSON file). `weights` says how the weight files come along: `link` (hard links, a
    second and no space), `symlink`, `copy` or `none`. `repair=True` mends what `inspect` finds wrong in the
    configuration, keeps the original beside it, and needs no target. A model whose own scaling reaches the target
    is refused, since a new one would shorten it or change it for nothing; `replace=True` does so all the same. The
    folder appears whole or not at all; the source is never written to.

    A repair follows the evidence in the file and in the tokenizer, and is refused where they leave two readings open;
    `original_length` then says which window was trained. Its result is read again by the real configuration class.
    `draft` is a model that drafts for this one: it is stretched alike, to the same window, into `output`/draft.
    `finish` changes the folder before its manifest is written (`ropewalk.attention.saving.folding` puts a temperature
    into the weights). `dry_run=True` does all of it but the writing.
    """
    if output is None and not dry_run:
        raise UsageError("nothing says where the checkpoint goes", hint="give -o FOLDER, or --dry-run")
    if original_length is not None and not repair:
        raise UsageError("original_length belongs to a repair", hint="add --repair")
    request = Request(
        source,
        None if output is None else as_path(output, "output"),
        target,
        factor,
        method,
        dict(params or {}),
        schedule,
        weights,
        layers,
        repair,
        replace,
        original_length,
        draft,
        finish,
    )
    place = _place(request)
    if request.out is not None:
        check_output(request.out, place.untouchable, force=force)
    refuse_remote_code(place.config, trust_remote_code)
    with naming(str(place.config)):
        ready = _ready(request, place)
    drafting = None if draft is None else _draft_ready(draft, ready, trust_remote_code, force=force)
    ready = _with_remarks(ready, drafting)
    if dry_run or request.out is None:
        return result_of(ready, (companions.CONFIG,), request.weights, dry_run=True)
    with whole_folder(request.out, force=force) as working:
        if drafting is not None:
            # The draft first, so that the manifest written last covers it.
            (working / DRAFT).mkdir()
            _write(working / DRAFT, drafting, with_code=trust_remote_code)
        return _write(working, ready, with_code=trust_remote_code)


def _draft_ready(draft: str | Path, target: Ready, trust_remote_code: bool, *, force: bool) -> Ready:
    """The draft model, ready to be stretched as its target is: by the same method, to the same window."""
    if target.made is None:
        raise UsageError("a draft goes with a stretch", hint="give a target, or leave --draft out")
    place_of_draft = target.request.out and target.request.out / DRAFT
    request = changed(
        target.request,
        source=draft,
        out=place_of_draft,
        target=target.made.target_length,
        factor=None,
        repair=False,
        draft=None,
        finish=None,
    )
    place = _place(request)
    refuse_remote_code(place.config, trust_remote_code)
    if request.out is not None:
        check_output(request.out, place.untouchable, force=force)
    try:
        with naming(str(place.config)):
            return _ready(request, place)
    except RopewalkError as error:
        raise type(error)(f"draft {draft}: {error.message}", hint=error.hint) from error


def _with_remarks(ready: Ready, drafting: Ready | None) -> Ready:
    """What the user should know about the models that draft for this one, and about files that were fitted."""
    remarks = list(prediction_layers(ready.facts))
    for folder in draft_folders(ready.place) if drafting is None else ():
        remarks.append(
            f"the folder {folder.name} holds a model of its own, which is not taken along: a draft must rotate "
            f"alike (--draft {folder})"
        )
    if drafting is not None:
        other = difference(read_facts(ready.config), read_facts(drafting.config))
        said = "is stretched like it" if other is None else f"differs from it: {other}"
        remarks.append(f"the draft {drafting.request.source} goes to {DRAFT}/ and {said}")
        remarks += [f"draft: {note}" for note in drafting.notes]
    finish = ready.request.finish
    files = (ready.request.schedule, None if finish is None else finish.name)
    remarks += fitted_elsewhere(files, ready.request.source)
    return changed(ready, notes=(*ready.notes, *remarks))


def _place(request: Request) -> Place:
    if request.weights not in weight_files.MODES:
        raise UsageError(
            f"weights={one_line(request.weights, 40)!r} is not a choice",
            hint=f"use {', '.join(weight_files.MODES)}",
        )
    place = locate(request.source)
    if is_gguf(place.config):
        command = shown_command("export", place.config, to="llama.cpp", method="yarn", factor=8, o="OUT.gguf")
        raise UsageError(
            f"{place.config} is a GGUF file, and a checkpoint folder is what extend writes",
            hint=f"write a copy of the file with a schedule in it: {command}",
        )
    if request.weights == "none" or place.is_lone_file:
        return place
    return locate(request.source, need_weights=True)


def _ready(request: Request, place: Place) -> Ready:
    config = read_config(place.config)
    fixed, repaired, remarks = config, tuple[str, ...](), tuple[str, ...]()
    if request.repair:
        fixed, repaired = _repaired(config, tokenizer_settings(place.config), request.original_length)
        # Whatever is written anew begins with its first bracket.
        repaired = (*(finding.id for finding in encoding_rules(place.config)), *repaired)
    facts = read_facts(fixed)
    # What nobody has touched stays as its maker left it, unread by stock code.
    if repaired:
        remarks = _read_again(fixed, facts)
    made, notes = _stretch(request, facts)
    notes = remarks + notes
    carried = None
    if made is not None:
        carried = carry(fixed, made.schedule, target_length=made.target_length, layers=request.layers)
        _check_carried(carried.config, made.schedule)
    written = fixed if carried is None else carried.config
    found = None
    if place.is_lone_file and request.weights != "none":
        notes += ("no weights beside the file: the configuration alone is written",)
    else:
        found = _find_weights(place.folder, request)
    made_of = changes(config, written)
    return Ready(request, place, facts, written, carried, made, found, repaired, made_of, notes)


def _find_weights(folder: Path, request: Request) -> weight_files.WeightFiles | None:
    """The weight files, checked, with room for a copy checked too; None with `weights="none"`."""
    if request.weights == "none":
        return None
    found = weight_files.find_weights(folder)
    if request.weights == "copy":
        # A dry run has no output: the room of the present folder counts.
        parent = next(path for path in (request.out or Path("x")).absolute().parents if path.exists())
        free = shutil.disk_usage(parent).free
        if found.total_bytes > free:
            raise RopewalkError(
                f"the weights need {format_bytes(found.total_bytes)} and {parent} has {format_bytes(free)} free",
                hint="pass --weights link or symlink, or write elsewhere",
            )
    return found


def _repaired(
    config: dict[str, Any], tokenizer: Mapping[str, Any] | None, original_length: int | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The mended configuration and the ids of the findings that are gone; refuses when an error is left."""
    before = find(config, tokenizer=tokenizer)
    told = config if original_length is None else with_original(config, original_length)
    fixed = repaired_config(told, tokenizer=tokenizer)
    after = find(fixed, tokenizer=tokenizer)
    left = [finding for finding in after if finding.severity == "error"]
    if left:
        raise RopewalkError(
            f"{left[0].id}: {left[0].message}", hint=left[0].fix or "only its maker can say what was meant"
        )
    still = {finding.id for finding in after}
    return fixed, tuple(dict.fromkeys(finding.id for finding in before if finding.id not in still))


def _read_again(config: Mapping[str, Any], facts: ModelFacts) -> tuple[str, ...]:
    """Read a mended configuration with the real class: it must build, and compute what we say that it means."""
    if not facts.known or facts.auto_map:
        return (
            "the mended file was not read with its own class, which is not in the installed transformers",
        )
    from ropewalk.models.live.built import NotHereError, disagreement

    try:
        other = disagreement(config, facts)
    except NotHereError as error:
        return (f"the mended file was not read with its own class: {error.message}",)
    if other is not None:
        raise RopewalkError(
            f"the mended configuration does not mean what it should to stock transformers: {other}",
            hint="please report the file; nothing was written",
        )
    return ()


def _stretch(request: Request, facts: ModelFacts) -> tuple[Stretch | None, tuple[str, ...]]:
    """What to write (None for a repair alone), and what the user should know about how it came about."""
    if request.repair and not request.stretches:
        return None, ()
    notes: tuple[str, ...] = ()
    if not request.repair:
        # Its window or base may be read wrongly because of a defect; that must not pass unseen.
        faults = [finding for finding in find(facts.config) if finding.severity == "error"]
        notes = tuple(f"inspect finds {fault.id}: {fault.message} (--repair mends first)" for fault in faults)
    # The default of the argument is there beside a schedule, too, and means nothing then.
    method = None if request.schedule is not None else request.method
    made = stretch_for(
        facts,
        method,
        target=request.target,
        factor=request.factor,
        parameters=request.params,
        schedule=request.schedule,
    )
    reached = None if request.replace else already_reaches(facts, made.target_length)
    if reached is not None:
        raise RopewalkError(
            reached,
            hint="use the model as it is, ask for more, or pass --replace to write a shorter or another stretch",
        )
    nothing = nothing_to_stretch(facts, made.target_length)
    return made, notes + made.notes + (() if nothing is None else (nothing,))


def _check_carried(config: Mapping[str, Any], made: FrequencySchedule) -> None:
    """Read the written configuration as stock software will, and compare: what was written must be what was meant."""
    rope = read_facts(config).rope
    # Not to the bit: the carrier's factors are quotients, and reading them divides again.
    same = rope.schedule is not None and np.allclose(
        rope.schedule.inv_freq, made.inv_freq, rtol=1e-9, atol=1e-25
    )
    if (
        not same
        or rope.schedule is None
        or abs(rope.schedule.attention_factor - made.attention_factor) > 1e-9
    ):
        raise RopewalkError(
            f"the configuration written for method {made.method!r} would not be read back as the same frequencies",
            hint="apply it in memory instead (ropewalk.apply), and please report the model type",
        )


def _write(working: Path, ready: Ready, *, with_code: bool) -> Extended:
    """Everything that goes into OUT; the manifest last."""
    request, place, facts, carried = ready.request, ready.place, ready.facts, ready.carried
    made = None if ready.made is None else ready.made.schedule
    length = facts.max_position_embeddings if ready.made is None else ready.made.target_length
    entry = None if carried is None else carried.entries[facts.main]
    kind = "" if entry is None else entry.kind
    companions.check_inside(place.config, place.folder)
    write_json(working / companions.CONFIG, dict(ready.config))
    if request.repair:
        write_bytes(working / f"{companions.CONFIG}.original", place.config.read_bytes())
    lengths = companions.Lengths(length, facts.max_position_embeddings)
    names = companions.copy_companions(place, working, lengths, with_code=with_code)
    if made is not None:
        base_card = place.folder / companions.CARD
        companions.check_inside(base_card, place.folder)
        card = card_with(base_card, str(request.source), made, length, request.command(), kind)
        write_text(working / companions.CARD, card)
    shards: list[str] = []
    mode, remarks = request.weights, tuple[str, ...]()
    if ready.weights is None:
        mode = "none"
    else:
        shards, mode, remarks = weight_files.bring_all(ready.weights, working, request.weights)
    # After the weights, which it changes, and before the manifest, which holds their sizes.
    finished = {} if request.finish is None else dict(request.finish(working))
    if finished:
        remarks += ("the weights hold the temperature: files with a changed tensor are written anew",)
    result = result_of(ready, (companions.CONFIG, *names, *shards), mode, remarks)
    write_manifest(
        working,
        place,
        {
            "source": str(request.source),
            "command": result.command,
            "schedule": None if made is None else made.to_json(),
            "target_length": length,
            "layers": request.layers,
            "repaired": list(ready.repaired),
            "weights": mode,
            **finished,
        },
    )
    return result
