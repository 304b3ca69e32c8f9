"""Scores with a known answer, the tree of shared texts, chance beside every score, work that is not done twice."""

from __future__ import annotations

import copy
import json
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_models import ByteTokenizer, CopyModel, UniformModel, byte_level_tokenizer
from transformers import Lfm2Config, Lfm2ForCausalLM, LlamaConfig, LlamaForCausalLM

from ropewalk.errors import DamagedError, RopewalkError, UsageError
from ropewalk.evaluation.forward.engine import Engine
from ropewalk.evaluation.retrieval.grid import Node, common_prefix, tree_of
from ropewalk.evaluation.retrieval.run import (
    Asking,
    cropped_prompt,
    plan_tasks,
    run_cropped,
    run_plan,
    run_tasks,
)
from ropewalk.evaluation.retrieval.scores import SampleScore, by_length, generated, rows_of, wilson

TOKENIZER = ByteTokenizer()


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
    )
    return LlamaForCausalLM(config).eval()


def accuracies(rows: list[dict[str, Any]]) -> dict[tuple[int, float | None], float]:
    return {(row["length"], row["depth"]): row["accuracy"] for row in rows}


@pytest.mark.parametrize("scoring", ["teacher-forced", "forced-choice", "generation"])
@pytest.mark.parametrize("task", ["passkey", "needle", "kv", "distractors"])
def test_a_model_that_copies_perfectly_scores_one(task: str, scoring: str) -> None:
    rows = run_tasks(
        CopyModel(), TOKENIZER, tasks=[task], lengths=[450, 600], depths=3, samples=1, scoring=scoring
    )
    assert {row["accuracy"] for row in rows} == {1.0}
    assert {(row["length"], row["depth"]) for row in rows} == {
        (n, d) for n in (450, 600) for d in (0.0, 0.5, 1.0)
    }
    assert all(row["scoring"] == scoring and row["task"] == task and row["samples"] == 1 for row in rows)


def test_a_packed_grid_is_another_task_and_copying_solves_it_too() -> None:
    rows = run_tasks(
        CopyModel(), TOKENIZER, tasks=["needle"], grid="packed", lengths=[900], depths=5, samples=1
    )
    assert {row["task"] for row in rows} == {"needle-packed"}
    assert [row["depth"] for row in rows] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert {row["accuracy"] for row in rows} == {1.0}


@pytest.mark.parametrize(
    ("scoring", "blind"), [("forced-choice", 0.125), ("teacher-forced", 0.0), ("generation", 0.0)]
)
def test_a_model_that_cannot_see_past_a_window_scores_chance_past_it(scoring: str, blind: float) -> None:
    rows = run_tasks(
        CopyModel(window=300),
        TOKENIZER,
        tasks=["passkey"],
        lengths=[256, 800],
        depths=3,
        samples=1,
        scoring=scoring,
    )
    seen = accuracies(rows)
    assert [seen[256, depth] for depth in (0.0, 0.5, 1.0)] == [1.0, 1.0, 1.0]
    assert [seen[800, depth] for depth in (0.0, 0.5, 1.0)] == [blind, blind, 1.0]
    chances = {row["chance"] for row in rows}
    assert chances == ({0.125} if scoring == "forced-choice" else {1 / 90000})


def test_a_model_that_knows_nothing_scores_chance_with_the_log_probability_of_chance() -> None:
    rows = run_tasks(
        UniformModel(),
        TOKENIZER,
        tasks=["passkey"],
        lengths=[512],
        depths=2,
        scoring="forced-choice",
        num_choices=5,
    )
    assert {row["accuracy"] for row in rows} == {0.2}
    assert {row["chance"] for row in rows} == {0.2}
    # " 12345" is six bytes of 256 possible ones.
    assert all(row["logprob"] == pytest.approx(-6 * math.log(256), rel=1e-6) for row in rows)


