"""Samples of one seed are the same on every machine and tomorrow: what was measured once can be measured again.

Whether a sample is right is asked in `test_eval_tasks.py` and `test_eval_tasks_harder.py`, by readers of their own.
Here stands what a seed gives, digested. Who means to change a task's texts says so in CHANGELOG.md, since figures of
before cannot stand beside those of after, and puts the new digests here.
"""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import pytest
from test_eval_tasks import byte_setting

from ropewalk.evaluation.tasks import KINDS, make_groups

# Digests of the two templates, full and compact.
TEXTS: dict[str, tuple[str, str]] = {
    "passkey": ("81fa4456a0", "7d6abf2937"),
    "needle": ("ece38096ad", "2677ebc2aa"),
    "kv": ("2dcee40ed6", "bbba1ca82f"),
    "multi-needle": ("cfd41426ba", "8d96870bc5"),
    "distractors": ("68e103b668", "29e11fd805"),
    "needle-packed": ("724628990c", "3d84c060e0"),
    "bio": ("5792c1cbe3", "779578af01"),
    "bio-compare": ("ed6f9855da", "298de87572"),
    "bio-order": ("be20d3425b", "e9fbdf17a7"),
    "bio-count": ("002f29f524", "44eed72b8c"),
    "hidden-link": ("10b94ee388", "9863b55702"),
    "graph": ("6c1c9b2ba9", "44fae9df72"),
    "mentions": ("099f78339d", "828227c4e3"),
    "state": ("e96c7fa2e7", "8ae8274100"),
    "doc-qa": ("6b6f777713", "8c8041bdc9"),
    "doc-qa-packed": ("49d71857cc", "4c5adc573b"),
    "qa": ("7bfdee2399", "b353d801c4"),
    "niah_single_1": ("7fc3e5ac46", "ac4fad9a64"),
    "niah_single_2": ("e6df4d486f", "b3f28a89fc"),
    "niah_single_3": ("4382da3193", "b4100d7d32"),
    "niah_multikey_1": ("ab83500155", "c26858400b"),
    "niah_multikey_2": ("4b032720bf", "1db3eab9da"),
    "niah_multikey_3": ("3237619feb", "e689b3fd01"),
    "niah_multivalue": ("9fa3819e42", "9da1a24449"),
    "niah_multiquery": ("18f9e69721", "b5fd2b8675"),
    "vt": ("c33a5306f6", "ea4430e02a"),
    "cwe": ("29f71de50b", "9589eb5884"),
    "fwe": ("aa7ce6a8f3", "8d81d6c8ac"),
}


def digest(name: str, template: str) -> str:
    groups = make_groups(
        name, byte_setting(seed=1), lengths=[2000], depths=[0.0, 0.4, 1.0], samples=2, template=template
    )
    found = [
        (
            sample.prompt,
            [(span.text, span.scored, span.accepted) for span in sample.answer],
            [choice.text for choice in sample.choices],
            f"{sample.chance:.9e}",
        )
        for group in groups
        for sample in group
    ]
    return hashlib.sha256(repr(found).encode()).hexdigest()[:10]


@pytest.mark.parametrize("name", KINDS)
def test_a_seed_gives_the_samples_that_it_always_gave(name: str) -> None:
    assert (digest(name, "full"), digest(name, "compact")) == TEXTS[name]


ODD_TEXTS = {
    "passkey": "e873b12d56",
    "needle": "12410353a3",
    "kv": "a2711fa9b3",
    "multi-needle": "f070f398d7",
    "distractors": "6d23a46151",
    "needle-packed": "39930b949a",
    "bio": "db20b38187",
    "bio-compare": "6d8f5d1d82",
    "bio-order": "0c52bd2657",
    "bio-count": "b55a0e4c11",
    "hidden-link": "ef75c5d7a4",
    "graph": "bbb0e08334",
    "mentions": "f4f2cbcf92",
    "state": "3f4861e7a7",
    "doc-qa": "f9d938fb21",
    "doc-qa-packed": "d699f01a3a",
    "qa": "4b75023cc8",
    "niah_single_1": "ef48eaf828",
    "niah_single_2": "10148d124b",
    "niah_single_3": "15f957776a",
    "niah_multikey_1": "0bfb707a46",
    "niah_multikey_2": "9e2d5abca1",
    "niah_multikey_3": "2afab44c8e",
    "niah_multivalue": "aee628eced",
    "niah_multiquery": "1b284c70b5",
    "vt": "3a21a64ff0",
    "cwe": "55f0a77c82",
    "fwe": "2ec485b716",
}


@pytest.mark.parametrize("name", KINDS)
def test_few_and_many_choices_and_an_own_haystack_give_what_they_always_gave(name: str) -> None:
    """As `test_eval_task_texts.py` digests the usual settings, so here those that a user may ask for."""
    hay = tuple(f" Line {number} of somebody's own text." for number in range(400))
    found = []
    for options in (
        {"num_choices": 2, "seed": 5},
        {"num_choices": 30, "haystack": hay},
        {"num_choices": 4, "haystack": hay, "haystack_everywhere": True},
    ):
        for template in ("full", "compact"):
            given: Any = options
            groups = make_groups(
                name,
                byte_setting(**given),
                lengths=[2600, 3100],
                depths=[0.3, 0.9],
                samples=2,
                template=template,
            )
            found += [
                (
                    sample.prompt,
                    sample.answer_text,
                    [choice.text for choice in sample.choices],
                    sample.query,
                    sample.key,
                )
                for group in groups
                for sample in group
            ]
    assert hashlib.sha256(repr(found).encode()).hexdigest()[:10] == ODD_TEXTS[name]


# Digests of what a filler has written behind a million letters, where names and keys have begun to run out.
FAR_TEXTS = {
    "bio": "3eb62eb94d",
    "bio-count": "6d45a4e199",
    "kv": "10172d7169",
    "graph": "f7863b050b",
    "doc-qa": "40c8d39576",
    "cwe": "2402faa14d",
    "fwe": "d7d372c49c",
}


@pytest.mark.parametrize("name", FAR_TEXTS)
def test_far_text_is_what_it_always_was(name: str) -> None:
    most = {"cwe": 300, "fwe": 300}.get(name, 21_000)
    sentences = itertools.islice(KINDS[name](byte_setting(template="compact", seed=2), 1).sentences(), most)
    assert hashlib.sha256("".join(sentences).encode()).hexdigest()[:10] == FAR_TEXTS[name]
