"""A server that really runs a model: its schedule is named from log probabilities alone, its window from prompts."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from model_server import Served, serving

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.methods import schedule
from ropewalk.models.apply import apply
from ropewalk.models.facts import read_facts
from ropewalk.runtimes import fingerprint_references as references
from ropewalk.runtimes.fingerprint import fingerprint
from ropewalk.runtimes.fingerprint_asking import Said, Witness, _top, probe_ids

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))

from eval_models import byte_tokenizer, save, tiny

WINDOW = 160


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model of random weights, loud enough for its rotation to show, with a byte tokenizer."""
    model = tiny(std=0.35, max_position_embeddings=WINDOW, hidden_size=64, head_dim=32, num_attention_heads=2)
    return save(tmp_path_factory.mktemp("base"), model), model


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def asked(base, tokenizer, made=None, *, expect=None, lengths=(130, 150), **behaviour):
    folder, model = base
    with contextlib.nullcontext() if made is None else apply(model, made):
        served = Served(model, tokenizer, **behaviour)
        with serving(served) as url:
            found = fingerprint(url, folder, model="tiny", device="cpu", expect=expect, lengths=lengths)
    return found, served


def geometry(base):
    return read_facts(base[0]).geometry


def ids_of(found):
    return [finding["id"] for finding in found.findings]


@pytest.mark.parametrize(
    ("method", "factor", "name"),
    [
        (None, 1, "the base's own"),
        ("linear", 4, "linear 4"),
        ("ntk", 4, "ntk 4"),
        ("yarn", 4, "yarn 4"),
        ("yarn", 8, "yarn 8"),
    ],
)
def test_a_server_is_named_by_the_log_probabilities_of_a_prompt(base, tokenizer, method, factor, name):
    made = None if method is None else schedule(method, geometry(base), factor=factor)
    found, _ = asked(base, tokenizer, made, window=WINDOW)
    best = found.identified[0]
    assert (best.best.candidate.name, best.unlike, best.rivals) == (name, False, ())
    # Both sides compute in float32 with the same code.
    assert best.best.difference < 1e-5
    assert best.matches[1].difference > 0.01
    assert best.ratio > math.log(1000)
    assert name in found.verdict
    assert (found.way, found.passed, found.findings) == ("prompt", True, ())


def test_a_wrong_base_is_found_and_said(base, tokenizer):
    wrong = references.of_base(read_facts(base[0]), 5e5).schedule
    found, _ = asked(base, tokenizer, wrong, window=WINDOW)
    assert found.identified[0].best.candidate.name == "rope_theta 500000"
    assert (ids_of(found), found.passed) == (["wrong-base"], False)
    assert "the model's is 10000" in found.findings[0]["message"]


def test_a_factor_between_the_usual_ones_is_found_by_search(base, tokenizer):
    found, _ = asked(base, tokenizer, schedule("linear", geometry(base), factor=5.3), window=WINDOW)
    best = found.identified[0].best.candidate
    assert best.kind == "linear"
    assert best.factor == pytest.approx(5.3, rel=0.02)


def test_an_unscaled_server_that_claims_eight_times_is_caught(base, tokenizer):
    found, _ = asked(base, tokenizer, claims=8 * WINDOW, lengths=())
    assert (found.claimed_length, found.served_length) == (8 * WINDOW, 8 * WINDOW)
    assert (ids_of(found), found.passed) == (["unscaled-window"], False)
    # Also past the original window it rotates as the base does.
    assert [one.best.candidate.name for one in found.identified] == ["the base's own"] * 2
    assert found.identified[1].tokens > WINDOW


def test_a_server_that_cuts_prompts_in_silence_is_caught(base, tokenizer):
    made = schedule("yarn", geometry(base), factor=4)
    found, _ = asked(base, tokenizer, made, cut=190, claims=640, lengths=(130, 240, 400))
    assert found.identified[0].best.candidate.name == "yarn 4"
    assert "truncates" in ids_of(found)
    assert (found.served_length, found.passed, len(found.identified)) == (130, False, 1)


def test_a_schedule_that_changes_with_the_prompt_is_noticed(base, tokenizer):
    folder, model = base
    linear = schedule("linear", geometry(base), factor=4)

    class Switching(Served):
        def scores(self, ids):
            with apply(model, linear) if len(ids) > WINDOW else contextlib.nullcontext():
                return super().scores(ids)

    served = Switching(model, tokenizer)
    with serving(served) as url:
        found = fingerprint(url, folder, model="tiny", device="cpu", lengths=(140, 320))
    assert [one.best.candidate.name for one in found.identified] == ["the base's own", "linear 4"]
    assert "switches" in ids_of(found)


