"""What every registered method must keep, ours or a third party's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ropewalk
from ropewalk.errors import RopewalkError, UsageError
from ropewalk.methods import find_method
from ropewalk.registry import Registry

NAMES = sorted(ropewalk.methods())

geometries = st.builds(
    ropewalk.RopeGeometry,
    head_dim=st.integers(2, 64).map(lambda half: 4 * half),
    rope_theta=st.floats(50.0, 1e8),
    original_length=st.integers(16, 1 << 18),
    partial_rotary_factor=st.sampled_from([1.0, 0.5]),
    proportional=st.booleans(),
)
factors = st.floats(1.0 + 1e-6, 512.0)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(geometry=geometries, factor=factors)
def test_frequencies_are_finite_and_no_pair_turns_faster(name, geometry, factor):
    known = find_method(name)
    made = ropewalk.schedule(name, geometry, factor=factor)
    turning = made.inv_freq[: geometry.num_rotating]
    assert made.inv_freq.shape == (geometry.half_dim,)
    assert np.isfinite(made.inv_freq).all()
    assert not made.inv_freq[geometry.num_rotating :].any()
    assert made.attention_factor >= 1.0
    if not known.stops_pairs:
        assert (turning > 0).all()
    if not known.faster:
        assert (turning <= geometry.inv_freq[: geometry.num_rotating] * (1 + 1e-12)).all()
    if known.monotone and not known.stops_pairs:
        assert (np.diff(made.profile[: geometry.num_rotating]) >= -1e-9).all()
        assert (made.profile[: geometry.num_rotating] <= 1 + 1e-9).all()


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(geometry=geometries)
def test_factor_one_is_the_identity(name, geometry):
    made = ropewalk.schedule(name, geometry, factor=1)
    assert made.is_identity
    assert not made.profile.any()


@pytest.mark.parametrize("name", NAMES)
def test_the_limit_of_small_factors_is_the_identity_where_the_factor_is_what_stretches(name):
    if find_method(name).needs_training or name == "resonance":
        pytest.skip("this method changes the model by something else than the factor")
    geometry = ropewalk.RopeGeometry(head_dim=64, rope_theta=1e4, original_length=4096)
    made = ropewalk.schedule(name, geometry, factor=1 + 1e-9)
    assert made.inv_freq == pytest.approx(geometry.inv_freq, rel=1e-8)
    assert made.attention_factor == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_says_what_it_is(name):
    known = find_method(name)
    document = known.to_json()
    assert known.rule
    assert len(known.rule) <= 120
    assert known.paper
    assert document["name"] == name
    assert ropewalk.schedule(name, ropewalk.RopeGeometry(64, 1e4, 512), factor=4).method == name


def test_only_marked_methods_are_contrib():
    assert [name for name in NAMES if find_method(name).contrib] == ["tailspline"]


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("yarm", "yarn"), ("ntk_su", "ntk-su"), ("liner", "linear"), ("YARN", None), ("zzz", None)],
)
def test_unknown_methods_suggest_near_misses(wrong, near):
    with pytest.raises(UsageError) as caught:
        find_method(wrong)
    assert wrong in caught.value.message
    assert near is None or near in caught.value.hint


def test_dynamic_is_told_apart_from_a_schedule():
    with pytest.raises(UsageError, match="rule that picks"):
        find_method("dynamic-ntk")


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("yarn", {"beta_fsat": 16}, "did you mean beta_fast"),
        ("yarn", {"beta_fast": "many"}, "beta_fast='many'"),
        ("yarn", {"beta_fast": float("nan")}, "beta_fast='nan'"),
        ("yarn", {"beta_fast": True}, "beta_fast='True'"),
        ("yarn", {"beta_fast": 1, "beta_slow": 4}, "does not lie above"),
        ("yarn", {"beta_slow": 0}, "not positive"),
        ("yarn", {"beta_slow": 1e-320}, "no numbers of rotations"),
        ("by-parts", {"beta": 1e300}, "no numbers of rotations"),
        ("by-parts", {"beta": 10**400}, "it takes number"),
        ("yarn", {"ramp": "spiral"}, "index, rotations"),
        ("yarn", {"truncate": 1}, "flag"),
        ("yarn", {"attention_factor": -1}, "attention_factor"),
        ("linear", {"beta": 1}, "it takes none"),
        ("ntk", {"step": 1.1, "rope_theta": 1e6}, "twice"),
        ("ntk", {"step": -1}, "not positive"),
        ("ntk-power", {"power": 0.5}, "speed pairs up"),
        ("ntk-power", {"power": 1e9}, "overflows"),
        ("ntk-mixed", {"share": 2}, "not a share"),
        ("abf", {"pair": 0}, "pair=0"),
        ("abf", {"pair": 99}, "pair=99"),
        ("abf", {"rope_theta": 0.5}, "not above 1"),
        ("longrope", {"long_factors": [1.0, 2.0]}, "2 entries"),
        ("longrope", {"long_factors": [2.0] + [1.0] * 31}, "non-decreasing"),
        ("longrope", {"long_factors": ["a"] * 32}, "list of numbers"),
        ("llama3", {"high_freq_factor": 0.9}, "does not lie above"),
        ("resonance", {"inner": "resonance"}, "nothing more"),
        ("resonance", {"inner": "nope"}, "no method"),
        ("cope", {"share": -1}, "not a share"),
    ],
)
def test_bad_parameters_are_named(name, parameters, said):
    geometry = ropewalk.RopeGeometry(head_dim=64, rope_theta=1e4, original_length=512)
    with pytest.raises(UsageError) as caught:
        ropewalk.schedule(name, geometry, factor=4, **parameters)
    assert said in str(caught.value)


@pytest.mark.parametrize("factor", [256.0, 1e6])
def test_a_base_beyond_any_float_is_refused(factor):
    with pytest.raises(UsageError, match="overflows"):
        ropewalk.schedule("abf", ropewalk.RopeGeometry(512, 65536.0, 512), factor=factor, pair=1)


def test_one_pair_has_no_changed_base():
    with pytest.raises(UsageError, match="one pair"):
        ropewalk.schedule("ntk", ropewalk.RopeGeometry(2, 1e4, 512), factor=4)


def test_a_name_taken_twice_is_refused():
    with pytest.raises(RopewalkError, match="registered twice"):
        ropewalk.method("yarn", paper="-")(lambda geometry, *, factor: None)


def another():
    """A registry that knows our methods and has not yet looked for those of other packages."""
    from ropewalk.methods import registry

    made = Registry("method", group="ropewalk.methods")
    for name, known in ropewalk.methods().items():
        made.add(name, known, home=registry.METHODS[name].function)
    return made


def test_a_third_party_method_joins_by_its_entry_point(monkeypatch):
    from importlib import metadata

    from ropewalk.methods import registry
    from ropewalk.schedule import FrequencySchedule

    class Plugin:
        name, value = "half", "somebody:half"

        @staticmethod
        def load():
            @ropewalk.method("half-linear", paper="-", contrib=True)
            def half(geometry, *, factor: float, strength: float = 0.5) -> FrequencySchedule:
                """theta'_i = theta_i / s**strength."""
                return FrequencySchedule(
                    "half-linear", geometry, factor, geometry.inv_freq / factor**strength
                )

    monkeypatch.setattr(
        metadata, "entry_points", lambda group: [Plugin] if group == "ropewalk.methods" else []
    )
    monkeypatch.setattr(registry, "METHODS", another())
    made = ropewalk.schedule("half-linear", ropewalk.RopeGeometry(64, 1e4, 512), factor=4)
    assert made.stretch.tolist() == pytest.approx([2.0] * 32)
    assert ropewalk.methods()["half-linear"].to_json()["parameters"][0]["name"] == "strength"


def test_a_plugin_that_does_not_load_is_named(monkeypatch):
    from importlib import metadata

    from ropewalk.methods import registry

    class Broken:
        name, value = "broken", "nobody:nothing"

        @staticmethod
        def load():
            raise ModuleNotFoundError("No module named 'nobody'")

    monkeypatch.setattr(metadata, "entry_points", lambda group: [Broken])
    monkeypatch.setattr(registry, "METHODS", another())
    with pytest.raises(RopewalkError, match="plug-in 'broken'"):
        ropewalk.methods()
