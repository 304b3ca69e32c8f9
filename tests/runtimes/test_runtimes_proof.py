"""`verify --runtime`: the verdict on log-probabilities, where programs are looked for, what is said without them."""

from __future__ import annotations

import json
import math
import os
import stat
import subprocess
import sys
from importlib.resources import as_file, files
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import ropewalk
from ropewalk.errors import RopewalkError, UsageError
from ropewalk.models.facts import read_facts
from ropewalk.runs import open_run
from ropewalk.runtimes import environments, facts_about, find_runtime, proof
from ropewalk.runtimes.export import export_config
from ropewalk.runtimes.runners import answering

LLAMA = json.loads((Path(__file__).parents[2] / "examples" / "configs" / "llama-2-7b.json").read_text())
WANTED = np.array([-1.0, -2.0, -3.0, -4.0])


def exported(method: str, program: str):
    return export_config(LLAMA, method, factor=8.0, to=program, allow_approximate=True).exports[0]


def test_the_largest_difference_decides_and_names_its_position_and_the_wrong_fact():
    told = [None] * 100 + [-1.0005, None, -3.0, -4.5]
    check = proof.judged(exported("mrrope-pro", "mlx"), WANTED, told, (100, 102), {"mlx-lm": "1"})
    assert (check.status, check.worst_position, check.positions) == ("fail", 103, 3)
    assert check.largest == pytest.approx(0.5)
    assert check.mean == pytest.approx((0.0005 + 0.0 + 0.5) / 3)
    assert "position 103" in check.detail
    assert check.by_length == {1: pytest.approx(0.0005)}
    assert (
        "the fact that longrope, longrope-attention-by-original is exact on llama is wrong here"
        in check.detail
    )


def test_the_largest_difference_within_one_window_two_and_four():
    wanted = np.zeros(16)
    told = np.zeros(16)
    told[[1, 5, 12]] = [1e-5, 3e-5, 2e-5]
    check = proof.judged(exported("yarn", "mlx"), wanted, told, (0, 4), {})
    assert check.by_length == {1: 1e-5, 2: 3e-5, 4: 3e-5}


def test_the_tolerance_is_a_thousandth():
    close = proof.judged(exported("yarn", "mlx"), WANTED, WANTED + 0.0009, (0, 4), {})
    far = proof.judged(exported("yarn", "mlx"), WANTED, WANTED - 0.0011, (0, 4), {})
    assert (close.status, far.status) == ("pass", "fail")


def test_a_program_that_is_not_known_as_exact_fails_as_expected_or_passes_as_news():
    two = exported("longrope", "mlx")
    assert not two.answer.exact
    assert "as expected" in proof.judged(two, WANTED, WANTED + 1, (0, 4), {}).detail
    assert "known as ignored until now" in proof.judged(two, WANTED, WANTED, (0, 4), {}).detail
    nothing = proof.judged(two, WANTED, [None] * 4, (0, 4), {})
    assert (nothing.status, nothing.largest) == ("fail", None)
    assert nothing.detail == "the program told no log-probability"
    # All that it was asked, and no number: something else than not to have been asked.
    for bad in (math.nan, math.inf, -math.inf):
        broken = proof.judged(two, WANTED, [None, -2.0, bad, None], (0, 4), {})
        assert (broken.status, broken.largest) == ("fail", None)
        assert broken.detail == "the program computes no number at position 2 and 0 more"
    # Also before the first position that is compared.
    early = proof.judged(two, WANTED, [math.nan, *WANTED], (1, 4), {})
    assert "no number at position 0" in early.detail


def test_the_tokens_go_past_the_original_window_and_repeat():
    facts = read_facts(LLAMA)
    ids = proof.tokens_for(facts, 32768)
    assert len(ids) == 4096 + 2048
    assert ids[:96] == ids[96:192]
    assert max(ids) < 32000
    # Servers keep one place for the token that they write.
    assert len(proof.tokens_for(facts, 4200)) == 4199


