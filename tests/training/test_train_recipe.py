"""Recipes: strict, bounded, and explained with line and field."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.training.recipe.presets import list_recipes, validate_recipe
from ropewalk.training.recipe.reading import BUNDLED, read_recipe
from ropewalk.training.recipe.recipe import Recipe

GOOD = """\
model: {path: hemp}
data:
  sources:
    - {name: library, kind: corpus}
stages:
  - {length: 4k, steps: 10}
tokens_per_step: 8k
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_lengths_read_as_people_write_them(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, GOOD))
    assert recipe.stages[0].length == 4096
    assert recipe.tokens_per_step == 8192
    assert recipe.optimizer.betas == (0.9, 0.95)


def test_resolved_recipe_reads_back_to_itself(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, GOOD.replace("steps: 10", "steps: 10, mix: {512: 0.25}")))
    assert Recipe.model_validate(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("tokens_per_step: 8k", "tokens_per_stpe: 8k", "tokens_per_step"),
        ("tokens_per_step: 8k", "tokens_per_step: 2k", "cannot hold one"),
        ("tokens_per_step: 8k", "tokens_per_step: lots", "line 7"),
        ("steps: 10", "steps: 10, epochs: 1", "exactly one of steps"),
        ("steps: 10", "steps: ten", "stages.0.steps"),
        ("steps: 10", "steps: 0", "stages.0.steps"),
        ("steps: 10", "steps: 10, mix: {512: 0.7, 1k: 0.7}", "more than 1"),
        ("steps: 10", "steps: 10, mix: {4k: 0.5}", "own length"),
        ("steps: 10", "steps: 10, grow: {from: 8k}", "not below"),
        ("steps: 10", "until: {at_most_steps: 5}", "loss_below"),
        ("steps: 10", "until: {at_most_steps: 5, plateau: 1, measure: evaluation}", "add evaluation"),
        ("path: hemp", "path: hemp, init: {model_type: llama}", "not both"),
        ("path: hemp", "init: {hidden_size: 8}, tokenizer: hemp", "model_type"),
        ("kind: corpus", "kind: corups", "kind"),
        ("kind: corpus", "kind: text", "needs paths"),
        ("kind: corpus", "kind: generated", "needs generator"),
        ("kind: corpus", "kind: corpus, share: .nan", "share"),
        ("kind: corpus", "kind: corpus, share: -1", "share"),
        ("name: library", "name: ../library", "name"),
        ("stages:", "optimizer: {name: muon}\nengine: {name: fsdp2}\nstages:", "use adamw"),
        ("stages:", "rope: {method: yarn}\nstages:", "either target_length or factor"),
        ("stages:", "rope: {method: yarn, factor: 4, factor: 8}\nstages:", "given twice"),
        ("{path: hemp}", "&m {path: hemp}\nbase: *m", "aliases"),
        ("{path: hemp}", "!!python/object/apply:os.system [echo]", "line 1"),
        ("steps: 10", "steps: 010", "recipe.yaml line 6: 010 would be read as 8"),
        ("length: 4k", "length: 0256", "recipe.yaml line 6: 0256 would be read as 174"),
        ("length: 4k", "length: 4:16", "line 6: 4:16 would be read as 256"),
        ("steps: 10", "steps: 10, mix: {0512: 0.5}", "line 6: 0512 would be read as 330"),
        (
            "tokens_per_step: 8k",
            "tokens_per_step: 8k\ntokens_per_step: 9k",
            "recipe.yaml line 8: tokens_per_step is",
        ),
        (
            "stages:",
            "optimizer:\nstages:",
            "line 5: optimizer: is empty: give it a value, or take the line out",
        ),
        ("stages:", "optimizer: 3\nstages:", "line 5: optimizer: a block of keys belongs here (given: 3)"),
        ("stages:", "report_to: wandb\nstages:", "line 5: report_to: a list belongs here (given: wandb)"),
        ("stages:", "max_steps: 3\nstages:", "max_steps: no such key; it is called steps here, in stages"),
        ("stages:", "seed: true\nstages:", "seed: write a number, not true"),
        ("path: hemp", "path: ''", "model.path: is empty: give a name or path"),
        ("path: hemp", "path: hemp, tokenizer: ' '", "model.tokenizer: is empty"),
        ("kind: corpus", "kind: text, paths: ['']", "data.sources.0.paths.0: is empty"),
        ("kind: corpus", "kind: text, paths: [a], field: body", "no meaning for kind text"),
        ("kind: corpus", "kind: corpus, parameters: {pairs: 3}", "no meaning for kind corpus"),
        ("stages:", "rope: {schedule: ''}\nstages:", "rope.schedule: is empty"),
        ("stages:", "rope: {method: '', factor: 4}\nstages:", "rope.method: is empty"),
        ("{path: hemp}", "[" * 60 + "]" * 60, "beyond any recipe"),
        ("{path: hemp}", "{path: [unclosed", "not YAML"),
    ],
)
def test_faults_are_one_line_with_the_way_out(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in GOOD
    with pytest.raises(UsageError) as caught:
        read_recipe(write(tmp_path, GOOD.replace(old, new)))
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"- 1\n", "a list"), (b"\xff\xfe", "UTF-8"), (b"a: 1\n" * 60000, "bytes")],
)
def test_files_that_are_no_recipe(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words):
        read_recipe(path)


