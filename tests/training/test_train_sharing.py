"""Rows shared by two processes: the losses and weights of one process, whichever way they are shared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_distributed import assert_two_are_one, launch
from test_train_resume import metrics_of

from ropewalk.attention.sharing import How, Sharing, _attend, _pieces, borders_of
from ropewalk.errors import UsageError
from ropewalk.training.engine import _ways
from ropewalk.training.recipe.reading import read_recipe
from ropewalk.training.recipe.recipe import EnginePart
from ropewalk.training.run import train

Tiny = Callable[..., dict[str, Any]]

PARTS: dict[str, dict[str, Any]] = {
    "plain": {"rope": {"method": "yarn", "target_length": 128}},
    "packed": {"packing": {"boundaries": "block-diagonal"}, "memory": {"checkpointing": True}},
    "lora": {"lora": {"rank": 4, "train_embeddings": True}},
    "sliding": {"packing": {"boundaries": "block-diagonal"}},
    "skipping": {
        "rope": {"method": "yarn", "target_length": 256},
        "positions": {"kind": "pose", "target_length": 256},
        "weighting": {"shape": {"low": 0.5, "high": 1.5}, "input_noise": {"share": 0.2}},
    },
}


def recipe_for(tiny: Tiny, parts: str, **engine: Any) -> dict[str, Any]:
    """Two lengths, accumulation, an evaluation; a grouped-query model without dropout."""
    made = tiny(
        stages=[{"length": 64, "steps": 3, "mix": {32: 0.3}}, {"length": 128, "steps": 3}],
        tokens_per_step=448,
        micro_batch_tokens=128,
        checkpoints={"every": 4, "keep_last": None},
        evaluation={"every": 3, "tokens": 256},
        engine=engine,
        **PARTS[parts],
    )
    made["model"]["init"]["attention_dropout"] = 0.0
    if parts == "sliding":
        made["model"]["init"] |= {"model_type": "mistral", "sliding_window": 24}
    made["evaluation"]["source"] = made["data"]["sources"][0]
    return made


@pytest.mark.slow
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
@pytest.mark.parametrize("way", ["context_parallel", "sequence_parallel"])
def test_two_processes_that_share_rows_are_one(
    tiny: Tiny, tmp_path: Path, parts: str, engine: str, way: str
) -> None:
    assert_two_are_one(
        recipe_for(tiny, parts, name="single"), recipe_for(tiny, parts, name=engine, **{way: 2}), tmp_path
    )


def sharing_of(way: str, rank: int = 0, size: int = 4) -> Sharing:
    return Sharing(way, rank, size, None)


@pytest.mark.parametrize("way", ["context", "sequence"])
def test_the_slices_of_a_row_are_the_row(way: str) -> None:
    row = torch.arange(64)[None]
    parts = [sharing_of(way, rank).slice(row) for rank in range(4)]
    assert torch.cat(parts, dim=1).sort().values.equal(row)
    assert {part.shape for part in parts} == {(1, 16)}
    if way == "context":
        # As many pairs of a query and a key for each process, to the pair.
        assert len({int((part + 1).sum()) for part in parts}) == 1


def test_pieces_follow_the_documents() -> None:
    [edges] = borders_of(torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2]]))
    assert _pieces(edges, 2, 6) == [(0, 2, 3), (3, 3, 6)]
    assert _pieces(edges, 4, 8) == [(3, 4, 7), (7, 7, 8)]
    [whole] = borders_of(torch.zeros(3, 8))
    assert _pieces(whole, 4, 8) == [(0, 4, 8)]


@pytest.mark.parametrize("window", [None, 3, 100])
@pytest.mark.parametrize("documents", [[0] * 12, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2]])
def test_attention_of_a_slice_is_the_row_s(window: int | None, documents: list[int]) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 4, 12, 8), torch.randn(2, 2, 12, 8), torch.randn(2, 2, 12, 8)
    borders = torch.tensor([documents, [0] * 12])
    distance = torch.arange(12)[:, None] - torch.arange(12)[None]
    seen = (distance >= 0) & (distance < (window or 12)) & (borders[:, :, None] == borders[:, None, :])
    wanted = torch.nn.functional.scaled_dot_product_attention(
        query, key.repeat_interleave(2, 1), value.repeat_interleave(2, 1), attn_mask=seen[:, None], scale=0.3
    )
    for rank in range(3):
        sharing = sharing_of("context", rank, size=3)
        spans = sharing.spans(rank, 12)
        part = sharing.slice(query.transpose(1, 2).flatten(2)).unflatten(2, (4, 8)).transpose(1, 2)
        got = _attend(part, key, value, spans, borders_of(borders), How(window, scale=0.3, dropout=0.0))
        expected = torch.cat([wanted[:, :, start:end] for start, end in spans], dim=2)
        assert torch.allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"name": "single", "context_parallel": 2}, "one process"),
        ({"context_parallel": 2, "sequence_parallel": 2}, "not both"),
        ({"context_parallel": 3}, "multiple of 6"),
    ],
)
def test_recipes_that_cannot_share(tiny: Tiny, engine: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_recipe(tiny(engine=engine))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"temperature": {"rule": "per-head", "factor": 4.0}}, "temperature looks at a whole row"),
        ({"weighting": {"long_tokens": {"context": 8}}}, "long_tokens"),
        ({"weighting": {"far_drop": {"share": 0.2, "near": 8}}}, "far-drop"),
        (
            {"stages": [{"length": 32, "steps": 2, "grow": {"from": 16, "multiple_of": 2}}]},
            "rows of 2 tokens",
        ),
    ],
)
def test_what_looks_at_a_whole_row_is_refused(tiny: Tiny, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_recipe(tiny(engine={"context_parallel": 2}, **changes))


@pytest.mark.parametrize(
    ("part", "environment", "found"),
    [
        ({}, {}, ("context", 1)),
        ({"context_parallel": 2}, {}, ("context", 2)),
        ({"sequence_parallel": 4}, {}, ("sequence", 4)),
        ({}, {"PARALLELISM_CONFIG_CP_SIZE": "2"}, ("context", 2)),
        ({}, {"PARALLELISM_CONFIG_SP_SIZE": "2"}, ("sequence", 2)),
        ({"context_parallel": 2}, {"PARALLELISM_CONFIG_CP_SIZE": "2"}, ("context", 2)),
        ({"context_parallel": 4}, {"PARALLELISM_CONFIG_CP_SIZE": "2"}, "launcher says context, 2"),
        ({"sequence_parallel": 2}, {"PARALLELISM_CONFIG_CP_SIZE": "2"}, "launcher says context, 2"),
        ({}, {"PARALLELISM_CONFIG_TP_SIZE": "2"}, "tensor parallelism is not offered"),
        ({}, {"PARALLELISM_CONFIG_CP_SIZE": "-1"}, "makes no sense"),
    ],
)
def test_the_launcher_s_words_hold_where_the_recipe_is_silent(
    monkeypatch: pytest.MonkeyPatch, part: dict[str, int], environment: dict[str, str], found: Any
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    asked = EnginePart.model_validate(part)
    if isinstance(found, str):
        with pytest.raises(UsageError, match=found):
            _ways(asked)
    else:
        assert _ways(asked) == found


@pytest.mark.slow
def test_a_model_that_mixes_tokens_elsewhere_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    """A gated short convolution in some layers: nothing of a neighbour's slice reaches it."""
    recipe = recipe_for(tiny, "plain", name="ddp", context_parallel=2)
    recipe["model"]["init"] |= {
        "model_type": "lfm2",
        "num_hidden_layers": 3,
        "layer_types": ["conv", "full_attention", "conv"],
    }
    recipe.pop("rope")
    done = launch(recipe, tmp_path / "two")
    assert done.returncode != 0
    assert "mixes tokens outside of its attention" in done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["context_parallel", "sequence_parallel"])
def test_two_gpus_that_share_rows_are_one(tiny: Tiny, tmp_path: Path, way: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    one = train(recipe_for(tiny, "packed", name="single"), output=tmp_path / "one", quiet=True, device="cpu")
    done = launch(recipe_for(tiny, "packed", name="fsdp2", **{way: 2}), tmp_path / "two", "device=cuda")
    assert done.returncode == 0, done.stderr[-3000:]
    for mine, theirs in zip(metrics_of(one.run), metrics_of(tmp_path / "two")):
        assert theirs["loss"] == pytest.approx(mine["loss"], rel=1e-3)
