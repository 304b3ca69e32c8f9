"""`ropewalk.export`: what each program needs, on disk and complete, whole or not at all."""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ropewalk.errors import RopewalkError, UsageError, one_line
from ropewalk.files import as_path, whole_folder, write_json, write_text
from ropewalk.models.checkpoint import companions
from ropewalk.models.checkpoint.manifest import write_manifest
from ropewalk.models.checkpoint.output import check_output, refuse_overlap
from ropewalk.models.checkpoint.weights import MODES, Mode, bring_all, find_weights
from ropewalk.models.source import Place, is_gguf, locate
from ropewalk.models.stretch import ScheduleFile
from ropewalk.runtimes.base import Job, Runtime
from ropewalk.runtimes.export import Exported, ExportResult, export_config, with_files
from ropewalk.runtimes.gguf.convert import TYPES, convert
from ropewalk.runtimes.gguf.schedule import rewrite
from ropewalk.runtimes.registry import find_runtime
from ropewalk.schedule import FrequencySchedule

RESULT = "ropewalk-export.json"
# Of a ladder, instead.
ROUTER = "router.json"
MODEL_FILE = "model.gguf"


@dataclass(frozen=True)
class Materials:
    """What an export is made of: the model's place, a GGUF file to copy where one was given, how weights come along,
    and the float type of a GGUF file that is converted."""

    place: Place
    gguf: Path | None = None
    weights: Mode = "link"
    dtype: str = "auto"

    @property
    def sources(self) -> list[Path]:
        """What no output may touch."""
        return [self.place.untouchable, *([] if self.gguf is None else [self.gguf])]

    def check(self) -> None:
        """UsageError for choices that do not exist."""
        if self.weights not in MODES:
            raise UsageError(
                f"weights={one_line(self.weights, 40)!r} is not a choice", hint=f"use {', '.join(MODES)}"
            )
        if self.dtype not in TYPES:
            raise UsageError(
                f"dtype={one_line(self.dtype, 40)!r} is not a choice", hint=f"use {', '.join(TYPES)}"
            )


def export(
    source: str | Path,
    method: str | FrequencySchedule | ScheduleFile | None = None,
    *,
    to: str | Sequence[str] | None = None,
    output: str | Path | None = None,
    gguf: str | Path | None = None,
    gguf_type: str = "auto",
    weights: Mode = "link",
    force: bool = False,
    **stretch: Any,
) -> ExportResult:
    """A model's stretch for the programs that serve it: described, and with `output` written.

    `stretch` takes what `export_config` takes: factor, target, parameters, layers, allow_approximate. `gguf` is an
    existing file of this very model to copy for llama.cpp and ollama; without it the checkpoint is converted.
    """
    if output is not None and to is None:
        raise UsageError("nothing says for which program to write", hint="name it: --to vllm")
    result = export_config(source, method, to=to, **stretch)
    if output is None:
        return result
    empty = [made for made in result.exports if made.fragment is None]
    if empty:
        raise RopewalkError(
            f"nothing can be written for {empty[0].title}: {empty[0].answer.reason}",
            hint="" if empty[0].nearest is None else empty[0].nearest.describe(),
        )
    materials = materials_for(source, result.exports, gguf, weights, gguf_type)
    return write_export(result, materials, as_path(output, "output"), force=force)


def write_export(
    result: ExportResult, materials: Materials, out: Path, *, force: bool = False, final: Path | None = None
) -> ExportResult:
    """Write every program's part of a result to `out`; nothing is left behind where any part fails.

    One program: `out` is its folder, or its file where the name ends in .gguf or .json. Several: one folder each
    inside `out`. `final` is where `out` will be in the end, where a caller moves it.
    """
    materials.check()
    alone = len(result.exports) == 1
    if alone and out.suffix in (".gguf", ".json"):
        return replace(
            result, exports=(_one_file(result.job, result.exports[0], materials, out, force=force),)
        )
    check_folder(out, materials, force=force)
    written = []
    with whole_folder(out, force=force) as working:
        for made in result.exports:
            inside = Path() if alone else Path(made.runtime)
            (working / inside).mkdir(exist_ok=True)
            place = (final or out) / inside
            names, command = _write_one(result.job, made, materials, working / inside, place)
            written.append(with_files(made, [str(place / name) for name in names], command))
        finished = replace(result, exports=tuple(written))
        # A checkpoint alone has its manifest, and is replaced by the rules for checkpoints.
        if not (alone and find_runtime(written[0].runtime).output == "folder"):
            write_json(working / RESULT, finished.to_json())
    return finished


def check_folder(out: Path, materials: Materials, *, force: bool) -> None:
    """Refuse an output that would touch a source, or replace what no export of ours and no checkpoint is."""
    for source in materials.sources:
        refuse_overlap(out, source)
    if force and any((out / name).is_file() for name in (RESULT, ROUTER)):
        # An earlier export of ours is no checkpoint, and may be replaced all the same.
        return
    check_output(out, materials.place.untouchable, force=force)