def program(tmp_path: Path, name: str, body: str) -> None:
    """A stand-in for a program's own Python: it gets the runner, the jobs and the place for the answer."""
    path = tmp_path / name / "bin" / "python"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!{sys.executable}\nimport json, os, sys\nrunner, jobs, out = sys.argv[1:]\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_an_environment_of_its_own_is_found_before_this_one(tmp_path, monkeypatch):
    monkeypatch.setenv(environments.ENVIRONMENTS, str(tmp_path))
    assert environments.interpreter("vllm") is None
    program(tmp_path, "vllm", "")
    assert environments.interpreter("vllm") == str(tmp_path / "vllm" / "bin" / "python")
    monkeypatch.delenv(environments.ENVIRONMENTS)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".runtimes").symlink_to(tmp_path)
    assert environments.interpreter("vllm") == str(tmp_path / ".runtimes" / "vllm" / "bin" / "python")


def test_a_runner_gets_its_job_and_none_of_our_paths(tmp_path, monkeypatch):
    monkeypatch.setenv(environments.ENVIRONMENTS, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    body = (
        "assert 'PYTHONPATH' not in os.environ and runner.endswith('run_llama_cpp.py')\n"
        "item = json.load(open(jobs))['items'][0]\n"
        "open(out, 'w').write(json.dumps({'name': item['name'], 'versions': {}, 'logprobs': [[item['x']]]}))"
    )
    program(tmp_path, "llama.cpp", body)
    row = proof.run_item(
        "llama.cpp", environments.interpreter("llama.cpp"), {"name": "a", "x": -1.5}, tmp_path
    )
    assert row["logprobs"] == [[-1.5]]


def test_a_number_that_is_none_is_a_failure_and_not_a_place_that_nobody_asked_for(tmp_path, monkeypatch):
    made = SimpleNamespace(exports=[exported("yarn", "mlx")])
    prompt = SimpleNamespace(first=0, logprobs=WANTED)
    reference = SimpleNamespace(facts=SimpleNamespace(original_length=4), prompts=[prompt])
    monkeypatch.setattr(proof, "_item", lambda *_: {})

    def check(told):
        row = {"logprobs": [told], "versions": {}}
        monkeypatch.setattr(proof, "run_item", lambda *_: row)
        return proof._check(made, reference, ("python", "float32"), tmp_path)

    assert check([-1.0, None, -3.0, -4.0]).status == "pass"
    found = check([-1.0, -2.0, math.nan, math.nan])
    assert (found.status, found.detail) == ("fail", "the program computes no number at position 2 and 1 more")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("sys.exit('no such thing')", "does not run .*no such thing"),
        ("open(out, 'w').write(json.dumps({'name': 'a', 'versions': {}, 'error': 'wrong number of tensors'}))",
         "refuses .*wrong number of tensors"),
    ],
)  # fmt: skip
def test_a_program_that_fails_says_why(tmp_path, monkeypatch, body, said):
    monkeypatch.setenv(environments.ENVIRONMENTS, str(tmp_path))
    program(tmp_path, "mlx", body)
    with pytest.raises(RopewalkError, match=said):
        proof.run_item("mlx", environments.interpreter("mlx"), {"name": "a"}, tmp_path)


def test_a_program_that_is_not_installed_leaves_the_question_open(cli, tmp_path, monkeypatch):
    monkeypatch.setenv(environments.ENVIRONMENTS, str(tmp_path))
    ropewalk.extend("hemp", output=tmp_path / "out", factor=8.0)
    outcome = cli("verify", str(tmp_path / "out"), "--runtime", "vllm", "--json")
    (check,) = outcome.json["checks"]
    assert (check["name"], check["status"]) == ("runtime:vllm", "skip")
    assert "make runtimes" in check["detail"]
    assert outcome.code == 4
    cli("verify", str(tmp_path / "out"), "--runtime", "vllm", "-o", str(tmp_path / "run"))
    kept = open_run(tmp_path / "run")
    assert (kept.kind, kept.request["runtimes"]) == ("verify", ["vllm"])
    assert kept.read_json() == outcome.json
    with pytest.raises(UsageError, match="SGLang cannot be run from here"):
        proof.verify_runtimes(tmp_path / "out", ["sglang"])


