"""Every method against plain Python written from the papers (plain.py), full values, random geometries."""

from __future__ import annotations

import math
import random

import numpy as np
import plain
import pytest

import ropewalk
from ropewalk.errors import RopewalkError, UsageError

COUNT = 60
FIXED = [
    (8, 1e4, 64, 4.0),
    (128, 1e4, 4096, 8.0),
    (64, 1e4, 512, 8.0),
    (4, 500.0, 100, 2.0),
    (32, 1e6, 32768, 1.5),
    # Long windows on small bases: the ramp would end past the last dimension.
    (8, 60.0, 200_000, 4.0),
    (16, 50.0, 150_000, 8.0),
]


def _drawn(seed):
    rng = random.Random(seed)
    yield from FIXED
    for _ in range(COUNT):
        d = 2 * rng.randint(2, 64)
        yield (
            d,
            math.exp(rng.uniform(math.log(50), math.log(1e8))),
            rng.randint(16, 200_000),
            rng.uniform(1.01, 64),
        )


def _holds(name, reference, attention=lambda L, s: 1.0, parameters=lambda rng, d: ({}, {}), rel=1e-10):
    """`parameters` draws (ours, theirs)."""
    rng = random.Random(name)
    checked = 0
    for d, b, L, s in _drawn(name):
        ours, theirs = parameters(rng, d)
        geometry = ropewalk.RopeGeometry(d, b, L)
        made = ropewalk.schedule(name, geometry, factor=s, **ours)
        expected = reference(d, b, L, s, **theirs)
        assert made.inv_freq == pytest.approx(expected, rel=rel, abs=0), (name, d, b, L, s, ours)
        assert made.attention_factor == pytest.approx(attention(L, s), rel=1e-12)
        assert made.factor == s
        assert made.method == name
        for key, value in ours.items():
            assert made.parameters[key] == value
        checked += 1
    assert checked == COUNT + len(FIXED)


def _yarn_temperature(L, s):
    return plain.yarn_attention(s)


@pytest.mark.parametrize(
    ("name", "reference"),
    [("none", plain.none), ("linear", plain.linear), ("ntk", plain.ntk), ("ntk-d", plain.ntk_d),
     ("ntk-power", plain.ntk_power), ("ntk-mixed", plain.ntk_mixed), ("ntk-su", plain.ntk_su),
     ("by-parts", plain.by_parts), ("llama3", plain.llama3), ("cope", plain.cope), ("p-rope", plain.p_rope),
     ("drope", plain.drope), ("proportional", plain.proportional)],
)  # fmt: skip
def test_with_defaults(name, reference):
    _holds(name, reference)


@pytest.mark.parametrize(
    ("name", "reference"),
    [("yarn", plain.yarn), ("mrrope-uni", plain.mrrope_uni), ("mrrope-pro", plain.mrrope_pro),
     ("tailspline", plain.tailspline)],
)  # fmt: skip
def test_with_defaults_and_yarns_temperature(name, reference):
    _holds(name, reference, _yarn_temperature)


def test_walk_with_defaults_and_without():
    def drawn(rng, d):
        slow = rng.uniform(0.3, 2.0)
        given = {"slow": slow, "fast": slow + rng.uniform(1.0, 20.0), "power": rng.uniform(0.5, 3.0)}
        return given | {"heat": 0.05}, given

    _holds("walk", plain.walk, lambda L, s: 1 + 0.1 * math.log(s))
    _holds("walk", plain.walk, lambda L, s: 1 + 0.05 * math.log(s), drawn)


def test_shares_and_exponents():
    def share(rng, d):
        value = rng.choice([0.0, 0.2, 0.5, 0.83, 1.0])
        return {"share": value}, {"share": value}

    for name, reference in (
        ("ntk-mixed", plain.ntk_mixed),
        ("cope", plain.cope),
        ("p-rope", plain.p_rope),
        ("proportional", plain.proportional),
    ):
        _holds(name, reference, parameters=share)

    def exponent(rng, d):
        value = rng.uniform(0.2, 2.0)
        return {"b": value}, {"power": value}

    _holds("ntk-su", plain.ntk_su, parameters=exponent)