def _one_file(job: Job, made: Exported, materials: Materials, out: Path, *, force: bool) -> Exported:
    program = find_runtime(made.runtime)
    wanted = {"gguf": ".gguf", "overrides": ".json"}.get(program.output)
    if wanted != out.suffix:
        raise UsageError(
            f"{program.title} takes no {out.suffix} file",
            hint=f"write {'a ' + wanted + ' file' if wanted else 'a folder'}: -o OUT{wanted or ''}",
        )
    for source in materials.sources:
        refuse_overlap(out, source)
    if (out.exists() or out.is_symlink()) and not force:
        raise RopewalkError(
            f"{out} already exists", hint="choose another output, or pass --force to replace it"
        )
    assert made.fragment is not None
    if program.output == "overrides":
        write_json(out, dict(made.fragment.content))
        return with_files(made, [str(out)], _over(made, materials.place.folder))
    # Under the file's own name, since a folder may hold more than one; the launch line names it so too.
    beside = {name: out.with_suffix(f".{name}") for name in program.beside(job, out.name)}
    taken = [path for path in beside.values() if path.exists() and not force]
    if taken:
        raise RopewalkError(f"{taken[0]} already exists", hint="choose another output, or pass --force")
    _write_gguf(job, made, materials, out)
    command = _over(made, out.absolute())
    for name, text in program.beside(job, out.name).items():
        write_text(beside[name], text)
        command = command.replace(f" {name}", f" {shlex.quote(str(beside[name].absolute()))}")
    return with_files(made, [str(out), *map(str, beside.values())], command)


def _write_one(
    job: Job, made: Exported, materials: Materials, working: Path, final: Path
) -> tuple[list[str], str | None]:
    """One program's files in a folder, by name, and the line that starts it from its final place."""
    assert made.fragment is not None
    program = find_runtime(made.runtime)
    if program.output == "folder":
        return _write_checkpoint(job, made, materials, working), None
    if program.output == "overrides":
        write_json(working / "overrides.json", dict(made.fragment.content))
        command = _over(made, materials.place.folder.absolute())
        return ["overrides.json", *_script(working, command)], command
    _write_gguf(job, made, materials, working / MODEL_FILE)
    extra = program.beside(job, MODEL_FILE)
    for name, text in extra.items():
        write_text(working / name, text)
    command = _over(made, (final / MODEL_FILE).absolute())
    if extra:
        command = f"cd {shlex.quote(str(final.absolute()))} && {command}"
    return [MODEL_FILE, *extra, *_script(working, command)], command


def _over(made: Exported, model: Path) -> str:
    """The launch line over the files that were written, or over the checkpoint."""
    assert made.fragment is not None
    command = made.fragment.command or ""
    quoted = shlex.quote(str(model))
    for placeholder in ("MODEL.gguf", "MODEL"):
        # As a word of its own, and once: overrides in the same line may hold the same letters.
        if f" {placeholder} " in f"{command} ":
            return f"{command} ".replace(f" {placeholder} ", f" {quoted} ", 1).strip()
    return command


def _script(working: Path, command: str) -> list[str]:
    path = working / "serve.sh"
    write_text(path, f"#!/bin/sh\n{command}\n")
    path.chmod(0o755)
    return ["serve.sh"]


def _write_gguf(job: Job, made: Exported, materials: Materials, target: Path) -> None:
    assert made.fragment is not None
    content: Mapping[str, Any] = made.fragment.content
    if materials.gguf is not None:
        rewrite(materials.gguf, target, job.facts, content["metadata"], content["tensors"])
        return
    made_of = (content["metadata"], content["tensors"])
    convert(materials.place.folder, target, job.facts, *made_of, dtype=materials.dtype)


def _write_checkpoint(job: Job, made: Exported, materials: Materials, working: Path) -> list[str]:
    """A checkpoint folder whose config.json says the schedule in the program's own keys."""
    assert made.fragment is not None
    config = folder_config(job, made.fragment.content)
    write_json(working / companions.CONFIG, config)
    lengths = companions.Lengths(job.target_length, job.facts.max_position_embeddings)
    names = companions.copy_companions(materials.place, working, lengths, with_code=False)
    shards: list[str] = []
    mode = materials.weights
    if mode != "none":
        shards, mode, _ = bring_all(find_weights(materials.place.folder), working, mode)
    done = {
        "source": str(materials.place.folder),
        "command": f"ropewalk export {shlex.quote(str(materials.place.folder))} --to {made.runtime}",
        "schedule": job.schedule.to_json(),
        "target_length": job.target_length,
        "layers": job.layers,
        "runtime": made.runtime,
        "weights": mode,
    }
    write_manifest(working, materials.place, done)
    return [companions.CONFIG, *names, *shards]


def folder_config(job: Job, content: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that carries the schedule, with one program's fragment laid over it key by key."""
    assert job.carried is not None
    config = copy.deepcopy(job.carried.config)
    text, fragment = config, content
    for key in job.facts.text_path:
        text, fragment = text[key], fragment[key]
    # A null is written too: it undoes an older rope_scaling, which would win over rope_parameters.
    text |= json.loads(json.dumps(dict(fragment)))
    return config


def materials_for(
    source: str | Path, exports: Sequence[Exported], gguf: str | Path | None, weights: Mode, dtype: str
) -> Materials:
    """Where the files come from. Weights must be there for programs whose export holds them."""
    programs: list[Runtime] = [find_runtime(made.runtime) for made in exports]
    folders = any(program.output == "folder" for program in programs) and weights != "none"
    place = locate(source)
    if is_gguf(place.config):
        others = [program.title for program in programs if program.output != "gguf"]
        if others:
            raise RopewalkError(
                f"{place.config} is a GGUF file, and nothing is known of what {', '.join(others)} makes of one",
                hint="give the Hugging Face folder that it was made from, or --to llama.cpp",
            )
        return Materials(place, Path(gguf or place.config), weights, dtype)
    converts = any(program.output == "gguf" for program in programs) and gguf is None
    return Materials(
        locate(source, need_weights=folders or converts), None if gguf is None else Path(gguf), weights, dtype
    )
