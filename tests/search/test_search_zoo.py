"""The zoo's recipes are valid, have the geometry that the table says, and train; a finished run is packed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "zoo"))
import train_all
import zoo_recipes

from ropewalk.training.model.build import build_model, build_tokenizer
from ropewalk.training.recipe.reading import read_recipe


@pytest.mark.parametrize("name", zoo_recipes.zoo_names())
def test_recipe_is_valid_and_ends_at_the_window(name: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(zoo_recipes.recipe_text(name))
    recipe = read_recipe(file)
    shape = zoo_recipes.read_table()["models"][name]
    assert recipe.longest == shape["length"]
    lengths = [stage.length for stage in recipe.stages]
    assert lengths == sorted(lengths)
    assert 4e6 < sum(stage.tokens or 0 for stage in recipe.stages) < 8e6


def test_geometries_differ_in_what_a_schedule_depends_on() -> None:
    shapes = zoo_recipes.read_table()["models"].values()
    assert len({(shape["length"], shape["head_dim"], shape["rope_theta"]) for shape in shapes}) >= 8
    assert {shape["length"] for shape in shapes} == {128, 256, 512}
    assert {shape["head_dim"] for shape in shapes} == {32, 64, 128}


def test_tokens_follow_the_scale() -> None:
    assert zoo_recipes.zoo_recipe("hawser", 0.5)["stages"][1]["tokens"] == 128 * 1024


@pytest.mark.parametrize("name", ["tether", "painter"])
def test_models_have_their_shape(name: str) -> None:
    recipe = read_recipe(zoo_recipes.zoo_recipe(name))
    from ropewalk.models.facts import read_geometry

    model = build_model(recipe, build_tokenizer(recipe.model))
    shape = zoo_recipes.read_table()["models"][name]
    geometry = read_geometry(model.config.to_dict())
    assert (geometry.head_dim, geometry.rope_theta) == (shape["head_dim"], shape["rope_theta"])
    assert geometry.original_length == shape["length"]
    assert geometry.partial_rotary_factor == shape.get("partial", 1.0)
    assert 1e6 < sum(tensor.numel() for tensor in model.parameters()) < 6e6


def test_trained_and_packed_to_a_folder_that_loads(tmp_path: Path) -> None:
    recipe = zoo_recipes.zoo_recipe("tether")
    recipe["stages"] = [{"length": 64, "steps": 2, "sources": {"copying": 1.0}}]
    recipe["tokens_per_step"] = 128
    recipe["evaluation"] = None
    for folder in ("recipes", "runs", "models", "logs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "recipes" / "tether.yaml").write_text(yaml.safe_dump(recipe))
    wanted = argparse.Namespace(output=tmp_path, device="cpu", limit=120.0, grace=10.0, at_once=1)
    train_all.train(wanted, ["tether"])
    assert train_all.finished(tmp_path, "tether"), (tmp_path / "logs" / "tether.log").read_text()
    train_all.pack(tmp_path, "tether")
    from ropewalk.models.load import load_model

    model = load_model(str(tmp_path / "models" / "tether"), device="cpu")
    assert model.config.model_type == "gpt_neox"
    assert "finished step 2" in train_all.standing(tmp_path, "tether")


def test_an_interrupted_run_is_not_finished(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "stay"
    run.mkdir(parents=True)
    (run / "manifest.json").write_text('{"status": "interrupted"}')
    assert not train_all.finished(tmp_path, "stay")
