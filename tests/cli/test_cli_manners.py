"""Manners: full disks, interrupts, huge factors, -q and --json everywhere, lines that run as printed."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import click
import pytest

from ropewalk.cli.common import keeping
from ropewalk.cli.main import COMMANDS, main, ropewalk
from tiny_configs import LLAMA as CONFIG


def _commands():
    """Every command that does something, as its words."""
    context = click.Context(ropewalk)
    for name in COMMANDS:
        command = ropewalk.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", found) for inner, found in command.commands.items())
        else:
            yield name, command


@pytest.mark.parametrize(("name", "command"), list(_commands()), ids=lambda value: str(value)[:20])
def test_every_command_takes_quiet_json_and_debug(name, command):
    options = [option for parameter in command.params for option in parameter.opts]
    assert {"--json", "--debug", "-q", "--quiet"} <= set(options)
    assert options.count("--quiet") == 1


def test_quiet_leaves_out_remarks_and_nothing_else(cli, tmp_path):
    model = tmp_path / "m.json"
    model.write_text(json.dumps(CONFIG))
    loud, quiet = cli("plan", model, "--target", "8x"), cli("plan", model, "--target", "8x", "-q")
    assert set(quiet.out.splitlines()) < set(loud.out.splitlines())
    assert cli("methods", "-q").out == cli("methods").out


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize(
    "words", [["methods", "--json"], ["methods"], ["--help"], ["plan", "hemp", "--target", "2x"]]
)
def test_a_full_disk_is_one_line(words):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "ropewalk", *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "ropewalk: cannot write (No space left on device): make room there, or give the output another place"
    ]


def _in_shell(line, **environment):
    command = line.replace("ropewalk", f"{shlex.quote(sys.executable)} -m ropewalk")
    return subprocess.run(command, shell=True, capture_output=True, check=False, env=os.environ | environment)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("ropewalk inspect - <&-", 1, b"standard input is empty"),
        ("ropewalk methods >&-", 0, b""),
        ("ropewalk methods nothing 2>&-", 2, b""),
    ],
)
def test_closed_streams_are_no_fault_of_ours(line, code, said):
    done = _in_shell(line)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert b"unexpected" not in done.stderr


@pytest.mark.parametrize("environment", [{}, {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}])
def test_a_name_that_is_not_utf_8_is_shown_escaped(tmp_path, environment):
    path = os.fsencode(tmp_path) + b"/m\xff \xc3\xb6.json"
    with open(path, "w") as file:
        json.dump(CONFIG, file)
    line = f"ropewalk inspect {shlex.quote(os.fsdecode(path))}"
    for words in ("", " --json"):
        done = _in_shell(line + words, **environment)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["source"].endswith("/m\udcff ö.json")


def test_more_than_a_configuration_on_standard_input_is_refused_by_its_size(cli, monkeypatch):
    import io

    import ropewalk.models.config as module

    monkeypatch.setattr(module, "MAX_BYTES", 100)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(CONFIG).encode())))
    done = cli("inspect", "-")
    assert done.code == 1
    assert "standard input has more than 100 bytes" in done.complaint


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("ropewalk.cli.main", "nothing had begun"),
        ("click", "nothing had begun"),
        ("ropewalk.cli.methods", "nothing was kept; run the same line again"),
        ("numpy", "nothing was kept; run the same line again"),
    ],
)
def test_an_interrupt_while_something_loads_is_an_interrupt(module, said):
    """The first tenth of a second is imports: one at each stage of the start."""
    code = (
        "import sys\n"
        "class Stop:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Stop())\n"
        "sys.argv = ['ropewalk', 'methods']\n"
        "from ropewalk.__main__ import run\n"
        "run()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert done.stderr.strip() == f"ropewalk: interrupted: {said}"


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (None, "nothing was kept; run the same line again"),
        ("finished methods are kept in RUN", "finished methods are kept in RUN"),
    ],
)
@pytest.mark.parametrize("as_json", [True, False])
def test_an_interrupt_claims_what_was_kept(cli, monkeypatch, kept, said, as_json):
    import importlib

    def stopped():
        with keeping(kept):
            raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("ropewalk.methods"), "methods", stopped)
    done = cli("methods", *(["--json"] if as_json else []))
    assert done.code == 130
    assert done.complaint == f"ropewalk: interrupted: {said}"
    if as_json:
        assert done.json == {
            "error": {"type": "RopewalkError", "message": "interrupted", "hint": said},
            "exit_code": 130,
        }


HUGE = {
    "yarn factor": {
        "rope_scaling": {"rope_type": "yarn", "factor": 1e308, "original_max_position_embeddings": 512}
    },
    "linear factor": {"rope_scaling": {"rope_type": "linear", "factor": 1e308}},
    "base": {"rope_theta": 1e300},
    "window": {"max_position_embeddings": 1 << 45},
    "vocabulary": {"vocab_size": 10**14},
    "experts": {"num_experts": 10**30, "num_local_experts": 10**30},
    "quantised by nothing": {"quantization_config": {"quant_method": "fp8", "weight_block_size": [0, 128]}},
}


@pytest.mark.parametrize("name", list(HUGE))
@pytest.mark.parametrize("words", [["inspect"], ["plan", "--target", "8x", "--despite-errors"]])
def test_huge_values_in_a_file_are_never_a_traceback(cli, tmp_path, name, words):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG | HUGE[name]))
    done = cli(words[0], path, *words[1:])
    assert "unexpected" not in done.err
    assert done.code in (0, 1, 2)


@pytest.mark.parametrize("place", ["plain", "two words", "it's"])
def test_the_lines_of_plan_run_as_printed(cli, tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / place).mkdir()
    (tmp_path / place / "config.json").write_text(json.dumps(CONFIG))
    shown = cli("plan", place, "--target", "8x").out.splitlines()
    lines = [line.partition("#")[0].strip() for line in shown if line.startswith("  ropewalk ")]
    assert [line.split()[1] for line in lines] == ["compare", "extend", "plan"]
    for line in lines[1:]:
        words = shlex.split(line)[1:]
        assert words[1] == place
        assert main([*words, *(["--weights", "none"] if words[0] == "extend" else [])]) == 0, line
    written = cli("plan", place, "--target", "8x", "-o", "my recipe.yaml").out.splitlines()
    assert written[-1].strip() == "ropewalk train 'my recipe.yaml'"


def test_the_help_tells_of_completion(cli):
    done = cli("--help")
    assert "_ROPEWALK_COMPLETE=bash_source" in done.out
    environment = os.environ | {"_ROPEWALK_COMPLETE": "bash_source"}
    code = "import sys; sys.argv[0] = 'ropewalk'\nfrom ropewalk.cli.main import ropewalk\nropewalk()"
    command = [sys.executable, "-c", code]
    script = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "_ropewalk_completion" in script.stdout
