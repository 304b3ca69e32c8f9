"""A factor for each request: inside the window stock bit for bit, beyond it one schedule from the first token on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from generation_models import KINDS, LONGROPE, model_of, some_tokens, whole_logits

import ropewalk
from ropewalk.attention.maps import applied
from ropewalk.errors import RopewalkError, UsageError
from ropewalk.generation.ladder import Ladder, Rung, in_force, ladder_for
from ropewalk.generation.request import Settings, generate
from ropewalk.generation.session import Session
from ropewalk.models.facts import read_facts
from ropewalk.models.stretch import ladder_document
from ropewalk.position_maps import map_for


def _stock(model, ids, count):
    """What transformers' own generate writes, and the logits of each step."""
    with torch.inference_mode():
        done = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return done.sequences[0, len(ids) :].tolist(), torch.cat(done.logits)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_inside_the_window_it_is_stock_bit_for_bit(kind):
    model, ids = model_of(kind), some_tokens(20)
    wanted, logits = _stock(model, ids, 12)
    with Session(model, ladder_for(model), tokens=32) as session:
        found = [session.read(ids)]
        for token in wanted[:-1]:
            found.append(session.read([token]))
    assert torch.equal(torch.stack(found), logits)
    done = generate(model, ids, max_new_tokens=12)
    assert list(done.ids) == wanted
    assert (done.factor, done.window, done.ended, done.forwarded) == (1.0, 32, "limit", 31)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_beyond_it_every_step_is_a_fresh_forward_under_one_schedule(kind):
    model, ids = model_of(kind), some_tokens(40)
    geometry = read_facts(model.config.to_dict()).geometry
    before = whole_logits(model, ids)
    with Session(model, ladder_for(model, method="ntk"), tokens=64, chunk=16) as session:
        steps = [session.read(ids[:30]), *(session.read([token]) for token in ids[30:])]
        assert (session.rung.factor, session.rung.window) == (2.0, 64)
    with ropewalk.apply(model, ropewalk.schedule("ntk", geometry, factor=2.0)):
        wanted = whole_logits(model, ids)
    assert torch.allclose(torch.stack(steps), wanted[29:], atol=2e-5)
    assert not torch.allclose(wanted[29:], before[29:], atol=1e-2)
    assert torch.equal(whole_logits(model, ids), before)


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_have_their_own_factor_and_never_meet(side):
    model = model_of("llama")
    rows = [some_tokens(8, 5), some_tokens(60, 6), some_tokens(25, 7)]
    alone = [generate(model, row, max_new_tokens=6, seed=number) for number, row in enumerate(rows)]
    padded = torch.zeros(3, 60, dtype=torch.long)
    mask = torch.zeros_like(padded)
    for number, row in enumerate(rows):
        place = slice(60 - len(row), 60) if side == "left" else slice(0, len(row))
        padded[number, place] = torch.tensor(row)
        mask[number, place] = 1
    together = generate(model, padded, attention_mask=mask, max_new_tokens=6)
    assert [(row.ids, row.logprobs, row.factor) for row in together] == [
        (row.ids, row.logprobs, row.factor) for row in alone
    ]
    assert [row.factor for row in together] == [1.0, 4.0, 1.0]
    assert [row.ids for row in generate(model, rows, max_new_tokens=6)] == [row.ids for row in alone]


def test_a_hole_in_the_mask_is_refused():
    with pytest.raises(UsageError, match="padding in the middle"):
        generate(model_of("llama"), torch.tensor([[5, 6, 7]]), attention_mask=torch.tensor([[1, 0, 1]]))
    with pytest.raises(UsageError, match="does not cover"):
        generate(model_of("llama"), torch.tensor([[5, 6, 7]]), attention_mask=torch.tensor([[1, 1]]))