@pytest.mark.parametrize("task", ["passkey", "kv", "multi-needle", "niah_multivalue"])
@pytest.mark.parametrize("scoring", ["teacher-forced", "forced-choice"])
def test_sharing_text_changes_no_number(llama: LlamaForCausalLM, task: str, scoring: str) -> None:
    plan = plan_tasks(
        TOKENIZER,
        Asking(tasks=[task], lengths=[600, 800], depths=2, samples=1),
        scoring=scoring,
        num_choices=3,
    )
    shared = {score.key: score for score in run_plan(llama, TOKENIZER, plan)}
    for sample in (sample for group in plan.groups for sample in group):
        prompt = sample.prompt_ids.tolist()
        told = []
        for answer in [sample.answer_ids, *(choice.ids for choice in sample.choices)]:
            with torch.no_grad():
                logits = (
                    llama(input_ids=torch.tensor([[*prompt, *answer]]))
                    .logits[0, len(prompt) - 1 : -1]
                    .double()
                )
            picked = logits.log_softmax(-1)[range(len(answer)), list(answer)]
            told.append((picked, logits.argmax(-1).tolist()))
        score = shared[sample.key]
        if scoring == "forced-choice":
            sums = [float(picked.sum()) for picked, _ in told]
            assert score.credit == float(sums[0] == max(sums))
            assert score.logprob == pytest.approx(sums[0], abs=1e-3)
        else:
            scored = [span.scored for span in sample.answer for _ in span.ids]
            expected = float(told[0][0][torch.tensor(scored)].sum())
            assert score.logprob == pytest.approx(expected, abs=1e-3)


def test_a_recurrent_model_is_copied_at_forks_and_gives_the_same_numbers() -> None:
    torch.manual_seed(0)
    config = Lfm2Config(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention"],
    )
    model = Lfm2ForCausalLM(config).eval()
    plan = plan_tasks(TOKENIZER, Asking(tasks=["multi-needle"], lengths=[500, 600], samples=1))
    samples = {sample.key: sample for group in plan.groups for sample in group}
    found = run_plan(model, TOKENIZER, plan)
    assert {score.key for score in found} == set(samples)
    for score in found:
        sample = samples[score.key]
        prompt, answer = sample.prompt_ids.tolist(), list(sample.answer_ids)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[
                0, len(prompt) - 1 : -1
            ]
        picked = logits.double().log_softmax(-1)[range(len(answer)), answer]
        assert score.logprob == pytest.approx(float(picked.sum()), abs=1e-3)


def test_each_token_that_differs_is_read_once() -> None:
    plan = plan_tasks(TOKENIZER, Asking(tasks=["needle"], lengths=[512, 1024], depths=5, samples=1))
    [group] = plan.groups
    prompts = [sample.prompt_ids.tolist() for sample in group]
    distinct = len({tuple(prompt[:end]) for prompt in prompts for end in range(1, len(prompt) + 1)})
    model = CopyModel()
    engine = Engine(model)
    model.tokens_read = 0
    run_plan(engine, TOKENIZER, plan)
    answers = sum(len(sample.answer_ids) for sample in group)
    naive = sum(len(prompt) for prompt in prompts) + answers
    assert model.tokens_read <= 1.02 * distinct + answers
    assert model.tokens_read < 0.65 * naive


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=9), min_size=1, max_size=12),
    st.sampled_from([1, 3, 50]),
)
def test_the_tree_holds_every_sequence(lists: list[list[int]], least: int) -> None:
    sequences = [np.array(ids, dtype=np.int32) for ids in lists]
    root = tree_of(sequences, least=least)
    found: dict[int, list[int]] = {}

    def descend(node: Node, before: list[int]) -> None:
        here = before + sequences[node.source][node.start : node.stop].tolist()
        assert len(here) == node.stop
        for index in node.ends:
            found[index] = here
        for child in node.children:
            assert child.start == node.stop
            descend(child, here)

    descend(root, [])
    assert found == dict(enumerate(lists))
    if least == 1:
        assert root.tokens() == len({tuple(ids[:end]) for ids in lists for end in range(1, len(ids) + 1)})


def test_common_prefix_of_unequal_lengths() -> None:
    left, right = np.array([1, 2, 3], dtype=np.int32), np.array([1, 2], dtype=np.int32)
    assert common_prefix(left, right) == 2
    assert common_prefix(left, left[1:]) == 0


def test_finished_samples_are_kept_and_not_computed_again() -> None:
    wanted = {"tasks": ["passkey"], "lengths": [256, 512], "depths": 3, "samples": 2, "seed": 5}
    model = CopyModel()
    kept: list[SampleScore] = []

    def stop_after_five(score: SampleScore) -> None:
        kept.append(SampleScore.from_json(json.loads(json.dumps(score.to_json()))))
        if len(kept) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_tasks(model, TOKENIZER, on_score=stop_after_five, **wanted)
    assert len(kept) == 5
    again: list[SampleScore] = []
    resumed = run_tasks(model, TOKENIZER, finished=kept, on_score=again.append, **wanted)
    assert len(again) == 12 - 5
    assert not {score.key for score in again} & {score.key for score in kept}
    assert resumed == run_tasks(model, TOKENIZER, **wanted)
    engine = Engine(model)
    model.tokens_read = 0
    run_tasks(engine, TOKENIZER, finished=[*kept, *again], **wanted)
    assert model.tokens_read == 0


