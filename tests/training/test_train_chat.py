"""Conversations: three spellings, the tokenizer's template, loss on the assistant alone, whole ones in rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ropewalk.errors import UsageError
from ropewalk.training.data.chat import Template, conversation_of
from ropewalk.training.data.mixture import mixture_of
from ropewalk.training.preview import preview
from ropewalk.training.recipe.reading import read_recipe
from ropewalk.training.run import train

Tiny = Callable[..., dict[str, Any]]
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}|\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "Two, then three?"},
    {"role": "assistant", "content": "2 and 3"},
]
# Written by hand: * under every byte that carries loss, the end of the turn included, its line feed not.
TEXT = "[system]Be brief.|\n[user]One?|\n[assistant]1|\n[user]Two, then three?|\n[assistant]2 and 3|\n"
MASK = (
    "                   " + "            " + "           **" + " " + "                        "
    "           ********" + " "
)


@pytest.fixture
def chat(tiny: Tiny, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def make(*lines: Any, length: int = 96, **changes: Any) -> dict[str, Any]:
        (tmp_path / "chat.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (tmp_path / "template.jinja").write_text(TEMPLATE)
        source = {
            "name": "talk",
            "kind": "chat",
            "paths": [str(tmp_path / "chat.jsonl")],
            "template": str(tmp_path / "template.jinja"),
        }
        stages = [{"length": length, "steps": 2}]
        return tiny(data={"sources": [source]}, stages=stages, tokens_per_step=2 * length, **changes)

    return make


def row_of(recipe: dict[str, Any]) -> Any:
    from ropewalk.training.model.build import build_tokenizer

    checked = read_recipe(recipe)
    tokenizer = build_tokenizer(checked.model)
    return mixture_of(checked, tokenizer).take(checked.longest), tokenizer


def test_the_loss_mask_is_the_hand_written_one(chat: Callable[..., dict[str, Any]]) -> None:
    assert len(TEXT) == len(MASK) == 89
    row, tokenizer = row_of(chat({"messages": MESSAGES}))
    assert tokenizer.decode(row.ids[:89]) == TEXT
    assert "".join("*" if weight else " " for weight in row.weights[:89]) == MASK
    assert not row.weights[89:].any()


def test_three_spellings_are_one_conversation() -> None:
    share = {
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "One?"},
            {"from": "gpt", "value": "1"},
            {"from": "human", "value": "Two, then three?"},
            {"from": "gpt", "value": "2 and 3"},
        ]
    }
    assert conversation_of(share, "x") == conversation_of({"messages": MESSAGES}, "x")
    alpaca = {"instruction": "One?", "input": "", "output": "1", "system": "Be brief."}
    assert conversation_of(alpaca, "x") == {"messages": MESSAGES[:3], "tools": None}
    tools = [{"type": "function", "function": {"name": "add"}}]
    for written in (tools, json.dumps(tools)):
        assert conversation_of({"messages": MESSAGES, "tools": written}, "x")["tools"] == tools


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"text": "no"}, "no conversation"),
        ({"messages": [{"content": "x"}]}, "without a role"),
        ({"messages": MESSAGES[:2]}, "no turn of the assistant"),
        ({"conversations": [{"value": "x"}]}, "without from and value"),
    ],
)
def test_what_is_no_conversation_is_named(line: Any, words: str) -> None:
    with pytest.raises(UsageError, match=rf"here:3 .*{words}"):
        conversation_of(line, "here:3")


def test_a_template_that_rewrites_earlier_turns_is_refused(byte_tokenizer: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    path = tmp_path / "odd.jinja"
    path.write_text("{% for m in messages %}{{ loop.length }}{{ m.content }}{% endfor %}")
    tokenizer = AutoTokenizer.from_pretrained(byte_tokenizer)
    with pytest.raises(UsageError, match="otherwise once others follow"):
        Template(tokenizer, str(path), "talk").spans({"messages": MESSAGES, "tools": None}, "talk:1")
    with pytest.raises(UsageError, match="no chat template"):
        Template(tokenizer, None, "talk")


def test_conversations_are_whole_and_apart(
    chat: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Packed with borders by themselves; a long one ends after an answer, and that is said."""
    short = {"messages": MESSAGES[1:3]}
    long = {
        "messages": [*MESSAGES, {"role": "user", "content": "x" * 90}, {"role": "assistant", "content": "y"}]
    }
    endless = {"messages": [{"role": "user", "content": "z" * 200}, {"role": "assistant", "content": "a"}]}
    recipe = chat(short, long, endless)
    checked = read_recipe(recipe)
    assert (checked.packing.boundaries, checked.packing.rows) == ("block-diagonal", "fit")
    texts = set()
    from ropewalk.training.model.build import build_tokenizer

    mixture = mixture_of(checked, tokenizer := build_tokenizer(checked.model))
    for _ in range(6):
        row = mixture.take(96)
        for number in range(len(row.names)):
            texts.add(tokenizer.decode(row.ids[row.documents == number]))
    assert texts == {TEXT, "[user]One?|\n[assistant]1|\n"}
    train(recipe, output=tmp_path / "run", quiet=True)
    assert (
        "of 3 conversations 1 end early, after the last answer that fits into 96 tokens, and 1 are left out"
        in (capsys.readouterr().err)
    )


def test_training_learns_the_answers_alone(chat: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """The first loss is the mean over the hand-marked tokens, by plain logits."""
    recipe = chat({"messages": MESSAGES})
    recipe["model"]["init"]["attention_dropout"] = 0.0
    recipe["evaluation"] = {"every": 10, "source": {"name": "h", "kind": "text", "paths": [__file__]}}
    seen: list[Any] = []

    def evaluate(model: Any, step: int) -> None:
        row, _ = row_of(recipe)
        if step == 0:
            logits = model(input_ids=torch.from_numpy(row.ids[:89])[None], use_cache=False).logits[0].detach()
            losses = torch.nn.functional.cross_entropy(
                logits[:-1], torch.from_numpy(row.ids[1:89]), reduction="none"
            )
            marks = torch.tensor([mark == "*" for mark in MASK[1:]])
            seen.append(losses[marks].mean().item())

    run = train(recipe, output=tmp_path / "run", quiet=True, evaluate=evaluate, device="cpu").run
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first = next(line for line in lines if line["kind"] == "train")
    assert first["loss"] == pytest.approx(seen[0], rel=1e-5)


def test_the_preview_shows_what_is_scored(
    chat: Callable[..., dict[str, Any]], cli: Any, tmp_path: Path
) -> None:
    import yaml

    recipe = chat({"messages": MESSAGES})
    [row] = preview(recipe, 1)
    assert "".join(text for text, _ in row.pieces) == TEXT
    assert [text for text, weight in row.pieces if weight] == ["1|", "2 and 3|"]
    assert (row.scored, row.padding, row.length) == (10, 7, 96)
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(recipe))
    done = cli("train", path, "--show", "3")
    assert done.code == 0
    assert done.out.count("--- row") == 3
    assert "[assistant]\u27ea2 and 3|\u27eb" in done.out
    assert len(cli("train", path, "--show", "2", "--json").json["rows"]) == 2
    assert cli("train", "--show", "2").code == 2