@pytest.mark.parametrize(
    "content", ["base_model: x\nsequence_len: 4096\n", '{"output_dir": "x", "learning_rate": 5e-5}']
)
def test_recipes_of_other_tools_are_called_that(tmp_path: Path, content: str) -> None:
    with pytest.raises(UsageError, match="is no recipe of Ropewalk: it has none of model, data, stages"):
        read_recipe(write(tmp_path, content))


def test_numbers_are_read_as_json_reads_them(tmp_path: Path) -> None:
    """YAML 1.1 takes 1e-5 for text, which reached a model's configuration as text."""
    text = GOOD.replace(
        "{path: hemp}", "{init: {model_type: llama, rope_theta: 1e6, b: -2.5e-3, c: 1e6x}, tokenizer: hemp}"
    )
    recipe = read_recipe(write(tmp_path, text + "optimizer: {learning_rate: 1e-4, betas: [.9e0, 0.0]}\n"))
    assert recipe.model.init == {"model_type": "llama", "rope_theta": 1e6, "b": -2.5e-3, "c": "1e6x"}
    assert (recipe.optimizer.learning_rate, recipe.optimizer.betas) == (1e-4, (0.9, 0.0))


def test_a_choice_of_two_ways_is_one_fault_by_its_name(tmp_path: Path) -> None:
    faults = validate_recipe(write(tmp_path, GOOD.replace("path: hemp", "path: hemp, sliding_window: -1")))[
        "faults"
    ]
    assert [(fault["field"], fault["line"]) for fault in faults] == [("model.sliding_window", 1)]
    assert faults[0]["message"].startswith("length '-1' is not a number of tokens")


def test_a_missing_recipe_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="recipes ls"):
        read_recipe(tmp_path / "absent.yaml")
    with pytest.raises(RopewalkError, match="folder"):
        read_recipe(tmp_path)


def test_validate_lists_every_fault_with_its_line(tmp_path: Path) -> None:
    text = GOOD.replace("steps: 10", "steps: no").replace("kind: corpus", "kind: x") + "extra: 1\n"
    result = validate_recipe(write(tmp_path, text))
    assert not result["valid"]
    assert {(fault["field"], fault["line"]) for fault in result["faults"]} == {
        ("data.sources.0.kind", 4),
        ("stages.0.steps", 6),
        ("extra", 8),
    }


def test_validate_knows_the_methods(tmp_path: Path) -> None:
    text = GOOD + "rope: {method: yran, factor: 4}\n"
    fault = validate_recipe(write(tmp_path, text))["faults"][0]
    assert (fault["field"], fault["line"]) == ("rope.method", 8)
    assert "yarn" in fault["message"]
    text = GOOD + "rope: {method: yarn, factor: 4, parameters: {beta_fats: 3}}\n"
    assert "beta_fast" in validate_recipe(write(tmp_path, text))["faults"][0]["message"]


@pytest.mark.parametrize("path", sorted(BUNDLED.glob("*.yaml")), ids=lambda path: path.stem)
def test_bundled_recipes_are_valid(path: Path) -> None:
    result = validate_recipe(path.stem)
    assert result["faults"] == []


def test_bundled_recipes_say_what_they_do() -> None:
    rows = list_recipes()
    assert len(rows) >= 1
    for row in rows:
        assert row["about"], row["name"]


def test_reading_recipes_needs_no_torch() -> None:
    code = (
        "import sys; from ropewalk.training.recipe.presets import list_recipes; "
        "list_recipes(); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