def test_kept_scores_of_another_version_are_damaged() -> None:
    with pytest.raises(DamagedError, match="incomplete"):
        SampleScore.from_json({"task": "passkey"})


def test_groups_shared_out_over_processes_give_identical_scores(llama: LlamaForCausalLM) -> None:
    plan = plan_tasks(TOKENIZER, Asking(tasks=["passkey", "kv"], lengths=[400, 600], depths=2, samples=2))
    alone = {score.key: score for score in run_plan(llama, TOKENIZER, plan)}
    together = [score for rank in range(3) for score in run_plan(llama, TOKENIZER, plan, share=(rank, 3))]
    assert len(together) == len(alone) == plan.samples
    assert {score.key: score for score in together} == alone


def test_progress_ends_at_the_total(llama: LlamaForCausalLM) -> None:
    seen: list[tuple[int, int]] = []
    run_tasks(
        llama,
        TOKENIZER,
        tasks=["passkey"],
        lengths=[256, 512],
        depths=3,
        samples=2,
        on_tokens=lambda done, total: seen.append((done, total)),
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1]
    assert len({total for _, total in seen}) == 1


def test_a_value_that_is_not_a_number_names_its_cell(llama: LlamaForCausalLM) -> None:
    broken = LlamaForCausalLM(llama.config).eval()
    with torch.no_grad():
        broken.model.embed_tokens.weight[ord("W")] = float("nan")
    engine = Engine(broken)
    with pytest.raises(
        RopewalkError, match=r"task passkey, length 256, depth 0\.5: .*position \d+.*not a finite"
    ):
        run_tasks(engine, TOKENIZER, tasks=["passkey"], lengths=[256], depths=1, samples=1)


def test_a_model_whose_cache_is_not_exact_is_read_whole(llama: LlamaForCausalLM) -> None:
    wanted = {"tasks": ["kv"], "lengths": [400, 600], "depths": 2, "samples": 1}
    through_cache = run_tasks(llama, TOKENIZER, **wanted)
    engine = Engine(llama)
    engine.chunkable = False
    whole = run_tasks(engine, TOKENIZER, **wanted)
    for one, other in zip(through_cache, whole, strict=True):
        assert one.pop("logprob") == pytest.approx(other.pop("logprob"), abs=1e-3)
        assert one == other
    with pytest.raises(UsageError, match="cannot generate"):
        run_tasks(engine, TOKENIZER, scoring="generation", **wanted)


def test_rows_carry_chance_samples_and_an_interval() -> None:
    def score(depth: float, index: int, credit: float) -> SampleScore:
        return SampleScore("kv", 64, depth, index, 0, "teacher-forced", "full", credit, 0.25, -1.0 - index)

    rows = rows_of([score(0.5, 1, 0.0), score(0.0, 0, 1.0), score(0.5, 0, 1.0)])
    assert [(row["depth"], row["accuracy"], row["samples"]) for row in rows] == [(0.0, 1.0, 1), (0.5, 0.5, 2)]
    assert rows[1]["logprob"] == -1.5
    assert rows[1]["chance"] == 0.25
    assert rows[1]["ci"][0] < 0.5 < rows[1]["ci"][1]
    assert by_length(rows) == [{"length": 64, "accuracy": 2 / 3, "chance": 0.25, "samples": 3}]


def test_wilsons_interval_is_the_textbooks() -> None:
    low, high = wilson(0.5, 10)
    assert (round(low, 4), round(high, 4)) == (0.2366, 0.7634)
    assert wilson(0.0, 4)[0] == 0.0
    assert wilson(1.0, 4)[1] == 1.0


