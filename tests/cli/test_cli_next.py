"""Every command line that is printed for the user runs as it is printed, whatever the path looks like.

Each line is split as a shell would and read by the real parser, with the words that stand for something of the user's
own (OUT, FILE, RUN, ...) left as they are; those that cost nothing are run as well.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from ropewalk.cli.main import ropewalk as program
from ropewalk.evaluation.result import Controls, LossRow
from ropewalk.evaluation.verdict.sentences import About, next_command
from ropewalk.evaluation.verdict.words import next_step
from ropewalk.hemp import folder as hemp_folder

MODELS = ["model", "my model", "-model", "-odd 'mödel' $x", "a  b"]
_QUOTED = re.compile(r"`(ropewalk [^`]+)`")
_LINE = re.compile(r"^(?:Next: |next: |\$ |\s+)?((?:accelerate launch .* -m )?ropewalk .+)$")


def lines_in(text: str) -> list[str]:
    """The command lines that a text offers: between backticks, and lines of their own.

    The bare name of a command, or of one of its options, is a mention and no line.
    """
    found = [line for line in _QUOTED.findall(text) if not re.match(r"ropewalk \S+(?: -.*)?$", line)]
    for line in text.splitlines():
        matched = _LINE.match(line)
        if matched and not line.startswith("ropewalk: "):
            found.append(matched.group(1))
    return found


def texts_in(document: Any) -> Iterator[str]:
    if isinstance(document, str):
        yield document
    elif isinstance(document, dict | list):
        for item in document.values() if isinstance(document, dict) else document:
            yield from texts_in(item)


def words_of(line: str) -> list[str]:
    """The words behind `ropewalk`, as a shell makes them; what follows a # is a remark."""
    words = shlex.split(line, comments=True)
    return words[words.index("ropewalk") + 1 :]


def parsed(line: str) -> dict[str, Any]:
    """What the real parser makes of a line: every value of its command."""
    name, *rest = words_of(line)
    command: click.Command | None = program.get_command(click.Context(program), name)
    while isinstance(command, click.Group):
        name, *rest = rest
        command = command.get_command(click.Context(command), name)
    assert command is not None, line
    with command.make_context(name, rest) as context:
        return dict(context.params)