def test_betas():
    def drawn(rng, d, fast, slow, names):
        low = rng.uniform(0.3, 4.0)
        high = low + rng.choice([0.5, 7.0, 31.0])
        return {fast: high, slow: low}, {names[0]: high, names[1]: low}

    for name, ours, theirs, reference, attention in (
        ("yarn", ("beta_fast", "beta_slow"), ("beta_fast", "beta_slow"), plain.yarn, _yarn_temperature),
        ("by-parts", ("beta", "alpha"), ("beta", "alpha"), plain.by_parts, lambda L, s: 1.0),
        ("llama3", ("high_freq_factor", "low_freq_factor"), ("high", "low"), plain.llama3, lambda L, s: 1.0),
        ("mrrope-uni", ("fast", "slow"), ("fast", "slow"), plain.mrrope_uni, _yarn_temperature),
        ("mrrope-pro", ("fast", "slow"), ("fast", "slow"), plain.mrrope_pro, _yarn_temperature),
        ("tailspline", ("fast", "slow"), ("fast", "slow"), plain.tailspline, _yarn_temperature),
    ):
        _holds(name, reference, attention, lambda rng, d, o=ours, t=theirs: drawn(rng, d, *o, t))


def test_yarn_without_rounding_and_by_the_papers_ramp():
    _holds("yarn", plain.yarn, _yarn_temperature, lambda rng, d: ({"truncate": False}, {"truncate": False}))
    _holds(
        "yarn",
        lambda d, b, L, s: plain.by_parts(d, b, L, s),
        _yarn_temperature,
        lambda rng, d: ({"ramp": "rotations"}, {}),
    )


@pytest.mark.parametrize("name", ["yarn", "by-parts", "llama3"])
def test_equal_bounds_are_a_step(name):
    """Kimi K2 ships beta_fast = beta_slow = 1, Llama 4 Scout low = high = 1."""
    names = {
        "yarn": ("beta_fast", "beta_slow"),
        "by-parts": ("beta", "alpha"),
        "llama3": ("high_freq_factor", "low_freq_factor"),
    }
    for d, b, L, s in FIXED:
        geometry = ropewalk.RopeGeometry(d, b, L)
        made = ropewalk.schedule(name, geometry, factor=s, **dict.fromkeys(names[name], 1.0))
        step = [
            theta if r >= 1 else theta / s
            for theta, r in zip(plain.thetas(d, b), plain.turns(d, b, L), strict=True)
        ]
        expected = plain.yarn(d, b, L, s, 1.0, 1.0) if name == "yarn" else step
        assert made.inv_freq == pytest.approx(expected, rel=1e-12)


