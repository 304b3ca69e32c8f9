from __future__ import annotations

import pytest

from ropewalk import units
from ropewalk.errors import UsageError


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("4096", 4096), ("4k", 4096), ("128K", 131072), ("1m", 1 << 20), ("1.5k", 1536), (512, 512)],
)
def test_lengths(text, tokens):
    assert units.parse_length(text) == tokens


@pytest.mark.parametrize(
    "text", ["", "k", "-4k", "0", "4kk", "1e3", "0.3", "nan", "9" * 400, "4 096", "٤٠٩٦x"]
)
def test_bad_lengths_are_named(text):
    with pytest.raises(UsageError, match="length"):
        units.parse_length(text)


def test_lengths_double_up_to_the_last():
    assert units.doublings(512, 4096) == [512, 1024, 2048, 4096]
    assert units.doublings(512, 3000) == [512, 1024, 2048, 3000]
    assert units.doublings(512, 512) == [512]
    assert units.doublings(1024, 512) == [512]


def test_ranges_double_and_end_at_the_bound():
    assert units.parse_lengths("4k..32k") == [4096, 8192, 16384, 32768]
    assert units.parse_lengths("4k..24k") == [4096, 8192, 16384, 24576]
    assert units.parse_lengths("12k,4k,8k") == [4096, 8192, 12288]
    with pytest.raises(UsageError, match="downwards"):
        units.parse_lengths("8k..4k")


def test_targets():
    assert units.parse_target("8x", 512) == 4096
    assert units.parse_target("32k", 4096) == 32768
    for bad in ("0x", "nanx", "x", "0.5x", "256"):
        with pytest.raises(UsageError):
            units.parse_target(bad, 512)


def test_sizes_and_their_spelling():
    assert units.parse_bytes("24GB") == 24 << 30
    assert units.parse_bytes("512MiB") == 512 << 20
    assert units.format_bytes(24 << 30) == "24.0 GiB"
    # What rounds to 1024 of a unit is 1 of the next.
    assert [units.format_bytes(size) for size in (1023, 1023.7, 1024**2 - 1, -(1024**3) + 1)] == [
        "1023 B",
        "1.0 KiB",
        "1.0 MiB",
        "-1.0 GiB",
    ]
    assert units.format_bytes(1023.9 * 1024) == "1023.9 KiB"
    assert units.format_length(32768) == "32k"
    assert units.format_length(1000) == "1000"
    assert units.format_duration(185) == "3 min 05 s"
    with pytest.raises(UsageError):
        units.parse_bytes("plenty")


def test_lists_of_factors():
    assert units.parse_factors(" 2,4x, 2.5,") == [2.0, 4.0, 2.5]
    for text in ("", " , ", "2,x", "2,b", "2,nan", "inf", "2 4"):
        with pytest.raises(UsageError, match="not a list of factors"):
            units.parse_factors(text)


def test_names_are_split_and_stand_once():
    assert units.split_names(" b, a,,b") == ["b", "a"]
    assert units.split_names(["b", " a,b ", "", 3, "b"]) == ["b", "a,b", "3"]
