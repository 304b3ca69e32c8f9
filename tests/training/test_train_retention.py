"""Short rows stay near the base: the loss is the plain one plus the distance, by hand; nothing where nothing moved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_resume import assert_same_run, metrics_of, stopped_run
from tinymodels import small_model, some_tokens

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.training import loop as loop_module
from ropewalk.training.parts.options import PartsOptions
from ropewalk.training.parts.packing import PackingOptions
from ropewalk.training.parts.retention.options import RetentionOptions
from ropewalk.training.parts.retention.teacher import Retention, chosen_layers
from ropewalk.training.run import train

Tiny = Callable[..., dict[str, Any]]
YARN = {"method": "linear", "target_length": 128}


@pytest.fixture
def base(tiny: Tiny, tmp_path: Path) -> str:
    recipe = tiny(stages=[{"length": 32, "steps": 4}], optimizer={"learning_rate": 0.05, "warmup_steps": 1})
    recipe["model"]["init"]["attention_dropout"] = 0.0
    return str(train(recipe, output=tmp_path / "base", quiet=True).final["path"])


def recipe_for(tiny: Tiny, base: str, **changes: Any) -> dict[str, Any]:
    given = {
        "model": {"path": base},
        "rope": YARN,
        "stages": [{"length": 64, "steps": 3, "mix": {32: 0.5}}],
        "retention": {"distil": 700.0, "layers": 2},
    }
    return tiny(**(given | changes))


def losses_of(run: Path) -> list[float]:
    return [line["loss"] for line in metrics_of(run) if line["kind"] == "train"]


def test_the_distance_is_the_hand_made_one(tiny: Tiny, tmp_path: Path, base: str) -> None:
    """First step, short rows only: plain loss + 700 * mean over two layers of |h - h'|^2 / |h'|^2 over the tokens."""
    from transformers import AutoModelForCausalLM

    import ropewalk

    seen: list[torch.Tensor] = []
    real = loop_module.Loop.transform

    def transform(self: Any, batch: Any, number: int) -> Any:
        if self.step == 0:
            seen.append(batch["input_ids"])
        return real(self, batch, number)

    short = [{"length": 32, "steps": 1}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module.Loop, "transform", transform)
        kept = train(recipe_for(tiny, base, stages=short), output=tmp_path / "kept", quiet=True)
    plain = train(recipe_for(tiny, base, stages=short, retention=None), output=tmp_path / "plain", quiet=True)
    [ids] = seen
    teacher, student = (AutoModelForCausalLM.from_pretrained(base).eval() for _ in range(2))
    geometry = ropewalk.read_geometry(student.config.to_dict())
    ropewalk.apply(student, ropewalk.schedule("linear", geometry, factor=4.0))
    outputs = [model.model.layers for model in (student, teacher)]
    states: list[list[torch.Tensor]] = [[], []]
    for layers, found in zip(outputs, states):
        for layer in layers:
            layer.register_forward_hook(lambda _m, _a, out, found=found: found.append(out))
    with torch.no_grad():
        for model in (student, teacher):
            model(ids)
    apart = [
        ((mine - aim) ** 2).sum(-1) / (aim**2).sum(-1) for mine, aim in zip(states[0], states[1], strict=True)
    ]
    wanted = torch.stack(apart).mean(0)[:, :-1].mean().item()
    assert wanted > 1e-6
    assert losses_of(kept.run)[0] - losses_of(plain.run)[0] == pytest.approx(700 * wanted, rel=0.02, abs=1e-9)


def test_a_model_that_is_not_stretched_is_at_no_distance(tiny: Tiny, tmp_path: Path, base: str) -> None:
    changes: dict[str, Any] = {"rope": None, "stages": [{"length": 32, "steps": 1}]}
    kept = train(recipe_for(tiny, base, **changes), output=tmp_path / "kept", quiet=True)
    plain = train(recipe_for(tiny, base, retention=None, **changes), output=tmp_path / "plain", quiet=True)
    assert losses_of(kept.run) == pytest.approx(losses_of(plain.run), rel=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lora": {"rank": 2}},
        {"memory": {"checkpointing": True}, "packing": {"boundaries": "block-diagonal"}},
    ],
    ids=["full", "lora", "checkpointing"],
)
def test_it_resumes_bit_for_bit_with_the_bases_own_weights(
    tiny: Tiny, tmp_path: Path, base: str, changes: dict[str, Any]
) -> None:
    recipe = recipe_for(tiny, base, checkpoints={"every": 1, "keep_last": None}, **changes)
    train(recipe, output=tmp_path / "whole", quiet=True)
    stopped_run(recipe, tmp_path / "parts", 2)
    train(recipe, output=tmp_path / "parts", resume=True, quiet=True)
    assert losses_of(tmp_path / "whole") == losses_of(tmp_path / "parts")
    if "lora" not in changes:
        assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_what_it_cannot_serve_is_refused(tiny: Tiny, tmp_path: Path, base: str) -> None:
    with pytest.raises(UsageError, match="no row of at most 32 tokens"):
        train(recipe_for(tiny, base, stages=[{"length": 64, "steps": 1}]), output=tmp_path / "a", quiet=True)
    with pytest.raises(RopewalkError, match="a new model"):
        train(tiny(retention={}), output=tmp_path / "b", quiet=True)
    shared = {"engine": {"context_parallel": 2}, "stages": [{"length": 64, "steps": 1}]}
    with pytest.raises(RopewalkError, match="retention looks at a whole row"):
        train(recipe_for(tiny, base, **shared), output=tmp_path / "c", quiet=True)


@pytest.mark.parametrize(
    ("layers", "count", "wanted"),
    [(5, 1, [4]), (5, 2, [1, 4]), (5, 3, [0, 2, 4]), (6, 3, [1, 3, 5]), (2, 3, [0, 1]), (4, 4, [0, 1, 2, 3])],
)
def test_layers_stand_at_equal_steps_to_the_last(layers: int, count: int, wanted: list[int]) -> None:
    model = torch.nn.Module()
    model.blocks = torch.nn.ModuleList(torch.nn.Linear(1, 1) for _ in range(layers))
    model.few = torch.nn.ModuleList([torch.nn.Linear(1, 1)])
    assert [list(model.blocks).index(layer) for layer in chosen_layers(model, count)] == wanted


def test_the_distance_and_where_it_applies_by_hand() -> None:
    """The mean over layers of sum w |h - h'|^2 / |h'|^2, times `distil`."""
    model = small_model()
    made = Retention.of(RetentionOptions(distil=3.0, layers=2), model, window=20, shortest=20)
    assert made is not None
    assert made.teacher is not model
    assert not made.teacher.training
    assert not any(item.requires_grad for item in made.teacher.parameters())
    assert Retention.of(None, model, window=20, shortest=900) is None
    with pytest.raises(UsageError, match="no row of at most 20 tokens") as caught:
        Retention.of(RetentionOptions(), model, window=20, shortest=21)
    assert "mix: {20: 0.25}" in str(caught.value.hint)
    for length, applies in ((19, True), (20, True), (21, False)):
        assert made.applies({"input_ids": torch.zeros(3, length)}) is applies
    tokens = some_tokens(2, 20)
    states: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _m, _a, out: states.append(out))
        for layer in made.teacher.model.layers
    ]
    with torch.no_grad():
        made.teacher.model(input_ids=tokens)
    for hook in hooks:
        hook.remove()
    made.install(PartsOptions(packing=PackingOptions(boundaries="none")), model, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    mine = [state + torch.randn(state.shape, generator=generator) for state in states]
    weights = torch.rand(2, 20, generator=generator)
    inputs = {"input_ids": tokens, "target_ids": tokens, "token_weights": weights, "weigher": None}
    found = made.distance(mine, inputs, weights)
    wanted = 0.0
    for state, aim in zip(mine, states, strict=True):
        for row in range(2):
            for place in range(20):
                apart = float((state[row, place] - aim[row, place]).double().square().sum())
                wanted += float(weights[row, place]) * apart / float(aim[row, place].double().square().sum())
    assert found.item() == pytest.approx(3.0 * wanted / 2, rel=1e-4)
    # Nothing is kept of what runs outside, and inside every watched layer once, of whichever model runs.
    model.model(input_ids=tokens)
    with made.watching() as seen:
        model.model(input_ids=tokens)
        assert len(seen) == 2
    with made.watching() as seen:
        made._note(model, None, (torch.ones(1), 5))
        made._note(model, None, torch.ones(2))
        assert [item.tolist() for item in seen] == [[1.0], [1.0, 1.0]]