def test_changed_bases_given_in_other_ways():
    def step(rng, d):
        value = rng.uniform(1.001, 1.05)
        return {"step": value}, {"step": value}

    _holds("ntk", plain.ntk_step, parameters=step)

    def power(rng, d):
        value = rng.uniform(1.0, 1.4)
        return {"power": value}, {"power": value}

    _holds("ntk-power", plain.ntk_power, parameters=power)
    _holds("ntk-power", plain.ntk_power, parameters=lambda rng, d: ({"scale": 0.2}, {"power": 1.2}))
    _holds("ntk-power", plain.ntk, parameters=lambda rng, d: ({"reach_last": True}, {}))
    for name in ("ntk", "abf"):
        _holds(
            name, lambda d, b, L, s: plain.thetas(d, 5e5), parameters=lambda rng, d: ({"rope_theta": 5e5}, {})
        )
    _holds("abf", lambda d, b, L, s: plain.abf(d, b, L, s, d // 2 - 1))

    def pair(rng, d):
        # The base that slows an early pair by much is beyond any float.
        value = rng.randint(max(1, d // 4), d // 2 - 1)
        return {"pair": value}, {"pair": value}

    _holds("abf", plain.abf, parameters=pair)


def test_longrope_by_its_lists():
    def lists(rng, d):
        long = sorted(rng.uniform(1, 40) for _ in range(d // 2))
        return {"long_factors": long}, {"factors": long}

    _holds("longrope", plain.longrope, plain.longrope_attention, lists)
    _holds("longrope", plain.ntk, plain.longrope_attention)
    geometry = ropewalk.RopeGeometry(8, 1e4, 64)
    made = ropewalk.schedule(
        "longrope", geometry, factor=4, long_factors=[1, 2, 3, 4], short_factors=[1, 1, 1, 2]
    )
    assert made.short_inv_freq == pytest.approx([1, 0.1, 0.01, 0.0005])
    given = ropewalk.schedule("longrope", geometry, factor=4, attention_factor=1.7)
    assert given.attention_factor == 1.7
    assert given.parameters["attention_factor"] == 1.7
    assert given.short_inv_freq == pytest.approx(geometry.inv_freq, rel=0)
    assert given.notes == ("no long_factors given: NTK-aware's, where a search would start",)
    assert made.notes == ()
    assert ropewalk.schedule("longrope", ropewalk.RopeGeometry(8, 1e4, 1), factor=4).attention_factor == 1.0


def test_resonance_rounds_both_sets_of_a_method_that_has_two():
    geometry = ropewalk.RopeGeometry(8, 1e4, 64)
    made = ropewalk.schedule(
        "resonance", geometry, factor=4, inner="longrope", long_factors=[1.0, 2.0, 3.0, 4.0]
    )
    assert (2 * np.pi / made.inv_freq).round(9).tolist() == [6.0, 126.0, 1885.0, 25133.0]
    assert (2 * np.pi / made.short_inv_freq).round(9).tolist() == [6.0, 63.0, 628.0, 6283.0]


def test_cope_stops_the_last_pair_alone_however_slow_the_others_are():
    geometry = ropewalk.RopeGeometry(8, 1e32, 64)
    assert (ropewalk.schedule("cope", geometry, factor=4, share=0.4).inv_freq > 0).tolist() == [
        True,
        True,
        True,
        False,
    ]


def test_a_proportional_model_keeps_its_own_share_and_the_schedule_says_which():
    geometry = ropewalk.RopeGeometry(16, 1e4, 64, partial_rotary_factor=0.5, proportional=True)
    made = ropewalk.schedule("proportional", geometry, factor=4, share=0.25)
    assert made.stretch[: geometry.num_rotating] == pytest.approx([4.0] * 4)
    assert made.parameters == {"share": 0.5}


def test_resonance_rounds_wavelengths():
    for d, b, L, s in FIXED:
        made = ropewalk.schedule("resonance", ropewalk.RopeGeometry(d, b, L), factor=s)
        assert made.inv_freq == pytest.approx(plain.resonance(d, b, L, s), rel=1e-12)
        assert made.attention_factor == pytest.approx(plain.yarn_attention(s))
        assert made.parameters["inner"] == "yarn"
    inner = ropewalk.schedule("resonance", ropewalk.RopeGeometry(8, 1e4, 64), factor=4, inner="drope")
    assert not inner.inv_freq.any()
    kept = ropewalk.schedule("resonance", ropewalk.RopeGeometry(8, 1e4, 64), factor=4, inner="ntk-su", b=0.9)
    assert kept.parameters == {"inner": "ntk-su", "b": 0.9}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"attention_factor": 0.7}, 0.7),
        ({"attention_factor": 0.7, "mscale": 0.5, "mscale_all_dim": 1.0}, 0.7),
        ({"mscale": 0.707, "mscale_all_dim": 1.0}, (1 + 0.0707 * math.log(8)) / (1 + 0.1 * math.log(8))),
        ({"mscale": 0.707, "mscale_all_dim": 0.0}, 1 + 0.1 * math.log(8)),
        ({"mscale": 0.0, "mscale_all_dim": 1.0}, 1 + 0.1 * math.log(8)),
        ({"mscale": 0.707}, 1 + 0.1 * math.log(8)),
        ({}, 1 + 0.1 * math.log(8)),
    ],
)
def test_yarns_attention_factor(given, expected):
    made = ropewalk.schedule("yarn", ropewalk.RopeGeometry(64, 1e4, 512), factor=8, **given)
    assert made.attention_factor == pytest.approx(expected, rel=1e-12)
    assert {name: made.parameters[name] for name in given} == given
    assert made.native == {"type": "yarn", "beta_fast": 32.0, "beta_slow": 1.0, "truncate": True, **given}


@pytest.mark.parametrize(
    ("name", "given", "native"),
    [
        ("none", {}, {"type": "none"}),
        ("linear", {}, {"type": "linear"}),
        ("ntk-d", {}, {"type": "theta", "rope_theta": 80000.0}),
        ("abf", {"rope_theta": 5e5}, {"type": "theta", "rope_theta": 5e5}),
        ("llama3", {}, {"type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
        ("yarn", {"ramp": "rotations"}, None),
        ("by-parts", {}, None),
        ("ntk-su", {}, None),
        ("proportional", {}, None),
        ("mrrope-uni", {}, None),
    ],
)
def test_the_stock_type_that_means_the_same(name, given, native):
    made = ropewalk.schedule(name, ropewalk.RopeGeometry(64, 1e4, 512), factor=8, **given)
    assert (None if made.native is None else dict(made.native)) == native
    if name == "yarn":
        assert made.parameters["ramp"] == "rotations"


def test_a_zero_tail_stays_zero_and_keeps_its_own_type():
    geometry = ropewalk.RopeGeometry(64, 1e4, 512, partial_rotary_factor=0.25, proportional=True)
    for name in ("linear", "proportional"):
        made = ropewalk.schedule(name, geometry, factor=8)
        assert made.native == {"type": "proportional"}
        assert made.inv_freq == pytest.approx([1e4 ** (-2 * i / 64) / 8 if i < 8 else 0.0 for i in range(32)])
    ntk = ropewalk.schedule("ntk", geometry, factor=8)
    # The last pair that turns, the eighth, is slowed by exactly 8.
    assert ntk.stretch[7] == pytest.approx(8)
    assert ntk.inv_freq[:8] == pytest.approx([1e4 ** (-2 * i / 64) * 8 ** (-i / 7) for i in range(8)])
    assert not ntk.inv_freq[8:].any()
    assert ntk.native == {"type": "theta", "rope_theta": pytest.approx(1e4 * 8 ** (64 / 14))}
    for name in ("yarn", "longrope", "llama3"):
        assert ropewalk.schedule(name, geometry, factor=8).native is None
    assert ropewalk.schedule("none", geometry, factor=8).native == {"type": "none"}


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("yarn", {"beta_fast": 1.0, "beta_slow": 2.0}, "beta_fast=1 does not lie above beta_slow=2"),
        ("yarn", {"beta_slow": 0.0}, "beta_slow=0 is not positive"),
        ("yarn", {"beta_slow": 1e-10}, "no numbers of rotations"),
        ("yarn", {"beta_fast": 1e13}, "no numbers of rotations"),
        ("by-parts", {"alpha": 3.0, "beta": 2.0}, "beta=2 does not lie above alpha=3"),
        ("llama3", {"low_freq_factor": 0.0}, "low_freq_factor=0 is not positive"),
        ("llama3", {"high_freq_factor": 0.5}, "high_freq_factor=0.5 does not lie above"),
        ("mrrope-uni", {"fast": 1.0}, "fast=1 does not lie above slow=1"),
        ("mrrope-pro", {"slow": -1.0}, "slow=-1 is not positive"),
        ("walk", {"slow": 0.0}, "slow=0 is not positive"),
        ("walk", {"fast": 0.5}, "fast=0.5 does not lie above slow=0.65"),
        ("walk", {"power": 0.0}, "power=0 is not positive"),
        ("ntk", {"step": 1.1, "rope_theta": 1e5}, "the same thing twice"),
        ("ntk", {"step": -1.0}, "step=-1 is not positive"),
        ("ntk", {"rope_theta": 0.5}, "is not above 1"),
        ("ntk-power", {"power": 1.1, "scale": 0.1}, "the same thing twice"),
        ("ntk-power", {"power": 0.99}, "below 1"),
        ("ntk-power", {"power": 1e4}, "overflows"),
        ("ntk-mixed", {"share": 1.1}, "share=1.1 is not a share"),
        ("ntk-mixed", {"share": -0.1}, "is not a share"),
        ("ntk-su", {"b": 0.0}, "b=0 is not positive"),
        ("abf", {"pair": 0}, "pair=0 does not depend on the base"),
        ("abf", {"pair": 32}, "does not exist"),
        ("abf", {"pair": 3, "rope_theta": 1e5}, "exclude each other"),
        ("cope", {"share": 2.0}, "is not a share"),
        ("p-rope", {"share": 2.0}, "is not a share"),
        ("proportional", {"share": 2.0}, "is not a share"),
        ("longrope", {"long_factors": [1.0] * 31}, "this geometry needs 32"),
        ("longrope", {"long_factors": [2.0] * 31 + [1.0]}, "not positive and non-decreasing"),
        ("longrope", {"long_factors": [0.0] + [1.0] * 31}, "not positive and non-decreasing"),
        ("longrope", {"short_factors": [1.0] * 33}, "short_factors has 33 entries"),
        ("resonance", {"inner": "resonance"}, "changes nothing more"),
    ],
)
def test_parameters_that_cannot_work_are_refused(name, given, said):
    with pytest.raises(UsageError) as caught:
        ropewalk.schedule(name, ropewalk.RopeGeometry(64, 1e4, 512), factor=8, **given)
    assert said in str(caught.value)


def test_bases_that_overflow_are_refused():
    with pytest.raises(UsageError, match="overflows at factor"):
        ropewalk.schedule("abf", ropewalk.RopeGeometry(128, 1e8, 512), factor=1e5, pair=1)
    with pytest.raises(RopewalkError, match="one pair only"):
        ropewalk.schedule("ntk", ropewalk.RopeGeometry(2, 1e4, 512), factor=8)
    with pytest.raises(RopewalkError, match="one pair only"):
        ropewalk.schedule("ntk-mixed", ropewalk.RopeGeometry(2, 1e4, 512), factor=8)


def test_where_every_pair_turns_there_is_nothing_to_damp():
    geometry = ropewalk.RopeGeometry(64, 1e4, 1 << 20)
    made = ropewalk.schedule("cope", geometry, factor=2)
    assert np.array_equal(made.inv_freq, geometry.inv_freq)
    assert made.notes == ("every pair completes a turn in the window: nothing to damp",)
    assert ropewalk.schedule("cope", ropewalk.RopeGeometry(64, 1e4, 512), factor=2).notes == ()


def test_bounds_that_fall_on_a_pair_exactly():
    """More than `fast`, fewer than `slow`; equal llama3 bounds leave their own pair alone."""
    geometry = ropewalk.RopeGeometry(16, 1e4, 4096)
    turns = [float(value) for value in geometry.rotations]
    made = ropewalk.schedule("mrrope-uni", geometry, factor=4, fast=turns[1], slow=turns[5])
    # l = 0 (only pair 0 turns more often than pair 1), h = 6 (pair 5 does not turn less often than itself).
    assert made.profile == pytest.approx([min(i, 6) / 6 for i in range(8)])
    step = ropewalk.schedule(
        "llama3", geometry, factor=4, low_freq_factor=turns[3], high_freq_factor=turns[3]
    )
    assert step.stretch == pytest.approx([1, 1, 1, 1, 4, 4, 4, 4])


def test_a_ramp_of_no_width_is_a_step():
    for d, b, L, s in FIXED[:5]:
        made = ropewalk.schedule(
            "yarn", ropewalk.RopeGeometry(d, b, L), factor=s, beta_fast=3.0, beta_slow=3.0, truncate=False
        )
        expected = [
            theta / s if r < 3 else theta
            for theta, r in zip(plain.thetas(d, b), plain.turns(d, b, L), strict=True)
        ]
        assert made.inv_freq == pytest.approx(expected, rel=1e-9)


def test_parameters_without_a_stretch_leave_the_temperature_alone():
    geometry = ropewalk.RopeGeometry(64, 1e4, 512)
    assert ropewalk.schedule("yarn", geometry, factor=1, beta_fast=16.0).attention_factor == 1.0
    given = ropewalk.schedule("yarn", geometry, factor=1, mscale=0.7, mscale_all_dim=0.3)
    assert given.attention_factor == 1.0
    assert ropewalk.schedule("longrope", geometry, factor=1, long_factors=[1.0] * 32).attention_factor == 1.0


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("yarn", {"beta_fast": 1e12}),
        ("yarn", {"beta_slow": 1e-9}),
        ("ntk-power", {"power": 1.0}),
        ("ntk-power", {"scale": 0.0}),
        ("ntk", {"rope_theta": 2.0}),
        ("ntk", {"rope_theta": 1.01}),
        ("ntk-mixed", {"share": 0.0}),
        ("ntk-mixed", {"share": 1.0}),
        ("abf", {"pair": 1}),
        ("abf", {"pair": 31}),
        ("longrope", {"long_factors": [1e-9] * 32}),
        ("longrope", {"long_factors": [2.0] * 32}),
        ("cope", {"share": 1.0}),
        ("mrrope-uni", {"slow": 1e-6}),
    ],
)
def test_the_last_values_that_work(name, given):
    made = ropewalk.schedule(name, ropewalk.RopeGeometry(64, 1e4, 512), factor=8, **given)
    assert np.isfinite(made.inv_freq).all()


def test_refusals_name_the_sign():
    geometry = ropewalk.RopeGeometry(64, 1e4, 512)
    for name, given, hint in (
        ("mrrope-uni", {"fast": 0.5}, "give fast > slow"),
        ("yarn", {"beta_fast": 0.5}, "give yarn: beta_fast >= beta_slow"),
        ("yarn", {"beta_fast": 1.5e12}, "keep both between 1e-09 and 1e+12; 1 and 32 are usual"),
    ):
        with pytest.raises(UsageError) as caught:
            ropewalk.schedule(name, geometry, factor=8, **given)
        assert caught.value.hint == hint
