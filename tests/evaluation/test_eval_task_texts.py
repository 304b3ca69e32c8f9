"""Samples of one seed are the same on every machine and tomorrow: what was measured once can be measured again.

Whether a sample is right is asked in `test_eval_tasks.py` and `test_eval_tasks_harder.py`, by readers of their own.
Here stands what a seed gives, digested. Who means to change a task's texts says so in CHANGELOG.md, since figures of
before cannot stand beside those of after, and puts the new digests here.
"""

from __future__ import annotations

import hashlib

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
