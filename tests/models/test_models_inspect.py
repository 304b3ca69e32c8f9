"""`ropewalk inspect`: the JSON contract, the table, exit codes, and how little it loads."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

import ropewalk
from ropewalk.errors import UsageError

EXAMPLES = Path(__file__).parents[2] / "examples" / "configs"
LLAMA2 = str(EXAMPLES / "llama-2-7b.json")


def test_the_document_keeps_its_contract(cli):
    outcome = cli("inspect", LLAMA2, "--json")
    assert outcome.code == 0
    document = outcome.json
    geometry = document["geometry"]
    assert {"head_dim", "rotary_dim", "rope_theta", "original_length", "num_layers"} <= set(geometry)
    assert (geometry["head_dim"], geometry["rope_theta"], geometry["num_layers"]) == (128, 10000.0, 32)
    assert [pair["index"] for pair in document["pairs"]] == list(range(64))
    for pair in document["pairs"]:
        assert {"index", "wavelength", "rotations", "seen_share"} <= set(pair)
        assert pair["seen_share"] == min(1.0, pair["rotations"])
    assert document["critical_dim"] == 92
    for finding in document["findings"]:
        assert {"id", "severity", "message", "fix"} <= set(finding)


def test_a_target_adds_bounds(cli):
    document = cli("inspect", LLAMA2, "--target", "32k", "--json").json
    assert document["target_length"] == 32768
    assert document["base_bound"] == pytest.approx(6.4e5, rel=0.05)
    past = [pair["index"] for pair in document["pairs"] if pair["out_of_bound"]]
    assert past == list(range(46, 64))
    scaled = cli("inspect", str(EXAMPLES / "qwen3-8b-yarn.json"), "--target", "128k", "--json").json
    assert not any(pair["out_of_bound"] for pair in scaled["pairs"])
    assert scaled["scaling"]["rope_type"] == "yarn"
    assert scaled["scaling"]["original_length"] == 32768


def test_each_layer_type_is_reported(cli):
    document = cli("inspect", str(EXAMPLES / "gemma-3-4b.json"), "--json").json
    assert document["main"] == "full_attention"
    assert document["ropes"]["sliding_attention"]["geometry"]["rope_theta"] == 10000.0
    assert document["layers"]["sliding_window"] == 1024
    assert len(document["layers"]["full_rope"]) == 5


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.json")))
def test_every_example_prints(cli, name):
    outcome = cli("inspect", str(EXAMPLES / f"{name}.json"), "--target", "256k", "--pairs")
    assert outcome.code == 0
    assert "critical dimension" in outcome.out
    assert "Pairs" in outcome.out


def test_findings_are_printed_with_their_way_out(cli):
    out = cli("inspect", str(EXAMPLES / "broken.json")).out
    assert "error original-length-missing" in out
    assert "->" in out
    assert "--repair" in out


def test_the_bundled_model_is_read(cli):
    document = cli("inspect", "hemp", "--json").json
    assert document["geometry"]["original_length"] == 512


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["inspect", "no/such/folder/at/all"], 1, "no model at"),
        (["inspect", "owner/model"], 1, "HF_HUB_OFFLINE"),
        (["inspect", LLAMA2, "--target", "2k"], 2, "below original_length=4096"),
        (["inspect", LLAMA2, "--target", "lots"], 2, "not a number of tokens"),
        (["inspect"], 2, "MODEL"),
    ],
)
def test_bad_calls_are_one_line(cli, words, code, says):
    outcome = cli(*words)
    assert outcome.code == code
    assert says in outcome.complaint
    assert "Traceback" not in outcome.err
    failed = cli(*words, "--json")
    assert failed.code == code
    assert failed.json["error"]["hint"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\x00\x01\x02", b'{"model_type": "gpt2"}', b'{"model_type": "llama", "rope_theta": NaN}',
     b'{"model_type": "llama", "head_dim": 7}', b"[" * 100000],
)  # fmt: skip
def test_bad_files_are_one_line(cli, tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    outcome = cli("inspect", str(tmp_path))
    assert outcome.code in (1, 2)
    assert outcome.err.count("\n") == 1
    assert "Traceback" not in outcome.err
    assert ": " in outcome.complaint


def test_no_escape_sequence_reaches_the_terminal(cli, tmp_path):
    evil = "\x1b[2J\x1b]0;owned\x07\u202e"
    config = json.loads(Path(LLAMA2).read_text()) | {
        "rope_scaling": {"rope_type": evil, "factor": 4.0, evil: evil},
        "architectures": [evil],
        "layer_types": [evil] * 32,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    outcome = cli("inspect", str(tmp_path))
    assert outcome.code == 0
    assert not any(character in outcome.out + outcome.err for character in "\x1b\x07\u202e")
    config["model_type"] = evil
    config.pop("rope_theta")
    config.pop("rope_scaling")
    (tmp_path / "config.json").write_text(json.dumps(config))
    outcome = cli("inspect", str(tmp_path))
    assert outcome.code == 1
    assert not any(character in outcome.out + outcome.err for character in "\x1b\x07\u202e")


def test_a_tokenizer_beside_the_config_is_compared(cli, tmp_path):
    (tmp_path / "config.json").write_text(Path(LLAMA2).read_text())
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 2048}')
    found = {finding["id"] for finding in cli("inspect", str(tmp_path), "--json").json["findings"]}
    assert "tokenizer-length" in found
    (tmp_path / "tokenizer_config.json").write_text("{broken")
    assert cli("inspect", str(tmp_path), "--json").code == 0


def test_the_twin_does_the_same():
    result = ropewalk.inspect(LLAMA2, target="8x")
    assert result.target_length == 32768
    assert result.geometry == ropewalk.read_geometry(LLAMA2)
    assert result.to_json()["geometry"]["critical_dim"] == result.critical_dim
    mapping = ropewalk.inspect(json.loads(Path(LLAMA2).read_text()))
    assert mapping.pairs == tuple(
        pair.__class__(**pair.to_json() | {"out_of_bound": None}) for pair in result.pairs
    )


@pytest.mark.parametrize(
    "words", [["inspect", LLAMA2, "--target", "32k"], ["export", LLAMA2, "--method", "yarn", "--factor", "8"]]
)
def test_nothing_heavy_is_imported(words):
    code = (
        "import sys; from ropewalk.cli.main import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'huggingface_hub', 'pydantic', 'plotly'} & set(sys.modules); "
        "sys.exit(code or (f'imported {heavy}' if heavy else 0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


def test_every_finding_stands_in_the_docs():
    import re

    root = Path(__file__).parents[2]
    sources = (root / "src" / "ropewalk" / "models" / "defects").glob("*.py")
    known = {name for path in sources for name in re.findall(r'Finding\(\s*"([a-z0-9-]+)"', path.read_text())}
    written = set(
        re.findall(r"`([a-z0-9-]+)`", (root / "docs" / "inspect.md").read_text().partition("## Findings")[2])
    )
    assert len(known) > 45
    assert known <= written


def test_strict_exits_4_on_errors_alone(cli):
    assert cli("inspect", EXAMPLES / "broken.json", "--strict").code == 4
    assert cli("inspect", EXAMPLES / "broken.json", "--strict", "--json").code == 4
    assert cli("inspect", EXAMPLES / "broken.json").code == 0
    assert cli("inspect", EXAMPLES / "llama-3.1-8b.json", "--strict").code == 0


def test_a_configuration_comes_from_standard_input(cli, monkeypatch):
    content = (EXAMPLES / "llama-3.1-8b.json").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    assert cli("inspect", "-", "--json").json["geometry"]["original_length"] == 8192
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"{"), encoding="utf-8"))
    failed = cli("inspect", "-")
    assert (failed.code, "standard input is not JSON" in failed.complaint) == (1, True)


def test_a_byte_order_mark_is_an_error_that_a_repair_takes_away(cli, tmp_path):
    """transformers and most readers load nothing from such a file; ours reads it."""
    content = Path(LLAMA2).read_bytes()
    for name, first in (("marked", b"\xef\xbb\xbf"), ("plain", b"")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(first + content)
    found = {
        name: {
            finding["id"]: finding for finding in cli("inspect", tmp_path / name, "--json").json["findings"]
        }
        for name in ("marked", "plain")
    }
    assert found["marked"].keys() - found["plain"].keys() == {"byte-order-mark"}
    mark = found["marked"]["byte-order-mark"]
    assert (mark["severity"], mark["repairable"]) == ("error", True)
    assert "config.json begins with a byte order mark (EF BB BF)" in mark["message"]
    assert cli("inspect", tmp_path / "marked", "--strict").code == 4
    out = tmp_path / "out"
    done = cli("extend", tmp_path / "marked", "--repair", "--weights", "none", "-o", out, "--json")
    assert done.json["repaired"][0] == "byte-order-mark"
    assert (out / "config.json").read_bytes()[:1] == b"{"
    assert (out / "config.json.original").read_bytes() == b"\xef\xbb\xbf" + content


def test_a_loaded_model_in_the_place_of_a_path_is_one_line():
    import torch

    with pytest.raises(UsageError, match="model of type Linear is not a path: give a folder") as caught:
        ropewalk.inspect(torch.nn.Linear(2, 2))
    assert "\n" not in str(caught.value)
