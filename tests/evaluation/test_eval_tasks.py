"""Task samples: exact length, exact depth, the same for the same seed, and a refusal where nothing fits."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_models import ByteTokenizer, byte_level_tokenizer, space_marking_tokenizer

from ropewalk.errors import RopewalkError, UsageError
from ropewalk.evaluation.retrieval.grid import common_prefix
from ropewalk.evaluation.retrieval.run import Asking, plan_tasks
from ropewalk.evaluation.tasks import (
    GROUPS,
    KINDS,
    TEMPLATES,
    ByteEncoder,
    Question,
    Sample,
    Setting,
    TokenizerEncoder,
    chat_frame,
    completion_frame,
    even_depths,
    find_kinds,
    make_groups,
    text_sample,
)
from ropewalk.evaluation.tasks.haystack import Filler
from ropewalk.evaluation.tasks.qa import read_questions
from ropewalk.evaluation.tasks.registry import PACKED
from ropewalk.evaluation.tasks.values import FORMS
from ropewalk.text import words
from ropewalk.text.sentences import LONGEST, sentences_of

QUESTIONS = tuple(
    Question(
        f"Who made the {noun}?",
        (f"Mr {noun.title()}", f"Mister {noun}"),
        f"The {noun} is by Mr {noun.title()}.",
    )
    for noun in words.NOUNS[:120]
)


def byte_setting(**options: object) -> Setting:
    encoder = ByteEncoder()
    return Setting(encoder=encoder, frame=completion_frame(encoder), questions=QUESTIONS, **options)


@pytest.fixture(scope="module")
def bpe() -> Any:
    return byte_level_tokenizer()


@pytest.fixture(scope="module", params=[byte_level_tokenizer, space_marking_tokenizer])
def trained(request: pytest.FixtureRequest) -> Any:
    return request.param()


def every_sample(setting: Setting, name: str, length: int, count: int = 2) -> list[Sample]:
    groups = make_groups(name, setting, lengths=[length], depths=even_depths(5), samples=count)
    return [sample for group in groups for sample in group]


@pytest.mark.parametrize("name", KINDS)
def test_samples_have_exactly_the_length_asked_for(name: str) -> None:
    setting = byte_setting()
    for length in (1536, 1537, 3000):
        for sample in every_sample(setting, name, length):
            ids = sample.prompt_ids.tolist()
            assert len(ids) + len(sample.answer_ids) == length == sample.length
            assert sample.prompt == bytes(ids).decode()
            assert sample.answer_text == bytes(sample.answer_ids).decode()


@pytest.mark.parametrize("name", KINDS)
def test_trained_tokenizers_give_exact_lengths_and_the_tokens_of_the_whole_text(
    name: str, trained: Any
) -> None:
    encoder = TokenizerEncoder(trained)
    setting = Setting(encoder=encoder, frame=completion_frame(encoder), questions=QUESTIONS)
    for sample in every_sample(setting, name, 1200, count=1):
        ids = [*sample.prompt_ids.tolist(), *sample.answer_ids]
        assert ids[0] == trained.bos_token_id
        assert len(ids) == 1200
        # Put together from pieces, yet the tokens of the text in one go, but for the seam where filler is cut off.
        # A space-marking tokenizer sets a space of its own before the text's own first one.
        text = sample.prompt + sample.answer_text
        whole = [np.array(trained.encode(written)) for written in (text, text.lstrip(" "))]
        shared, joined = max((common_prefix(np.array(ids), tokens), len(tokens)) for tokens in whole)
        assert shared >= 1200 - len(sample.answer_ids) - 130
        assert abs(joined - 1200) <= 2


def test_prompts_of_whole_sentences_are_tokenised_as_in_one_go(trained: Any) -> None:
    encoder = TokenizerEncoder(trained)
    text = " The grass is green. The sky is blue.\nWhat is the pass key? The pass key is"
    pieces = [" The sky is blue.", "\nWhat is the pass key?", " The pass key is"]
    ids = list(encoder.opening) + list(encoder.beginning(" The grass is green."))
    assert ids + [i for part in pieces for i in encoder.ids(part)] == trained.encode(text)
    assert encoder.text(encoder.ids(" The sky is blue.")) == " The sky is blue."


@pytest.mark.parametrize("name", KINDS)
def test_the_same_seed_gives_the_same_samples_and_another_seed_others(name: str) -> None:
    def prompts(seed: int) -> list[bytes]:
        setting = byte_setting(seed=seed)
        return [
            s.prompt_ids.tobytes() + str(s.answer_ids).encode() for s in every_sample(setting, name, 2000)
        ]

    assert prompts(3) == prompts(3)
    assert prompts(3) != prompts(4)


@pytest.mark.parametrize(
    "name", [name for name, kind in KINDS.items() if kind.by_depth and name not in PACKED.values()]
)
def test_depth_is_exact_to_the_sentence(name: str) -> None:
    setting = byte_setting()
    [group] = make_groups(name, setting, lengths=[2048], depths=even_depths(5), samples=1)
    for sample in group:
        layout = sample.layout
        places = [place for place, piece in layout.slots if sample.answer[0].text.strip() in piece.text]
        assert places == [round(sample.depth * layout.count)]
        before, _, after = sample.content.partition(layout.slots[0][1].text)
        assert (before == layout.head.text) == (layout.slots[0][0] == 0)
        assert after


def test_depths_0_and_1_stand_before_the_first_and_after_the_last_whole_sentence() -> None:
    [group] = make_groups(
        "passkey", byte_setting(), lengths=[600], depths=[0.0, 1.0], samples=1, template="compact"
    )
    first, last = (sample.content for sample in group)
    assert first.startswith(" The pass key is")
    tail = last.partition(" The pass key is")[2]
    # Only the beginning of one more sentence, cut to the token, stands between the needle and the question.
    assert len(re.findall(r"\.", tail.partition("\n")[0])) <= 2


@pytest.mark.parametrize("name", KINDS)
def test_the_answer_stands_in_the_text_and_wrong_answers_are_wrong(name: str) -> None:
    for sample in every_sample(byte_setting(num_choices=6), name, 2500):
        for span in sample.answer:
            if span.scored:
                assert span.text.strip() in sample.content
        assert len(sample.choices) == min(5, (KINDS[name].offered or 6) - 1)
        texts = [choice.text for choice in sample.choices]
        assert sample.answer_text not in texts
        assert len(set(texts)) == len(sample.choices)


@pytest.mark.parametrize("name", ["passkey", "needle", "kv", "niah_multikey_2"])
def test_the_key_is_asked_once_and_nothing_else_holds_its_value(name: str) -> None:
    for sample in every_sample(byte_setting(), name, 4000):
        value = sample.answer[0].text.strip()
        needle = TEMPLATES[name][sample.template]["needle"]
        assert sample.content.count(value) == needle.count("{value}")


def test_wrong_numbers_have_as_many_tokens_as_the_right_one(bpe: Any) -> None:
    encoder = TokenizerEncoder(bpe)
    setting = Setting(encoder=encoder, frame=completion_frame(encoder))
    for sample in every_sample(setting, "passkey", 600, count=4):
        assert {len(choice.ids) for choice in sample.choices} == {len(sample.answer_ids)}


def test_cells_share_their_text_up_to_the_needle() -> None:
    [group] = make_groups("needle", byte_setting(), lengths=[1024, 2048], depths=[0.5, 1.0], samples=1)
    short_middle, short_end, long_middle, _ = (sample.prompt_ids for sample in group)
    needle = bytes(short_middle.tolist()).index(b" The number of")
    assert np.array_equal(short_middle[:needle], short_end[:needle])
    assert np.array_equal(short_middle[:needle], long_middle[:needle])


def test_lengths_of_one_run_share_one_wording() -> None:
    setting = byte_setting()
    short = make_groups("passkey", setting, lengths=[256, 65536], depths=[0.5], samples=1)
    long = make_groups("passkey", setting, lengths=[4096, 65536], depths=[0.5], samples=1)
    assert {sample.template for sample in short[0]} == {"compact"}
    assert {sample.template for sample in long[0]} == {"full"}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_fits_a_window_of_512_bytes_or_says_what_it_needs(name: str) -> None:
    def make(length: int) -> list[Sample]:
        return KINDS[name](byte_setting(template="compact"), 0).samples(length, [0.0, 0.5, 1.0])

    with pytest.raises(UsageError, match=f"task '{name}' does not fit in length 50: it needs") as caught:
        make(50)
    needed = max(512, int(re.search(r"at least (\d+) tokens", caught.value.message).group(1)))
    assert needed <= 700
    assert all(len(sample.prompt_ids) + len(sample.answer_ids) == needed for sample in make(needed))


def test_the_least_length_is_named_exactly() -> None:
    task = KINDS["passkey"](byte_setting(template="compact"), 0)
    with pytest.raises(
        UsageError, match=r"does not fit in length 100: it needs at least 1\d\d tokens"
    ) as caught:
        task.samples(100, [0.5])
    needed = int(re.search(r"at least (\d+)", caught.value.message).group(1))
    assert task.samples(needed, [0.5])
    with pytest.raises(UsageError):
        task.samples(needed - 1, [0.5])
    assert "leave the task out" in caught.value.hint


def test_more_depths_than_places_are_refused() -> None:
    with pytest.raises(UsageError, match="does not fit"):
        KINDS["passkey"](byte_setting(template="compact"), 0).samples(200, even_depths(11))


def test_chance_is_one_over_the_number_of_possible_values() -> None:
    sample = every_sample(byte_setting(), "passkey", 2048)[0]
    assert sample.chance == pytest.approx(1 / 90000)
    assert FORMS["full"]["uuid"].possibilities == 16**32
    drawn = {FORMS["compact"]["number"].draw(random.Random(i)) for i in range(200)}
    assert all(re.fullmatch(r"[1-9]\d{4}", value) for value in drawn)


def test_ruler_is_its_eleven_synthetic_kinds() -> None:
    assert len(GROUPS["ruler"]) == 11
    assert find_kinds(["ruler", "passkey", "vt"]) == [*GROUPS["ruler"], "passkey"]
    assert find_kinds(["niah-single-1"]) == ["niah_single_1"]
    with pytest.raises(UsageError, match="no retrieval task 'pasky'") as caught:
        find_kinds(["pasky"])
    assert "passkey" in caught.value.hint


def test_variable_tracking_asks_for_one_chain_and_not_for_the_other() -> None:
    sample = every_sample(byte_setting(), "vt", 3000)[0]
    chain = [span.text.strip() for span in sample.answer if span.scored]
    assignments = dict(re.findall(r"VAR (\w+) = (?:VAR )?(\w+)", sample.content))
    value = assignments[chain[0]]
    assert value.isdigit()
    assert [assignments[name] for name in chain[1:]] == chain[:-1]
    held = {value, *chain}
    assert {name for name, source in assignments.items() if source in held} == set(chain)


def test_common_words_are_the_most_common_in_order_of_appearance() -> None:
    for sample in every_sample(byte_setting(), "cwe", 4000):
        listed = sample.layout.filler.text(0, sample.layout.count).split()
        listed += sample.content.partition(sample.layout.question.text)[0].split()[len(listed) + 24 :]
        answer = [span.text.strip() for span in sample.answer if span.scored]
        counts = {word: listed.count(word) for word in set(listed)}
        least = min(counts[word] for word in answer)
        assert least >= 3
        assert all(count < least for word, count in counts.items() if word not in answer)
        assert sorted(answer, key=listed.index) == answer


def test_frequent_words_are_the_three_leaders_in_order() -> None:
    for length in (600, 1111, 5000):
        for sample in every_sample(byte_setting(), "fwe", length):
            text = sample.content.partition(sample.layout.question.text)[0].removeprefix(
                sample.layout.head.text
            )
            listed = text.split()[:-1]
            counts = sorted(((listed.count(word), word) for word in set(listed)), reverse=True)
            answer = [span.text.strip() for span in sample.answer if span.scored]
            assert [word for _, word in counts[:3]] == answer
            assert counts[0][0] > counts[1][0] > counts[2][0] > counts[3][0]


def test_multivalue_lists_the_values_in_the_order_of_the_text() -> None:
    for sample in every_sample(byte_setting(), "niah_multivalue", 3000):
        values = [span.text.strip() for span in sample.answer if span.scored]
        assert sorted(values, key=sample.content.index) == values
        assert len(values) == 4


@pytest.mark.parametrize("name", PACKED.values())
def test_a_packed_text_holds_every_needle_and_is_asked_for_each(name: str) -> None:
    [group] = make_groups(name, byte_setting(), lengths=[4096], depths=even_depths(11), samples=1)
    assert [sample.depth for sample in group] == list(even_depths(11))
    first = group[0].prompt_ids
    shared = min(common_prefix(first, sample.prompt_ids) for sample in group)
    assert shared > 4096 - 250
    text = bytes(first[:shared].tolist()).decode()
    assert all(sample.answer[0].text.strip() in text for sample in group)
    with pytest.raises(UsageError, match="65 depths"):
        KINDS[name](byte_setting(), 0).asks(even_depths(65))


def test_an_own_haystack_replaces_the_prose_and_must_be_long_enough() -> None:
    own = tuple(f" This is line {number} of my own text." for number in range(60))
    sample = every_sample(byte_setting(haystack=own), "needle", 1024)[0]
    assert "line 7 of my own text" in sample.content
    with pytest.raises(RopewalkError, match=r"my.txt: \d+ tokens in all, this length needs") as caught:
        every_sample(byte_setting(haystack=own, haystack_name="my.txt"), "needle", 8192)
    assert "my.txt" in caught.value.message


@given(st.lists(st.text(alphabet="ab .!?\n", max_size=1200), min_size=1, max_size=3))
def test_sentences_put_together_are_the_text(texts: list[str]) -> None:
    sentences = sentences_of(texts)
    assert "".join(sentences) == "".join(text if text.endswith("\n") else text + "\n" for text in texts)
    assert all(0 < len(sentence) <= LONGEST for sentence in sentences)


def test_a_whole_text_as_haystack_is_cut_into_places_for_needles() -> None:
    text = " ".join(f"Sentence number {number} of the book." for number in range(200))
    plan = plan_tasks(
        ByteTokenizer(), Asking(tasks=["needle"], lengths=[2048], depths=11, samples=1, haystack=[text])
    )
    assert len({sample.layout.slots[0][0] for sample in plan.groups[0]}) == 11
    assert all("Sentence number 3 of the book." in sample.content for sample in plan.groups[0])


def test_chat_prompts_use_the_models_own_template(bpe: Any) -> None:
    encoder = TokenizerEncoder(bpe)
    setting = Setting(encoder=encoder, frame=chat_frame(encoder))
    sample = every_sample(setting, "passkey", 700, count=1)[0]
    assert len(sample.prompt_ids) + len(sample.answer_ids) == 700
    assert sample.prompt.startswith("<s><|user|>")
    assert sample.prompt.endswith("What is the pass key?</s><|bot|>The pass key is")
    assert sample.prompt_ids.tolist().count(bpe.bos_token_id) == 1
    assert "<|user|>" not in sample.content
    ids = sample.prompt_ids.tolist()
    assert ids[:2] == [bpe.bos_token_id, bpe.convert_tokens_to_ids("<|user|>")]


def test_a_tokenizer_without_template_has_no_chat() -> None:
    with pytest.raises(RopewalkError, match="no chat template"):
        chat_frame(TokenizerEncoder(ByteTokenizer()))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["passkey", "needle", "kv"]), st.integers(420, 3000), st.integers(0, 10**6))
def test_plain_text_samples_fill_their_budget(name: str, budget: int, seed: int) -> None:
    sample = text_sample(name, random.Random(seed), budget=budget)
    assert len((sample.text + sample.answer).encode()) == budget
    assert 0 <= sample.depth <= 1
    assert sample.answer.strip() in sample.text


def test_plain_text_uses_the_filler_given() -> None:
    lines = [f"x{number} = {number}\n" for number in range(400)]
    sample = text_sample("passkey", random.Random(5), budget=700, filler=lines, depth=1.0)
    assert sample.text.startswith("x0 = 0\nx1 = 1\n")
    assert sample.text.endswith("\nWhat is the pass key? The pass key is")
    assert "grass" not in sample.text


def test_question_files_are_read_and_their_faults_named(tmp_path: Path) -> None:
    file = tmp_path / "qa.jsonl"
    good = [
        '{"question": "Who?", "answer": "Ada", "document": "Ada did it.\\nAlone."}',
        '{"query": "When?", "answers": ["1843", "in 1843"], "context": "It was in 1843."}',
    ]
    file.write_text("\n".join(good) + "\n\n")
    first, second = read_questions(file)
    assert first == Question("Who?", ("Ada",), "Ada did it. Alone.")
    assert second.answers == ("1843", "in 1843")
    faults = {
        "[1]": "line 3 is not a JSON object",
        "{": "line 3 is not JSON",
        '{"question": "Why?", "document": "d"}': "line 3 has no 'answers'",
        '{"question": "Why?", "answer": [], "document": "d"}': "line 3 has no answer",
        '{"question": 3, "answer": "x", "document": "d"}': "'question' is not a text",
    }
    for line, message in faults.items():
        file.write_text("\n".join([*good, line]))
        with pytest.raises(RopewalkError, match=re.escape(message)):
            read_questions(file)
    file.write_text(good[0])
    with pytest.raises(RopewalkError, match="fewer than two different documents"):
        read_questions(file)
    # A byte-order mark, and line separators inside strings, as other programs write them.
    strange = '{"question": "Who?", "answer": "Ada", "document": "Ada\u2028did it."}'
    file.write_text(f"\ufeff{strange}\r\n{good[1]}", encoding="utf-8")
    assert [row.document for row in read_questions(file)] == ["Ada did it.", "It was in 1843."]
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RopewalkError, match="not UTF-8"):
        read_questions(file)
    with pytest.raises(RopewalkError, match="cannot read"):
        read_questions(tmp_path / "none.jsonl")


def test_questions_stand_among_other_rows_documents() -> None:
    sample = every_sample(byte_setting(), "qa", 1200)[0]
    documents = re.findall(r"(?:Document: |- )(The \w+ is by Mr \w+\.)", sample.content)
    assert len(documents) == len(set(documents)) > 5
    assert sample.chance == 0.0
    assert sample.answer[0].spellings[1].startswith("Mister")


def test_questions_run_out_and_say_so() -> None:
    with pytest.raises(RopewalkError, match="the question file's other 119 documents"):
        every_sample(byte_setting(), "qa", 100_000)


def test_without_questions_the_task_says_what_to_give() -> None:
    encoder = ByteEncoder()
    with pytest.raises(UsageError, match="needs questions"):
        make_groups("qa", Setting(encoder, completion_frame(encoder)), lengths=[900], depths=[0.5], samples=1)


def test_even_depths_run_from_start_to_end() -> None:
    assert even_depths(1) == (0.5,)
    assert even_depths(3) == (0.0, 0.5, 1.0)
    with pytest.raises(UsageError):
        even_depths(0)


def test_no_question_is_asked_twice_before_every_one_was_asked() -> None:
    rows = tuple(Question(f"q{n}", (f"a{n}",), f"document {n}") for n in range(6))
    encoder = ByteEncoder()
    asked = {}
    for seed in (0, 1):
        setting = Setting(encoder, completion_frame(encoder), seed=seed, questions=rows)
        asked[seed] = [KINDS["qa"](setting, index).row.question for index in range(12)]
        assert sorted(asked[seed][:6]) == sorted(asked[seed][6:]) == [f"q{n}" for n in range(6)]
    assert asked[0] != asked[1]


def test_a_sample_of_a_group_asks_which() -> None:
    with pytest.raises(UsageError, match="'ruler' is a group of tasks") as caught:
        text_sample("ruler", random.Random(0), budget=900)
    assert "niah_single_1" in str(caught.value.hint)


def test_a_filler_that_runs_out_inside_the_last_words_says_so() -> None:
    """A sample that is shorter than its length would be a false figure."""
    filler = Filler(iter(["four", "five!"]), ByteEncoder(), source="my.txt")
    assert filler.whole_sentences(9) == 2
    assert filler.cut(1, 5).tolist() == list(b"five!")
    with pytest.raises(RopewalkError, match=r"my\.txt: 9 tokens in all, this length needs 10"):
        filler.cut(1, 6)