def test_a_fact_shows_its_age_where_another_release_is_installed(tmp_path, monkeypatch):
    from ropewalk.runtimes.ages import installed, stale

    monkeypatch.setenv(environments.ENVIRONMENTS, str(tmp_path))
    program(tmp_path, "mlx", "")
    packages = tmp_path / "mlx" / "lib" / "python3.12" / "site-packages"
    mlx, answer = find_runtime("mlx"), exported("yarn", "mlx").answer
    known = next(iter(answer.facts)).known_by.versions["mlx-lm"]
    (packages / f"mlx_lm-{known}.dist-info").mkdir(parents=True)
    assert (installed(mlx), stale(mlx, answer)) == ({"mlx-lm": known}, None)
    (packages / f"mlx_lm-{known}.dist-info").rename(packages / "mlx_lm-9.1.dist-info")
    assert stale(mlx, answer).startswith(f"known for mlx-lm {known}, installed is 9.1")
    monkeypatch.setenv(environments.ENVIRONMENTS, str(tmp_path / "nowhere"))
    assert stale(find_runtime("vllm"), exported("yarn", "vllm").answer) is None


@pytest.mark.parametrize("name", ["llama_cpp", "mlx", "vllm"])
def test_a_runner_runs_as_a_script_where_this_package_is_not(name, tmp_path):
    jobs, out = tmp_path / "jobs.json", tmp_path / "out.jsonl"
    jobs.write_text(json.dumps({"items": [{"name": "x", "model": "none", "prompts": [], "max_length": 8}]}))
    with as_file(files("ropewalk.runtimes.runners").joinpath(f"run_{name}.py")) as script:
        command = [sys.executable, "-S", str(script), str(jobs), str(out)]
        done = subprocess.run(command, env={"PATH": ""}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    row = json.loads(out.read_text())
    # No site packages here: the program is missing, and that is the row's error, in the program's own words.
    assert row["name"] == "x"
    assert row["versions"] == {}
    assert row["error"].startswith("ModuleNotFoundError: No module named")


def test_a_long_complaint_keeps_its_beginning_and_its_end(tmp_path, monkeypatch):
    def fails(item):
        raise RuntimeError("tried this " + "x" * 4000 + " wrong was that")

    (tmp_path / "jobs.json").write_text(json.dumps({"items": [{"name": "a"}]}))
    monkeypatch.setattr(sys, "argv", ["run", str(tmp_path / "jobs.json"), str(tmp_path / "out.jsonl")])
    answering.answer(fails, ("numpy", "no-such-package"))
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert row["error"].startswith("RuntimeError: tried this xx")
    assert row["error"].endswith("xx wrong was that")
    assert len(row["error"]) == 150 + 5 + 350
    assert set(row["versions"]) == {"numpy"}


def test_each_type_has_a_tolerance_at_the_worst_place_and_on_average():
    yarn = exported("yarn", "mlx")
    for dtype, largest, mean in (("float32", 1e-3, 1e-3), ("float16", 0.3, 0.015), ("bfloat16", 0.8, 0.08)):
        wanted = np.zeros(1000)
        one = np.zeros(1000)
        one[500] = 0.99 * largest
        assert proof.judged(yarn, wanted, one, (0, 4), {}, dtype).status == "pass"
        one[500] = 1.01 * largest
        assert proof.judged(yarn, wanted, one, (0, 4), {}, dtype).status == "fail"
        assert proof.judged(yarn, wanted, wanted + 0.99 * mean, (0, 4), {}, dtype).status == "pass"
        everywhere = proof.judged(yarn, wanted, wanted - 1.01 * mean, (0, 4), {}, dtype)
        assert (everywhere.status, everywhere.dtype) == ("fail", dtype)
        document = everywhere.to_json()
        assert (document["tolerance"], document["mean_tolerance"]) == (largest, mean)
        assert f"in {dtype}" in everywhere.detail


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_rounding_passes_and_a_wrong_schedule_fails_in_each_type(tmp_path, dtype):
    """The bundled model in that type: as extended within the tolerance, unscaled far outside it."""
    import torch
    from transformers import AutoModelForCausalLM

    from ropewalk.hemp import folder as hemp_folder

    made = ropewalk.extend("hemp", output=tmp_path / "out", factor=8.0, method="yarn").output
    ids = proof.tokens_for(read_facts(made), 320)

    def told(folder, kind):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=kind, attn_implementation="sdpa").eval()
        with torch.inference_mode():
            scores = torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), dim=-1)
        return scores[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0].double().numpy()

    kind = getattr(torch, dtype)
    wanted = told(made, torch.float32)
    yarn = export_config(made, to="mlx").exports[0]
    right = proof.judged(yarn, wanted, told(made, kind), (0, 512), {}, dtype)
    wrong = proof.judged(yarn, wanted, told(hemp_folder(), kind), (0, 512), {}, dtype)
    assert (right.status, wrong.status) == ("pass", "fail")
    # With room on either side.
    allowed = proof.TOLERANCES[dtype]
    assert right.largest < 0.75 * allowed.largest
    assert right.mean < allowed.mean / 2
    assert min(wrong.largest / allowed.largest, wrong.mean / allowed.mean) > 2