def test_longrope_uses_the_set_of_the_whole_request():
    model, ids = model_of("llama", rope_parameters=LONGROPE, max_position_embeddings=128), some_tokens(34)
    long = whole_logits(model, ids)
    short = whole_logits(model, ids[:32])
    assert not torch.allclose(long[19], short[19], atol=1e-2)
    with Session(model, ladder_for(model), tokens=34) as session:
        steps = [session.read(ids[:20]), *(session.read([token]) for token in ids[20:])]
        assert (session.rung.factor, session.rung.window) == (4.0, 128)
    assert torch.allclose(torch.stack(steps), long[19:], atol=2e-5)
    with Session(model, ladder_for(model), tokens=32) as session:
        assert torch.allclose(session.read(ids[:20]), short[19], atol=2e-5)


def test_a_ladder_file_gives_its_rungs(tmp_path):
    model = model_of("llama")
    geometry = read_facts(model.config.to_dict()).geometry
    rungs = [ropewalk.schedule("linear", geometry, factor=factor) for factor in (3.0, 6.0)]
    path = tmp_path / "ladder.json"
    path.write_text(__import__("json").dumps(ladder_document(rungs)))
    ladder = ladder_for(model, schedule=path)
    assert [(rung.factor, rung.window) for rung in ladder.rungs] == [(1.0, 32), (3.0, 96), (6.0, 192)]
    assert [ladder.rung_for(tokens).factor for tokens in (1, 32, 33, 96, 97)] == [1.0, 1.0, 3.0, 3.0, 6.0]
    done = generate(model, some_tokens(90), max_new_tokens=4, schedule=path)
    assert (done.factor, done.ladder) == (3.0, str(path))
    with pytest.raises(UsageError, match="193 tokens are more than the widest window here, 192") as refusal:
        ladder.rung_for(193)
    assert refusal.value.hint.endswith("give a file that was made for a longer target")
    with pytest.raises(UsageError, match="another geometry"):
        generate(model_of("llama", max_position_embeddings=64), [5], schedule=path)


def test_a_stretched_model_serves_its_window_as_it_is():
    scaled = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
    model = model_of("llama", rope_parameters=scaled | {"beta_fast": 7.0}, max_position_embeddings=128)
    ladder = ladder_for(model)
    assert [(rung.factor, rung.window, rung.is_own) for rung in ladder.rungs[:3]] == [
        (4.0, 128, True),
        (8.0, 256, False),
        (16.0, 512, False),
    ]
    assert ladder.rungs[1].make().parameters["beta_fast"] == 7.0


def test_sampling_depends_on_the_seed_of_the_row_alone():
    model, ids = model_of("llama"), some_tokens(10)
    draw = {"max_new_tokens": 12, "temperature": 1.0, "top_p": 0.9}
    rows = generate(model, [ids, ids, ids], seed=4, **draw)
    assert generate(model, ids, seed=5, **draw).ids == rows[1].ids
    assert len({row.ids for row in rows}) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "writes nothing"),
        ({"max_new_tokens": None}, "needs to know where it ends"),
        ({"max_new_tokens": None, "dynamic": True}, "nor its tokenizer has an end token, so nothing"),
        (
            {"max_new_tokens": None, "dynamic": True, "stop_at_end": False},
            "end tokens are ignored and there is no limit: nothing",
        ),
        ({"cheap": True}, "a way of dynamic"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"top_p": 0.0}, "top_p=0.0"),
        ({"method": "yarm"}, "yarm"),
        ({"chunk": 0}, "chunk=0"),
        ({"max_tokens": 5}, "no setting 'max_tokens'"),
        ({"max_factor": 0.5}, "max_factor=0.5 leaves no window"),
        ({"max_factor": float("nan")}, "max_factor=nan leaves no window"),
        ({"max_factor": float("inf")}, "max_factor=inf leaves no window"),
        ({"growth": 1.0, "method": "zones"}, "growth=1 lets no epoch end"),
        ({"growth": float("nan"), "method": "self-extend"}, "growth=nan lets no epoch end"),
        ({"max_factor": 2.0, "max_new_tokens": 64}, "65 tokens are more than the widest window here, 64"),
    ],
)
def test_bad_wishes_are_refused_with_the_way_out(settings, message):
    with pytest.raises(UsageError, match=message) as refusal:
        generate(model_of("llama"), [5], **settings)
    assert refusal.value.hint


