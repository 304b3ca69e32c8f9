"""Tokenizers in GGUF: cut and merged as the file says, or refused in words."""

from __future__ import annotations

import json
import os
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from gguf_checkpoints import CHECKPOINTS, HIDDEN, checkpoint, converted
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from ropewalk.errors import RopewalkError
from ropewalk.runtimes.environments import interpreter
from ropewalk.runtimes.gguf import vocabulary

pytest.importorskip("gguf")
TEXT = [
    "The ropewalk's lane is 1234 feet long; they've stretched ropes there since 1693!",
    "def stretch(rope, factor=8):\n    return [x / factor for x in rope]\n\n\nclass Lane:\n\tpass  # 42",
    "CamelCase, snake_case and kebab-case; HTTPServer's ports are 8080, 65535 and 3.14159.",
    "Ein Seil wird gedreht, bis es trägt: Öl, Übung, Größe. 東京の縄は長い。Веревка длинная.",
] * 4
ASKED = [
    *TEXT[:4],
    "  two  spaces and\n\n newlines   ",
    "ALLCAPS'LL it's 1000000 $9.99 (a+b)*c == d?",
    "縄12縄!x",
]


def bytewise(steps, **options) -> Tokenizer:
    """A byte-level tokenizer of 400 tokens that cuts by these steps."""
    made = Tokenizer(models.BPE(**options))
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    return made


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
PLAIN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
CUTS = {
    "gpt-2": ([WORDS], {}),
    "starcoder": ([pre_tokenizers.Digits(individual_digits=True), WORDS], {}),
    "dbrx": ([split(PLAIN), BYTES], {}),
    "llama-bpe": ([split(PLAIN), BYTES], {"ignore_merges": True}),
    "qwen2": ([split(PLAIN.replace("{1,3}", "")), BYTES], {}),
    "gpt-4o": ([split(vocabulary._CASED), BYTES], {}),
    "deepseek-v3": ([split(r"\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"),
                     split(vocabulary._MARKED.replace(r"\r\n", "\r\n")), BYTES], {}),
}  # fmt: skip


def with_tokenizer(where, made: Tokenizer, **settings):
    """A tiny model's folder with that tokenizer in it."""
    folder = checkpoint(where, "llama", vocab_size=made.get_vocab_size())
    (folder / "model.safetensors").unlink()
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    rng, rows = np.random.default_rng(0), made.get_vocab_size()
    shapes = dict(CHECKPOINTS["llama"][1])
    shapes |= dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (rows, HIDDEN))
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("name", list(CUTS))
def test_a_known_cut_has_its_name(tmp_path, name):
    steps, options = CUTS[name]
    made = bytewise(steps, **options)
    keys, _ = converted(with_tokenizer(tmp_path / "m", made))
    assert keys["tokenizer.ggml.model"] == "gpt2"
    assert keys["tokenizer.ggml.pre"] == name
    numbers = made.get_vocab()
    assert keys["tokenizer.ggml.tokens"] == sorted(numbers, key=numbers.__getitem__)
    merges = json.loads(made.to_str())["model"]["merges"]
    assert keys["tokenizer.ggml.merges"] == [" ".join(pair) for pair in merges]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([split(r"\w+"), BYTES], "name for its pre-tokenizer is not known"),
        (
            [pre_tokenizers.Split(Regex(PLAIN), "merged_with_previous"), BYTES],
            "name for its pre-tokenizer is not known",
        ),
        ([pre_tokenizers.Digits(), WORDS], "name for its pre-tokenizer is not known"),
        ([pre_tokenizers.ByteLevel(add_prefix_space=True)], "puts a space in front"),
        ([pre_tokenizers.Whitespace()], "not a byte-level tokenizer"),
    ],
)
def test_an_unknown_cut_is_refused_in_words(tmp_path, steps, said):
    folder = with_tokenizer(tmp_path / "m", bytewise(steps))
    with pytest.raises(RopewalkError, match=said) as caught:
        converted(folder)
    assert "--gguf" in caught.value.hint


@pytest.mark.parametrize(
    "model", [models.Unigram([("a", -1.0), ("b", -2.0)]), models.WordPiece({"a": 0, "[UNK]": 1})]
)
def test_other_kinds_of_tokenizer_are_refused_by_name(tmp_path, model):
    folder = with_tokenizer(tmp_path / "m", Tokenizer(model))
    with pytest.raises(RopewalkError, match=f"is a {type(model).__name__} tokenizer, not BPE"):
        converted(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def fallback(prepend: bool) -> Tokenizer:
    """SentencePiece's kind: bytes as a last resort, spaces as marks; its merges in another order than its numbers."""
    vocabulary = {"<unk>": 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}}
    for piece in ("rope", "▁", "r", "o", "p", "e", "w", "l", "k", "a", "pe", "ro", "wa", "lk", "▁ro", "walk"):
        vocabulary[piece] = len(vocabulary)
    merges = [("r", "o"), ("p", "e"), ("w", "a"), ("l", "k"), ("▁", "ro"), ("ro", "pe"), ("wa", "lk")]
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    marks = normalizers.Replace(" ", "▁")
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), marks]) if prepend else marks
    return made