@pytest.fixture
def here(llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a tiny model under each of the names."""
    for name in MODELS:
        shutil.copytree(llama_folder, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hemp's configuration without its weights."""
    folder = tmp_path_factory.mktemp("plain")
    for file in hemp_folder().iterdir():
        if file.suffix == ".json":
            shutil.copy(file, folder / file.name)
    return folder


def given_as(name: str) -> str:
    return f"./{name}" if name.startswith("-") else name


COMMANDS: list[tuple[str, ...]] = [
    ("methods",),
    ("methods", "yarn"),
    ("methods", "linear"),
    ("inspect", "MODEL", "--target", "4k"),
    ("inspect", "BROKEN"),
    ("plan", "MODEL", "--target", "4k", "--memory", "24GB"),
    ("plan", "MODEL", "--target", "4k", "--gpus", "2", "-o", "-my recipe.yaml"),
    ("plan", "BROKEN", "--target", "4k"),
    ("plan", "MODEL", "--target", "512"),
    ("extend", "MODEL", "--target", "4k", "--weights", "none", "-o", "my out"),
    ("extend", "BROKEN", "--repair", "--dry-run"),
    ("extend", "STRETCHED", "--target", "1k", "-o", "out"),
    ("verify", "MODEL"),
    ("eval", "MODEL", "--lengths", "1k"),
    ("compare", "MODEL", "--target", "4k"),
    ("tune", "MODEL", "--target", "4k"),
    ("generate", "MODEL", "a"),
    ("train", "MODEL"),
    ("train", "--resume", "-o", "my run"),
    ("export", "MODEL", "--method", "yarn", "--factor", "8"),
    ("export", "MODEL", "--method", "mrrope-pro", "--factor", "8", "--to", "ollama,exllama"),
    ("recipes", "ls"),
    ("recipes", "show", "nothing"),
    ("runs", "ls"),
    ("runs", "show", "nothing"),
    ("report", "nothing", "-o", "r.html"),
    ("plot", "loss-length", "MODEL", "-o", "x.svg"),
    ("plot", "wavelength"),
]


def _write_variants(folder: Path) -> None:
    """A broken configuration and a stretched one beside each model, under a name just as odd."""
    plain = json.loads((folder / "config.json").read_text())
    for word, entry in (
        ("broken", {"rope_type": "yarm", "factor": 8.0}),
        ("stretched", {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512}),
    ):
        made = plain | {"rope_scaling": entry, "max_position_embeddings": 4096}
        made.pop("rope_parameters", None)
        target = folder.parent / f"{folder.name} {word}"
        target.mkdir()
        (target / "config.json").write_text(json.dumps(made))


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_what_a_command_advises_can_be_pasted(
    here: Path, cli: Callable[..., Any], words: tuple[str, ...], as_json: bool
) -> None:
    name = MODELS[3]
    _write_variants(here / name)
    places = {
        "MODEL": given_as(name),
        "BROKEN": given_as(f"{name} broken"),
        "STRETCHED": given_as(f"{name} stretched"),
    }
    done = cli(*[places.get(word, word) for word in words], *(["--json"] if as_json else []))
    assert "Traceback" not in done.err
    offered = lines_in(done.err)
    if as_json:
        offered += [line for text in texts_in(json.loads(done.out)) for line in lines_in(text)]
    else:
        offered += lines_in(done.out)
    for line in offered:
        values = parsed(line)
        # A path of ours that is named must be one that is there.
        for value in values.values():
            if isinstance(value, str) and "mödel" in value:
                assert Path(value).exists() or Path(value).parent.exists(), line


@pytest.mark.parametrize("name", MODELS)
def test_the_lines_of_plan_name_the_model_that_was_planned(
    here: Path, cli: Callable[..., Any], name: str
) -> None:
    done = cli("plan", given_as(name), "--target", "4k")
    offered = [line for line in lines_in(done.out) if "ropewalk methods" not in line]
    models = [parsed(line).get("model") for line in offered]
    named = [model for model in models if model not in (None, "MODEL")]
    assert len(named) >= 3
    assert all(Path(model).samefile(here / name) for model in named)
    # What is cheap is run: the recipe, and the extension of a model without weights.
    for line in offered:
        words = words_of(line)
        if words[0] == "plan":
            assert cli(*words).code == 0, line
        if words[0] == "extend":
            assert cli(*words, "--weights", "none").code == 0, line


@pytest.mark.parametrize("name", MODELS)
def test_after_extend_verify_finds_what_was_written(here: Path, cli: Callable[..., Any], name: str) -> None:
    out = f"{name} out"
    done = cli("extend", given_as(name), "--target", "4k", "--weights", "none", "-o", out)
    assert done.code == 0, done.err
    [line] = [line for line in lines_in(done.out) if line.startswith("ropewalk verify")]
    assert Path(parsed(line)["checkpoint"]).samefile(here / out)
    assert cli(*words_of(line), "--allow-unproven").code == 0


@pytest.mark.parametrize("name", MODELS)
def test_the_way_out_of_a_broken_configuration_mends_it(
    here: Path, cli: Callable[..., Any], name: str
) -> None:
    _write_variants(here / name)
    path = here / f"{name} broken" / "config.json"
    document = json.loads(path.read_text())
    # Another spelling of a stock type, which a repair can mend.
    document["rope_scaling"] = {
        "rope_type": "YaRN",
        "factor": 8.0,
        "original_max_position_embeddings": 512,
    }
    path.write_text(json.dumps(document))
    done = cli("inspect", given_as(f"{name} broken"))
    line = next(
        line for line in lines_in(done.out) if words_of(line)[1:2] != ["MODEL"] and "--repair" in line
    )
    assert cli(*words_of(line), "--weights", "none").code == 0
    assert json.loads((here / "OUT" / "config.json").read_text())["rope_scaling"]["rope_type"] == "yarn"


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("state", ["worse", "half", "holds", "unknown"])
def test_the_line_after_an_evaluation(name: str, state: str) -> None:
    rows = [
        LossRow(
            length=4096, loss=1.0, perplexity=2.7, ci=None, tail_loss=1.0, tail_ci=None, units=4,
            tail_gain=-1.0 if state == "worse" else 0.1,
        )
    ]  # fmt: skip
    effective = {"length": 4096 if state == "holds" else None, "evidence": []}
    controls = Controls(cropped=[] if state == "half" else rows)
    line = next_step(given_as(name), [1024, 4096], [] if state == "half" else rows, controls, effective)
    values = parsed(line)
    command = {"worse": "compare", "half": "eval", "holds": "eval", "unknown": "inspect"}[state]
    assert words_of(line)[0] == command
    assert values["model"] == given_as(name)
    if state == "holds":
        assert values["lengths"] in ("8k", [8192], (8192,))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("closing", ["extend", "measure", "tune", "train"])
@pytest.mark.parametrize(
    "row",
    [
        {"kind": "schedule", "method": "yarn", "name": "yarn"},
        {"kind": "schedule", "method": "ntk", "name": "ntk, reaching", "variant": "reaching", "factor": 17.3},
        {
            "kind": "schedule", "method": "yarn", "name": "yarn, fitted betas", "variant": "fitted betas",
            "parameters": {"beta_fast": 8.0, "beta_slow": 0.5, "truncate": False},
        },
        {"kind": "schedule", "method": "tuned", "name": "fitted", "file": "-my runs/schedule.json"},
        {"kind": "schedule", "method": "yarn", "name": "as is", "variant": "as is"},
        {"kind": "zones", "method": "zones", "name": "zones"},
    ],
    ids=lambda row: row["name"],
)  # fmt: skip
def test_the_line_after_a_comparison(name: str, closing: str, row: dict[str, Any]) -> None:
    from types import SimpleNamespace

    usual = {"variant": "", "file": None, "parameters": {}, "factor": 8.0}
    about = About.__new__(About)
    object.__setattr__(about, "model", given_as(name))
    object.__setattr__(about, "target_length", 4096)
    line = next_command(closing, SimpleNamespace(**usual | row), about)  # type: ignore[arg-type]
    values = parsed(line)
    assert values["model"] == given_as(name)
    if closing == "extend" and row["kind"] == "schedule" and row["name"] != "as is":
        assert values.get("schedule") == row.get("file")


@pytest.mark.parametrize("name", MODELS)
def test_runs_show_names_the_page_of_this_run(here: Path, cli: Callable[..., Any], name: str) -> None:
    from ropewalk.runs import create_run

    with create_run("eval", {"model": name}, path=here / f"{name} run") as run:
        run.write_json("result.json", {"loss": []})
    done = cli("runs", "show", given_as(f"{name} run"))
    assert done.code == 0, done.err
    [line] = [line for line in lines_in(done.out) if line.startswith("ropewalk report")]
    [path] = parsed(line)["runs"]
    assert Path(path).samefile(here / f"{name} run")


@pytest.mark.parametrize("name", MODELS)
def test_every_line_of_the_demo_is_what_it_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tour with each stop's work left out: what would have run, beside what is printed, in a narrow terminal."""
    from types import SimpleNamespace

    from ropewalk.cli import compare_view, demo
    from ropewalk.evaluation import compare as compare_module

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "40")
    ran: list[list[str]] = []
    compared: list[dict[str, Any]] = []
    row = SimpleNamespace(
        file=None, method="yarn", variant="fitted betas", parameters={"beta_fast": 8.0}, factor=8.0
    )
    verdict = SimpleNamespace(recommended="yarn, fitted betas", model_dump=lambda mode: {})
    result = SimpleNamespace(target_length=4096, verdict=verdict, row=lambda name: row)
    monkeypatch.setattr(program, "main", lambda args, **options: ran.append(list(args)))
    monkeypatch.setattr(compare_view, "show", lambda *given, **options: None)
    monkeypatch.setattr(
        compare_module, "compare", lambda model, **given: compared.append({"model": model} | given) or result
    )
    demo.Tour(Path(name), "8x", 3, True).run()
    offered = [line for line in lines_in(capsys.readouterr().out) if "PATH_OR_HUB_ID" not in line]
    assert [words_of(line)[0] for line in offered] == ["inspect", "compare", "extend", "verify", "report"]
    assert [words_of(line) for line in offered if words_of(line)[0] != "compare"] == ran
    values = [parsed(line) for line in offered]
    # What stands in the line is what was compared.
    [given] = compared
    assert {key: str(values[1][key]) for key in (*demo.CHOSEN, "seed", "model", "target")} == {
        key: str(given[key]) for key in (*demo.CHOSEN, "seed", "model", "target")
    }
    assert Path(values[1]["output"]) == given["output"] == Path(name) / "compare"
    assert Path(values[3]["checkpoint"]) == Path(values[2]["output"]) == Path(name) / "hemp-extended"
    assert [Path(run) for run in values[4]["runs"]] == [Path(name) / "compare"]


def test_a_line_that_the_parser_refuses_is_noticed() -> None:
    """The measure itself: these are refused."""
    for line in ("ropewalk plan", "ropewalk verify -model", "ropewalk compare my model --target 4k"):
        with pytest.raises(Exception, match=r"Missing|No such option|unexpected|Usage|multiple"):
            parsed(line)
    assert CliRunner().invoke(program, ["methods", "yarn"]).exit_code == 0