def test_bad_prompts_are_refused():
    model = model_of("llama")
    with pytest.raises(UsageError, match="prompt is empty"):
        generate(model, "", tokenizer=lambda text, verbose: {"input_ids": []})
    with pytest.raises(UsageError, match="prompt is empty"):
        generate(model, [[]])
    with pytest.raises(UsageError, match="no prompt"):
        generate(model, [])
    with pytest.raises(UsageError, match="without a tokenizer"):
        generate(model, "text")
    with pytest.raises(RopewalkError, match="outside the vocabulary of 64"):
        generate(model, [64])


def test_a_factor_that_the_model_cannot_carry_is_refused_and_leaves_no_trace():
    model, ids = model_of("llama"), some_tokens(20)
    before = whole_logits(model, ids)
    wrong = ropewalk.schedule(
        "ntk", ropewalk.RopeGeometry(head_dim=64, rope_theta=1e4, original_length=32), factor=2
    )
    ladder = Ladder("wrong", (Rung(2.0, 64, lambda: wrong),))
    with pytest.raises(RopewalkError, match=r"geometry|pairs|frequencies"), Session(model, ladder) as session:
        session.read(ids)
    assert torch.equal(whole_logits(model, ids), before)


def test_an_end_token_ends_it_and_can_be_ignored():
    model, ids = model_of("llama"), some_tokens(10)
    free = generate(model, ids, max_new_tokens=8)
    model.generation_config.eos_token_id = [free.ids[3]]
    first = free.ids.index(free.ids[3])
    done = generate(model, ids, max_new_tokens=8)
    assert (done.ids, done.ended) == (free.ids[:first], "end token")
    assert generate(model, ids, max_new_tokens=8, stop_at_end=False).ids == free.ids
    assert Settings().max_new_tokens == 256


def test_beams_and_assisted_decoding_run_inside_a_rung():
    model, assistant, ids = model_of("llama"), model_of("llama", num_hidden_layers=1), some_tokens(40)
    before = whole_logits(model, ids)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    row = torch.tensor([ids])
    with in_force(model, ladder_for(model, method="ntk").rung_for(48)), torch.inference_mode():
        greedy = model.generate(row, **options)[0, 40:].tolist()
        assert greedy == list(generate(model_of("llama"), ids, max_new_tokens=8, method="ntk").ids)
        assert model.generate(row, assistant_model=assistant, **options)[0, 40:].tolist() == greedy
        beams = model.generate(row, num_beams=2, num_return_sequences=2, **options)[:, 40:].tolist()
        scores = [
            float(whole_logits(model, ids + beam)[39:-1].log_softmax(-1)[range(8), beam].sum())
            for beam in (*beams, greedy)
        ]
        assert scores[0] >= max(scores[1:]) - 1e-4
    assert torch.equal(whole_logits(model, ids), before)


@pytest.mark.parametrize("name", ["zones", "self-extend", "dual-chunk"])
def test_a_position_map_makes_the_wider_windows(name):
    model, ids = model_of("qwen3"), some_tokens(50)
    done = generate(model, ids, max_new_tokens=10, method=name)
    assert (done.factor, done.window, done.ladder) == (2.0, 64, name)
    text = [*ids, *done.ids]
    with applied(model, map_for(name, read_facts(model.config.to_dict()).geometry, 64)):
        logs = whole_logits(model, text).log_softmax(-1)
    told = [float(logs[place - 1, text[place]]) for place in range(50, 60)]
    assert told == pytest.approx(list(done.logprobs), abs=1e-4)
    assert (
        generate(model, ids[:20], max_new_tokens=10, method=name).ids
        == generate(model, ids[:20], max_new_tokens=10).ids
    )
    climbed = generate(model, ids[:30], max_new_tokens=40, method=name, dynamic=True)
    assert (climbed.switches, climbed.factor) == ((33, 65), 4.0)
    scaled = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    with pytest.raises(UsageError, match="stretched already"):
        generate(model_of("qwen3", rope_parameters=scaled), ids, method=name)


