"""`ropewalk demo`: the tour. Each stop is a command that the user can repeat on a model of their own."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ropewalk.cli.common import console, contract, emit_json, quiet_option, seed_option
from ropewalk.errors import GateMissedError, RopewalkError, shown_command
from ropewalk.files import as_path

if TYPE_CHECKING:
    from ropewalk.evaluation.result import CompareResult

MODEL = "hemp"
ROWS_SHOWN = 8
# The methods that people ask for, with their variants, on enough text for a verdict: all of them take twice as long.
CHOSEN: dict[str, Any] = {"methods": "linear,ntk,by-parts,yarn,llama3", "max_segments": 4, "samples": 2}


@click.command()
@click.option(
    "-o", "--output", metavar="DIR", help="Where everything goes; by default a new folder demo-out."
)
@click.option("--target", default="8x", show_default=True, help="Target length, or a multiple of the window.")
@seed_option
@quiet_option
@contract
def command(output: str | None, target: str, seed: int, quiet: bool, as_json: bool) -> None:
    """From nothing to a verdict on the bundled model: inspect, compare, extend, verify, report. No network, no GPU.

    Ctrl-C keeps what is finished; the same call with -o DIR goes on from there.
    """
    tour = Tour(_fresh_folder() if output is None else as_path(output, "output"), target, seed, quiet)
    document = tour.run()
    if as_json:
        emit_json(document)


def _fresh_folder() -> Path:
    base, number = Path("demo-out"), 1
    while (folder := base if number == 1 else Path(f"{base}-{number}")).exists():
        number += 1
    return folder


class Tour:
    """The stops in their order, and what each left behind."""

    def __init__(self, folder: Path, target: str, seed: int, quiet: bool) -> None:
        self.folder, self.target, self.seed, self.quiet = folder, target, seed, quiet
        self.screen = console()
        self.began = time.monotonic()
        self.steps: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        """The whole tour; the document of `demo --json`."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RopewalkError(
                f"cannot make the folder {self.folder} ({error.strerror})", hint="name another with -o"
            ) from error
        self._call(
            "what is this model's RoPE, and what breaks past its window?", shown_command("inspect", MODEL)
        )
        result = self._compare()
        extended = self._extend(result)
        if extended is not None:
            line = shown_command("verify", extended)
            self._call("is the scaling active, and the same in stock software?", line)
        page = self.folder / "report.html"
        self._call("all of it on one page", shown_command("report", self.folder / "compare", o=page))
        self._farewell(page)
        return {
            "model": MODEL,
            "target_length": result.target_length,
            "verdict": result.verdict.model_dump(mode="json"),
            "compare": str(self.folder / "compare"),
            "extended": None if extended is None else str(extended),
            "report": str(page),
            "steps": self.steps,
            "seconds": round(time.monotonic() - self.began, 1),
        }

    def _heading(self, about: str, line: str) -> list[str]:
        """Show what comes and the line that does it, unbroken so that it can be pasted; the words behind `ropewalk`."""
        self.screen.rule(style="dim")
        self.screen.print(about[0].upper() + about[1:], style="bold", markup=False)
        self.screen.print(f"$ {line}\n", style="cyan", markup=False, soft_wrap=True)
        return shlex.split(line)[1:]

    def _call(self, about: str, line: str) -> None:
        """Run another command in this process. A missed gate is shown and the tour goes on; a failure ends it."""
        from ropewalk.cli.main import ropewalk

        words = self._heading(about, line)
        began = time.monotonic()
        code = 0
        try:
            # In standalone mode click would end the process with the first stop.
            ropewalk.main(args=words, prog_name="ropewalk", standalone_mode=False)
        except GateMissedError as missed:
            code = missed.exit_code
            self.screen.print(str(missed), style="yellow", markup=False)
        except click.exceptions.Exit as left:
            code = left.exit_code
        if code not in (0, GateMissedError.exit_code):
            raise RopewalkError(f"`{line}` ended with code {code}", hint="run it alone to see why")
        self.steps.append({"command": words, "code": code, "seconds": round(time.monotonic() - began, 1)})

    def _compare(self) -> CompareResult:
        """The comparison, or the one that an earlier call of this demo finished in the same folder."""
        from ropewalk.cli.compare_view import show
        from ropewalk.cli.progress import Bar
        from ropewalk.evaluation.compare import compare

        run = self.folder / "compare"
        line = shown_command("compare", MODEL, target=self.target, **CHOSEN, seed=self.seed or None, o=run)
        words = self._heading("which method stretches it best, and is any worth it?", line)
        began = time.monotonic()
        result = _finished(run)
        if result is None:
            with Bar(quiet=self.quiet) as bar:
                result = compare(
                    MODEL,
                    target=self.target,
                    **CHOSEN,
                    seed=self.seed,
                    output=run,
                    on_step=bar.compared,
                )
        show(self.screen, result, limit=ROWS_SHOWN)
        self.steps.append({"command": words, "code": 0, "seconds": round(time.monotonic() - began, 1)})
        return result

    def _extend(self, result: CompareResult) -> Path | None:
        """A checkpoint with the recommended schedule."""
        from ropewalk.evaluation.verdict.sentences import extend_command

        name = result.verdict.recommended
        if name is None:
            return None
        out = self.folder / f"{MODEL}-extended"
        # A tour that is taken again in its folder replaces the checkpoint that is its own.
        line = extend_command(MODEL, result.row(name), result.target_length, str(out), force=out.exists())
        self._call("write the recommended one into a checkpoint that stock software loads", line)
        return out

    def _farewell(self, page: Path) -> None:
        seconds = time.monotonic() - self.began
        self.screen.rule(style="dim")
        self.screen.print(
            f"Done in {seconds:.0f} s. Everything is in {self.folder}.",
            style="bold",
            markup=False,
            soft_wrap=True,
        )
        self.screen.print(f"Open the report: {page.resolve().as_uri()}", markup=False, soft_wrap=True)
        self.screen.print("\nYour own model, one step after the other:", markup=False)
        for line in (
            "inspect PATH_OR_HUB_ID",
            "plan PATH_OR_HUB_ID --target 32k",
            "compare PATH_OR_HUB_ID --target 32k",
        ):
            self.screen.print(f"  ropewalk {line}", style="cyan", markup=False)


def _finished(run: Path) -> CompareResult | None:
    from ropewalk.evaluation.result import CompareResult
    from ropewalk.runs import open_run

    if not (run / "manifest.json").is_file():
        return None
    stored = open_run(run)
    if stored.status != "complete":
        return None
    document = stored.read_json()
    # Results of earlier versions lack it, and pydantic's list of what is missing would help nobody.
    if "request" not in document:
        raise RopewalkError(
            f"{run} holds a comparison of an older version",
            hint="choose another -o; `ropewalk report` still reads it",
        )
    return CompareResult.model_validate(document)