@pytest.mark.parametrize("prepend", [True, False])
def test_byte_fallback_scores_follow_the_merges_and_not_the_numbers(tmp_path, prepend):
    made = fallback(prepend)
    keys, _ = converted(with_tokenizer(tmp_path / "m", made))
    assert (keys["tokenizer.ggml.model"], keys["tokenizer.ggml.add_space_prefix"]) == ("llama", prepend)
    score = dict(zip(keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.scores"], strict=True))
    order = ["ro", "pe", "wa", "lk", "▁ro", "rope", "walk"]
    assert [score[piece] for piece in order] == [0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0]
    assert max(value for piece, value in score.items() if piece not in order) < -6
    metaspace = Tokenizer.from_str(made.to_str())
    metaspace.normalizer = None
    metaspace.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first" if prepend else "never")
    keys, _ = converted(with_tokenizer(tmp_path / "n", metaspace))
    assert keys["tokenizer.ggml.add_space_prefix"] == prepend


@pytest.mark.parametrize(
    ("template", "settings", "added"),
    [
        ("<s> $A", {"bos_token": "<s>"}, True),
        ("$A", {"bos_token": "<s>"}, False),
        ("<s> $A", {"bos_token": "<s>", "add_bos_token": False}, False),
        ("$A", {"bos_token": "<s>", "add_bos_token": True}, True),
        ("</s> $A", {"bos_token": "<s>"}, False),
        ("<s> $A", {}, False),
    ],
)
def test_a_token_in_front_is_written_where_the_tokenizer_puts_one(tmp_path, template, settings, added):
    made = bytewise([WORDS])
    made.add_special_tokens(["<s>", "</s>"])
    numbers = [(text, made.token_to_id(text)) for text in ("<s>", "</s>")]
    made.post_processor = processors.TemplateProcessing(single=template, special_tokens=numbers)
    keys, _ = converted(with_tokenizer(tmp_path / "m", made, **settings))
    assert keys["tokenizer.ggml.add_bos_token"] == added


ASK = """
import json, sys, urllib.request, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]; params.n_ctx = 64; params.warmup = False; params.verbosity = -1
server = xllamacpp.Server(params)
found = []
for text in json.load(open(sys.argv[2])):
    body = json.dumps({"content": text, "add_special": False}).encode()
    request = urllib.request.Request(server.listening_address + "/tokenize", body, {"Content-Type": "application/json"})
    found.append(json.load(urllib.request.urlopen(request))["tokens"])
print("TOKENS" + json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CUTS, "fallback", "fallback-bare"])
def test_llama_cpp_makes_the_same_tokens(tmp_path, name):
    python = interpreter("llama.cpp")
    if python is None:
        pytest.skip("llama.cpp is not installed here")
    made = (
        fallback(name == "fallback")
        if name.startswith("fallback")
        else bytewise(CUTS[name][0], **CUTS[name][1])
    )
    texts = ["rope walk", "  ropewalk é", "walk\nrope"] if name.startswith("fallback") else ASKED
    converted(with_tokenizer(tmp_path / "m", made))
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ran = subprocess.run(
        [python, "-c", ASK, str(tmp_path / "m.gguf"), str(tmp_path / "texts.json")],
        capture_output=True, text=True, env=plain, check=False,
    )  # fmt: skip
    line = next((line for line in ran.stdout.splitlines() if "TOKENS" in line), None)
    assert line is not None, ran.stderr[-800:]
    told = json.loads(line.partition("TOKENS")[2])
    assert told == [made.encode(text, add_special_tokens=False).ids for text in texts]


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.update(vocab={}),
        lambda model: model["vocab"].update({"far": 10**12}),
        lambda model: model["vocab"].update({"below": -1}),
        lambda model: model["vocab"].update({"none": None}),
        lambda model: model.update(merges=[5]),
    ],
)
def test_a_damaged_tokenizer_is_named(tmp_path, change):
    document = json.loads(bytewise([WORDS]).to_str())
    change(document["model"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(RopewalkError, match=r"tokenizer\.json is not a tokenizer"):
        vocabulary.vocabulary_keys(tmp_path, SimpleNamespace(vocab_size=400, text={}))


def test_a_chat_template_of_its_own_file_comes_along(tmp_path):
    (tmp_path / "tokenizer.json").write_text(bytewise([WORDS]).to_str())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "old"}))
    facts = SimpleNamespace(vocab_size=400, text={})

    def told():
        keys = {key.name: key for key in vocabulary.vocabulary_keys(tmp_path, facts)}
        return keys["tokenizer.chat_template"].value

    assert told() == "old"
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}new")
    assert told() == "{{ messages }}new"


def test_a_number_that_metadata_cannot_hold_is_refused_by_value():
    from ropewalk.runtimes.gguf.write import key_of

    for value in (-1, 2**40):
        with pytest.raises(RopewalkError, match=f"{value} is no number"):
            key_of("llama.rope.dimension_count", value)
