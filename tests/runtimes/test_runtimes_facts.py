"""The facts: closed lists, sorted rows, no exact without evidence, unknown where nobody looked."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from ropewalk.errors import DamagedError
from ropewalk.runtimes import facts_about, runtimes
from ropewalk.runtimes.known import FORMAT, file_stem, read_facts_text

FORMS = {"linear": "", "yarn": ""}
MEASURED = {"versions": {"x": "1"}, "max_logprob_difference": 1e-4, "lengths": [8], "date": "2026-11-20"}
SOURCE = {"project": "x", "version": "1", "file": "a.py", "function": "f"}


def document(**changes):
    row = {
        "architecture": "llama",
        "forms": ["linear"],
        "outcome": "exact",
        "known_by": {"measured": MEASURED},
    }
    return json.dumps({"format": FORMAT, "runtime": "x", "facts": [row | changes]})


def test_a_plain_row_is_read_and_everything_else_is_unknown():
    facts = read_facts_text(document(), FORMS, "x.json")
    found = facts.of("llama", "linear")
    assert (found.outcome, found.known_by.difference) == ("exact", 1e-4)
    assert found.known_by.describe() == "measured (x 1, largest difference 0.0001)"
    for architecture, form in (("llama", "yarn"), ("mistral", "linear")):
        missing = facts.of(architecture, form)
        assert (missing.outcome, missing.known_by.kind) == ("unknown", "unknown")


def test_what_a_kernel_rounds_besides_is_told_with_the_difference():
    rounded = MEASURED | {"stock_difference": 2e-3, "note": "beside one that rounds"}
    found = read_facts_text(document(known_by={"measured": rounded}), FORMS, "x.json").of("llama", "linear")
    assert found.known_by.rounding == 2e-3
    said = "measured (x 1, largest difference 0.0001 beside one that rounds, 0.002 otherwise)"
    assert found.known_by.describe() == said
    plain = read_facts_text(document(), FORMS, "x.json").of("llama", "linear")
    assert plain.known_by.rounding is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"outcome": "fine"}, "outcome"),
        ({"forms": ["ntk"]}, "forms"),
        ({"forms": []}, "forms"),
        ({"forms": ["yarn", "linear"]}, "sorted"),
        ({"extra": 1}, "unknown key"),
        ({"known_by": {}}, "known_by"),
        ({"known_by": {"hearsay": {}}}, "hearsay"),
        ({"known_by": {"unknown": {}}}, "unknown"),
        ({"known_by": {"measured": MEASURED | {"versions": {}}}}, "versions"),
        ({"known_by": {"measured": MEASURED | {"mood": 1}}}, "measured takes"),
        ({"known_by": {"measured": MEASURED | {"max_logprob_difference": 2e-3}}}, "exact asks"),
        ({"known_by": {"measured": {"versions": {"x": "1"}, "date": "2026-11-20"}}}, "exact asks"),
        ({"outcome": "ignored"}, "words"),
        ({"outcome": "ignored", "difference": "it is"}, "<="),
        ({"outcome": "unknown", "difference": "nobody looked"}, "unknown"),
        ({"known_by": {"source": {"project": "x", "file": "a.py"}}}, "version or commit"),
        ({"known_by": {"source": {"project": "x", "version": "1"}}}, "file"),
    ],
)
def test_rows_that_promise_without_evidence_are_damaged(changes, said):
    with pytest.raises(DamagedError, match=said):
        read_facts_text(document(**changes), FORMS, "x.json")


def test_two_rows_for_one_form_are_damaged():
    twice = json.loads(document())
    twice["facts"] *= 2
    with pytest.raises(DamagedError, match="two rows"):
        read_facts_text(json.dumps(twice), FORMS, "x.json")


@pytest.mark.parametrize("name", list(runtimes()))
def test_every_program_has_a_facts_file_that_is_sorted_and_dumps_back(name):
    program = runtimes()[name]
    folder = program.facts_folder or files("ropewalk.runtimes").joinpath("facts")
    path = folder.joinpath(f"{file_stem(name)}.json")
    facts = facts_about(program)
    assert facts.runtime == name
    assert path.read_text(encoding="utf-8") == facts.dump()


def test_there_is_no_facts_file_without_a_program():
    folder = files("ropewalk.runtimes").joinpath("facts")
    stems = {file_stem(name) for name, program in runtimes().items() if program.facts_folder is None}
    assert {entry.name for entry in folder.iterdir()} == {f"{stem}.json" for stem in stems}


def test_the_programs_are_the_ones_that_people_serve_with():
    assert list(runtimes())[:7] == ["transformers", "vllm", "sglang", "llama.cpp", "mlx", "ollama", "exllama"]
    for program in runtimes().values():
        assert program.title
        assert program.packages
        assert all(program.forms.values())