def test_a_runner_computes_in_the_type_that_was_asked_for(cli, tmp_path, monkeypatch):
    """The job names the type, the GGUF file has it, and the answer says it."""
    monkeypatch.setenv(environments.ENVIRONMENTS, str(tmp_path))
    body = (
        "item = json.load(open(jobs))['items'][0]\n"
        "told = [[0.0] * (len(prompt) - 1) for prompt in item['prompts']]\n"
        "size = os.path.getsize(item['model'])\n"
        "row = {'name': 'checkpoint', 'versions': {'x': item['dtype'], 'bytes': str(size)}, 'logprobs': told}\n"
        "open(out, 'w').write(json.dumps(row))"
    )
    program(tmp_path, "llama.cpp", body)
    ropewalk.extend("hemp", output=tmp_path / "out", factor=2.0, method="linear")
    rows = SimpleNamespace(logits=[np.zeros((1023, 264), dtype=np.float32)])
    monkeypatch.setattr(proof, "stock_run", lambda folder, probes, **given: rows)
    sizes = []
    for words, dtype in ((("--dtype", "bfloat16"), "bfloat16"), ((), "float32")):
        outcome = cli("verify", str(tmp_path / "out"), "--runtime", "llama.cpp", "--json", *words)
        (check,) = outcome.json["checks"]
        assert (check["status"], check["dtype"], check["versions"]["x"]) == ("fail", dtype, dtype)
        # Nothing is known of any token: log(1 / 264) where the program says 0.
        assert check["largest"] == pytest.approx(math.log(264))
        sizes.append(int(check["versions"]["bytes"]))
    assert sizes[1] > 1.8 * sizes[0]
    with pytest.raises(UsageError, match="no stated tolerance"):
        proof.verify_runtimes(tmp_path / "out", ["llama.cpp"], "int8")


def test_known_rounding_of_a_programs_kernels_is_allowed_three_times_over():
    made = export_config(
        LLAMA | {"model_type": "gemma2", "head_dim": 64}, "yarn", factor=8.0, to="llama.cpp"
    ).exports[0]
    rounding = facts_about(find_runtime("llama.cpp")).of("gemma2", "yarn").known_by.rounding
    assert rounding is not None
    assert 1e-3 < rounding < 5e-3
    one = np.zeros(100)
    one[50] = 2.99 * rounding
    passed = proof.judged(made, np.zeros(100), one, (0, 4), {})
    assert (passed.status, passed.rounding) == ("pass", rounding)
    document = passed.to_json()
    assert document["tolerance"] == pytest.approx(3 * rounding)
    assert document["mean_tolerance"] == pytest.approx(rounding)
    assert f"tolerance {3 * rounding:g} and {rounding:g} on average in float32" in passed.detail
    one[50] = 3.01 * rounding
    assert proof.judged(made, np.zeros(100), one, (0, 4), {}).status == "fail"
    assert proof.judged(made, np.zeros(100), np.full(100, 1.01 * rounding), (0, 4), {}).status == "fail"
    # A type that rounds more than that anyway keeps its own.
    half = proof.judged(made, np.zeros(100), one, (0, 4), {}, "float16").to_json()
    assert (half["tolerance"], half["mean_tolerance"]) == (0.3, 0.015)


def test_the_reference_runs_by_the_attention_that_its_class_has(monkeypatch):
    asked = {}

    def run(folder, probes, **options):
        asked.update(options)
        raise RopewalkError("enough")

    monkeypatch.setattr(proof, "stock_run", run)
    made = export_config(LLAMA, "yarn", factor=8.0, to="mlx")
    with pytest.raises(RopewalkError, match="enough"):
        proof._Reference.of(Path("nowhere"), made)
    assert asked == {"device": "cpu", "dtype": "float32", "attn": None, "trust_remote_code": False}