def test_a_generated_answer_must_stand_as_a_word_of_its_own() -> None:
    [[sample]] = plan_tasks(TOKENIZER, Asking(tasks=["passkey"], lengths=[300], depths=1, samples=1)).groups
    value = sample.answer_text.strip()
    assert generated(sample, f"I think it is {value}.").credit == 1.0
    assert generated(sample, f"{value}0").credit == 0.0
    assert generated(sample, "").credit == 0.0
    [[listed]] = plan_tasks(TOKENIZER, Asking(tasks=["niah_multivalue"], lengths=[900], samples=1)).groups
    values = [span.text.strip() for span in listed.answer if span.scored]
    assert generated(listed, f"{values[2]} and {values[0]}").credit == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scoring": "guess"}, "no scoring 'guess'"),
        ({"grid": "loose"}, "'loose' is not one of shared, packed"),
        ({"style": "poem"}, "'poem' is not one of"),
        ({"style": "chat"}, "no chat template"),
        ({"lengths": []}, "no length"),
        ({"depths": [0.5, 1.5]}, "not distinct and between 0 and 1"),
        ({"depths": [0.5, 0.5]}, "not distinct"),
        ({"samples": 0}, "ask nothing"),
        ({"tasks": ["paskey"]}, "no retrieval task"),
        ({"lengths": [40, 4096]}, "does not fit in length 40"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_computed(
    options: dict[str, Any], message: str
) -> None:
    wanted = {"tasks": ["passkey"], "lengths": [512]} | options
    with pytest.raises(RopewalkError, match=message) as caught:
        run_tasks(CopyModel(), TOKENIZER, **wanted)
    assert caught.value.hint


def test_a_tokenizer_of_another_model_is_named() -> None:
    class Large(ByteTokenizer):
        def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
            return [byte + 300 for byte in text.encode()]

    with pytest.raises(RopewalkError, match="outside the vocabulary of 256"):
        run_tasks(CopyModel(), Large(), tasks=["passkey"], lengths=[300], depths=1, samples=1)


def test_dynamic_models_read_each_length_by_its_own_rule() -> None:
    torch.manual_seed(0)
    rope = {
        "rope_type": "dynamic",
        "factor": 4.0,
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 256,
    }
    config = LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, rope_parameters=rope,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    engine = Engine(model)
    assert engine.regime is not None
    together = run_tasks(engine, TOKENIZER, tasks=["kv"], lengths=[400, 800], depths=2, samples=1)
    apart = [
        row
        for length in (400, 800)
        for row in run_tasks(
            engine, TOKENIZER, tasks=["kv"], lengths=[length], depths=2, samples=1, template="compact"
        )
    ]
    for one, other in zip(together, apart, strict=True):
        assert one["logprob"] == pytest.approx(other["logprob"], abs=1e-4)


def test_a_cropped_prompt_of_a_dynamic_model_is_read_inside_its_window() -> None:
    """Held by a plain forward over 256 tokens: the room kept free behind the answer must not turn the rotation."""
    torch.manual_seed(0)
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 256}
    config = LlamaConfig(
        vocab_size=256, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, rope_parameters=rope, initializer_range=0.2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    # A copy that has read nothing else: dynamic modules remember the longest text that they saw.
    plain = copy.deepcopy(model)
    plan = plan_tasks(TOKENIZER, Asking(tasks=["passkey"], lengths=[600], depths=1, samples=1))
    [[sample]], [found] = plan.groups, run_cropped(model, TOKENIZER, plan, 256)
    whole = torch.tensor([[*sample.prompt_ids.tolist(), *sample.answer_ids][-256:]])
    with torch.inference_mode():
        said = plain(input_ids=whole, use_cache=False).logits[0, :-1].log_softmax(-1)
    answer = len(sample.answer_ids)
    wanted = said[-answer:].gather(-1, whole[0, -answer:, None]).sum()
    assert found.logprob == pytest.approx(float(wanted), abs=1e-4)


def test_a_cropped_chat_prompt_is_still_a_message() -> None:
    tokenizer = byte_level_tokenizer()
    plan = plan_tasks(tokenizer, Asking(tasks=["passkey"], lengths=[500], depths=1, samples=1))
    [[sample]] = plan.groups
    assert plan.style == "chat"
    found, whole = cropped_prompt(sample, 128).tolist(), sample.prompt_ids.tolist()
    opening = tokenizer.convert_tokens_to_ids(["<s>", "<|user|>"])
    assert len(found) + len(sample.answer_ids) == 128
    assert found == [*opening, *whole[-(128 - len(sample.answer_ids) - 2) :]]
    assert cropped_prompt(sample, 500).tolist() == whole


def test_random_seeds_are_not_python_hashes() -> None:
    """The same question on every machine: the seeds are strings, which `random.Random` hashes by content."""
    [[sample]] = plan_tasks(
        TOKENIZER, Asking(tasks=["passkey"], lengths=[300], depths=1, samples=1, seed=7)
    ).groups
    rng = random.Random("7/passkey/0")
    assert sample.answer_text.strip() == str(rng.randrange(10**4, 10**5))