@pytest.mark.parametrize("style", ["ids", "texts", "no-ids"])
def test_the_likeliest_written_tokens_are_enough(base, tokenizer, style):
    made = schedule("yarn", geometry(base), factor=8)
    found, served = asked(
        base, tokenizer, made, window=WINDOW, prompt_logprobs=False,
        content_style=style == "ids", takes_ids=style != "no-ids",
    )  # fmt: skip
    best = found.identified[0]
    assert (found.way, best.best.candidate.name, best.unlike, best.rivals) == ("top", "yarn 8", False, ())
    assert best.best.difference < 1e-5
    prompts = [type(request["prompt"]) for request in served.requests if request.get("logprobs") == 5]
    assert (str in prompts) == (style == "no-ids")


def test_a_coarse_server_says_what_it_cannot_tell_apart(base, tokenizer):
    found, _ = asked(base, tokenizer, schedule("yarn", geometry(base), factor=8), window=WINDOW, rounding=4.0)
    best = found.identified[0]
    assert best.rivals or best.unlike
    assert {"inseparable", "unknown-schedule"} & set(ids_of(found))


def test_another_model_is_like_none_of_the_candidates(base, tokenizer):
    other = tiny(
        std=0.35, seed=5, max_position_embeddings=WINDOW, hidden_size=64, head_dim=32, num_attention_heads=2
    )
    with serving(Served(other, tokenizer, window=WINDOW)) as url:
        found = fingerprint(url, base[0], model="tiny", device="cpu", lengths=(130, 150))
    assert found.identified[0].unlike
    assert (ids_of(found), found.passed) == (["unknown-schedule"], False)


def test_without_log_probabilities_it_says_so(base, tokenizer):
    with pytest.raises(UsageError, match="gives no log probabilities"):
        asked(base, tokenizer, prompt_logprobs=False, top=0)


def test_the_expected_checkpoint_is_a_candidate_and_its_absence_an_error(base, tokenizer, tmp_path):
    from ropewalk.models.extend import extend

    out = tmp_path / "out"
    extend(base[0], out=out, method="yarn", factor=4, params={"beta_fast": 4.0})
    made = read_facts(out).rope.schedule
    right, _ = asked(base, tokenizer, made, expect=out, window=WINDOW)
    assert right.identified[0].best.candidate.name == "as expected (yarn 4)"
    assert (right.passed, right.claimed_length) == (True, 4 * WINDOW)
    wrong, _ = asked(base, tokenizer, schedule("linear", geometry(base), factor=4), expect=out, window=WINDOW)
    assert "not-as-expected" in ids_of(wrong)
    assert not wrong.passed


def test_two_sets_are_two_candidates():
    made = schedule("longrope", tiny_geometry(), factor=4)
    facts = read_facts(tiny().config.to_dict())
    found = [one for one in references.candidates(facts, made, None) if one.kind.startswith("expected")]
    # The short set of this one is the model's own, which is a candidate already, but for its attention factor.
    assert [one.name for one in found] == [
        "as expected (longrope 4), the long set",
        "as expected (longrope 4), the short set",
    ]
    assert [one.schedule.short_inv_freq for one in found] == [None, None]
    np.testing.assert_array_equal(found[0].schedule.inv_freq, made.inv_freq)
    np.testing.assert_array_equal(found[1].schedule.inv_freq, made.short_inv_freq)


def tiny_geometry():
    return read_facts(tiny().config.to_dict()).geometry


def test_candidates_hold_each_schedule_once_and_the_claimed_factor():
    facts = read_facts(tiny().config.to_dict())
    found = references.candidates(
        facts, schedule("yarn", facts.geometry, factor=4), 6 * facts.original_length
    )
    names = [one.name for one in found]
    assert len(names) == len(set(names))
    assert "as expected (yarn 4)" in names
    assert "yarn 4" not in names
    assert {"linear 6", "ntk 6", "yarn 6"} <= set(names)
    assert "rope_theta 10000" not in names