def test_a_prompt_from_numpy_is_the_same_prompt():
    model, ids = model_of("llama"), some_tokens(20)
    wanted = generate(model, ids, max_new_tokens=3).ids
    assert generate(model, np.array(ids), max_new_tokens=np.int64(3)).ids == wanted
    assert generate(model, [np.int64(token) for token in ids], max_new_tokens=3).ids == wanted
    both = generate(model, np.array([ids, ids]), max_new_tokens=3)
    assert [done.ids for done in both] == [wanted, wanted]


@pytest.mark.parametrize("prompt", [None, 5, b"abc", np.int64(5)])
def test_what_is_no_prompt_is_refused(prompt):
    with pytest.raises(UsageError, match="neither text nor token ids"):
        generate(model_of("llama"), prompt, max_new_tokens=1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_new_tokens": "2"}, "max_new_tokens='2' is not a whole number"),
        ({"max_new_tokens": 2.5}, "max_new_tokens=2.5 is not a whole number"),
        ({"chunk": 1.5}, "chunk=1.5 is not a whole number"),
        ({"seed": None}, "is not a whole number"),
        ({"seed": 2**63}, "more than 64 bits"),
        ({"seed": -(2**63) - 1}, "more than 64 bits"),
    ],
)
def test_settings_that_are_no_whole_numbers_or_too_large_are_refused(settings, said):
    with pytest.raises(UsageError, match=said):
        Settings(**settings)
    assert Settings(seed=2**63 - 1).seed == 2**63 - 1


@pytest.mark.parametrize("given", [None, 5, {}])
def test_what_is_no_model_is_said_before_the_tokenizer_is_missed(given):
    with pytest.raises(UsageError, match="is not a transformers model: load one with"):
        generate(given, "text")


def test_numbers_that_were_fitted_on_another_model_are_warned_of(tmp_path, caplog):
    model, ids = model_of("llama"), some_tokens(20)
    geometry = read_facts(model.config.to_dict()).geometry
    made = ropewalk.schedule("ntk", geometry, factor=2.0).to_json()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    file = tmp_path / "schedule.json"
    file.write_text(json.dumps(made | {"fitted": {"model": str(tmp_path / "a")}}))
    heads = tmp_path / "heads.json"
    heads.write_text(
        json.dumps(
            {
                "format": "ropewalk-temperatures/1",
                "factor": 2.0,
                "layers": {"0": [1.1] * 4},
                "fitted": {"model": str(tmp_path / "a")},
            }
        )
    )
    for folder, said in (("a", []), ("b", [file, heads]), ("", [])):
        model.config.name_or_path = str(tmp_path / folder) if folder else ""
        caplog.clear()
        generate(model, ids, max_new_tokens=1, schedule=file, attention_temperature=str(heads))
        assert [record.getMessage().partition(" was fitted on ")[0] for record in caplog.records] == [
            str(one) for one in said
        ]


def test_a_learnt_prompt_is_not_left_out_in_silence():
    """PEFT puts it before the text in its wrapper: without that the model would write as its base does."""
    import peft

    wrapped = peft.get_peft_model(
        model_of("llama"), peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    )
    with pytest.raises(
        RopewalkError, match=r"PeftModelForCausalLM puts a learnt prompt .*PromptTuningConfig"
    ):
        generate(wrapped, some_tokens(10), max_new_tokens=1)
    adapted = peft.get_peft_model(
        model_of("llama"),
        peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False),
    )
    ids = some_tokens(10)
    with torch.no_grad():
        wanted = adapted(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1).max()
    assert generate(adapted, ids, max_new_tokens=1).logprobs[0] == pytest.approx(float(wanted), abs=1e-6)