def test_likelihood_counts_eight_values_as_one_and_never_trusts_below_the_floor():
    said = Said((1, 2, 3), tuple((place, 0, 0.0) for place in range(16)))
    known = references.References(None, said)
    first, second = (references.Candidate(name, None, "base") for name in ("a", "b"))
    known._made = {"a": np.full(16, 0.1), "b": np.full(16, -0.3)}
    rows = known.matches([second, first])
    assert [row.candidate.name for row in rows] == ["a", "b"]
    # (0.3 - 0.1) / 0.1 a value, and 16 values count as two.
    assert rows[1].log_ratio == pytest.approx(4.0)
    assert (rows[1].difference, rows[1].largest) == (pytest.approx(0.3), pytest.approx(0.3))
    known._made = {"a": np.zeros(16), "b": np.full(16, 1e-4)}
    assert known.matches([first, second])[1].log_ratio == pytest.approx(2 * 1e-4 / 2e-4)


def test_both_spellings_of_the_likeliest_tokens_are_read():
    assert _top({"top_logprobs": [{"a": -1.0, "b": -2}]}) == [("a", -1.0), ("b", -2.0)]
    rows = [{"top_logprobs": [{"id": 7, "token": "x", "logprob": -0.5}, {"token": "y", "logprob": -3}]}]
    assert _top({"content": rows}) == [(7, -0.5), ("y", -3.0)]
    assert _top(None) == _top({"content": []}) == _top({"top_logprobs": [None]}) == []


def test_the_probe_has_its_length_and_says_its_first_half_again(tokenizer):
    ids = probe_ids(tokenizer, 101, seed=3)
    assert len(ids) == 101
    assert ids[50:100] == ids[:50]
    assert ids != probe_ids(tokenizer, 101, seed=4)


def test_a_server_with_another_tokenizer_is_refused(base, tokenizer):
    _, model = base
    with serving(Served(model, byte_tokenizer(bos=True), takes_ids=False)) as url:
        from ropewalk.evaluation.served.asking import connect

        witness = Witness(connect(url, "tiny"), tokenizer)
        with pytest.raises(RopewalkError, match="tokens"):
            witness.ask(probe_ids(tokenizer, 40, seed=0), 4)


def test_the_command_names_the_schedule_and_leaves_with_4_on_a_finding(base, tokenizer, cli, tmp_path):
    folder, model = base
    with serving(Served(model, tokenizer, claims=4 * WINDOW)) as url:
        arguments = ["verify", url, "--base", str(folder), "--model", "tiny", "--device", "cpu"]
        told = cli(*arguments, "--lengths", "140,320", "--json")
        shown = cli(*arguments, "--lengths", "140,150", "-o", tmp_path / "run")
        without = cli("verify", url)
        hasty = cli(*arguments, "--timeout", "0")
    document = told.json
    assert told.code == 4
    assert document["identified"][0]["best"] == "the base's own"
    assert [finding["id"] for finding in document["findings"]] == ["unscaled-window"]
    assert document["served_length"] == 320
    assert (shown.code, without.code) == (0, 2)
    assert "the base's own: 1e" in shown.out
    assert "read whole: 150 tokens, claimed 640; trained for 160" in shown.out
    assert json.loads((tmp_path / "run" / "result.json").read_text())["passed"] is True
    assert "--base" in without.complaint
    assert hasty.code == 2
    assert "timeout_s=0" in hasty.complaint


def test_options_for_servers_are_refused_on_a_folder(base, cli):
    for option, value in (("--expect", "somewhere"), ("--timeout", "3")):
        told = cli("verify", base[0], option, value)
        assert told.code == 2
        assert "for servers" in told.complaint


def _fingerprints():
    import runpy

    return runpy.run_path(str(Path(__file__).parents[2] / "tools" / "runtimes" / "fingerprints.py"))


@pytest.mark.slow
@pytest.mark.parametrize("program", ["llama.cpp", "vllm"])
@pytest.mark.parametrize(
    "case", ["nothing", "linear 4", "ntk 4", "yarn 4", "yarn 8", "wrong base", "unscaled, claims 8 times"]
)
def test_a_real_server_is_named_by_what_it_runs(program, case):
    from ropewalk.runtimes.environments import interpreter

    python = interpreter(program)
    if python is None:
        pytest.skip(f"{program} is not installed: make runtimes")
    row = _fingerprints()["run_case"](program, python, case)
    assert row["right"], row


def test_the_cases_of_real_servers_are_the_ones_promised():
    cases = _fingerprints()["CASES"]
    assert list(cases) == [
        "nothing", "linear 4", "ntk 4", "yarn 4", "yarn 8", "wrong base", "unscaled, claims 8 times",
    ]  # fmt: skip
    findings = {name: finding for name, (*_, finding) in cases.items() if finding}
    assert findings == {"wrong base": "wrong-base", "unscaled, claims 8 times": "unscaled-window"}
