"""Filters, times, frames and detach keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockyard.model.errors import InvalidArgument
from dockyard.proto.detach import DEFAULT_KEYS, DetachMatcher, parse_keys
from dockyard.proto.filters import Filters
from dockyard.proto.frames import FrameReader, frame
from dockyard.proto.times import (
    SECOND,
    format_rfc3339,
    parse_duration,
    parse_moment,
    parse_rfc3339,
    parse_unix,
)


def test_filters_in_both_spellings() -> None:
    assert Filters.parse('{"label":["a=b","c"]}') == Filters.parse('{"label":{"a=b":true,"c":true}}')
    assert not Filters.parse("") and not Filters.parse("{}") and not Filters.parse("null")


@pytest.mark.parametrize("text", ["{", "[]", '"x"', '{"a":"b"}', '{"a":[1]}', '{"a":{"b":1}}', "\udcff"])
def test_what_is_no_filters(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid filter$"):
        Filters.parse(text)


def test_unknown_keys_are_named() -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid filter 'nope'$"):
        Filters.parse('{"nope":["x"]}', {"label"})


def test_booleans() -> None:
    assert Filters.parse('{"d":["1"]}').boolean("d") is True
    assert Filters.parse('{"d":["false"]}').boolean("d") is False
    assert Filters().boolean("d", True) is True
    for text in ('{"d":["maybe"]}', '{"d":["1","0"]}'):
        with pytest.raises(InvalidArgument, match=r"^invalid filter 'd=\["):
            Filters.parse(text).boolean("d")


def test_matching() -> None:
    filters = Filters({"name": ["^web", "("], "id": ["abc"], "label": ["a=b", "c"], "label!": ["x"]})
    assert filters.regex("name", "web-1") and not filters.regex("name", "my-web")
    assert filters.regex("name", "(")
    assert filters.prefix("id", "abcdef") and not filters.prefix("id", "zabc") and filters.prefix("other", "x")
    assert filters.exact("id", "abc") and not filters.exact("id", "abcdef") and filters.exact("other", "x")
    assert filters.labels({"a": "b", "c": "anything"}) and not filters.labels({"a": "z", "c": ""})
    assert not filters.labels(None)
    assert filters.not_labels({"y": ""}) and not filters.not_labels({"x": "1"})


NS = st.integers(min_value=1, max_value=253402300799 * SECOND)


@given(NS)
def test_rfc3339_round_trip(ns: int) -> None:
    assert parse_rfc3339(format_rfc3339(ns)) == ns
    assert parse_unix(f"{ns // SECOND}.{ns % SECOND:09d}") == ns


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0001-01-01T00:00:00Z"),
        (1_700_000_000 * SECOND, "2023-11-14T22:13:20Z"),
        (1_700_000_000 * SECOND + 120_000_000, "2023-11-14T22:13:20.12Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
    ],
)
def test_formats(ns: int, text: str) -> None:
    assert format_rfc3339(ns) == text


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1h30m", 5400 * SECOND), ("1.5s", 3 * SECOND // 2), ("-2m", -120 * SECOND), ("0", 0), ("100ms", SECOND // 10),
        ("1us", 1000), ("1µs", 1000), (".5s", SECOND // 2), ("1.s", SECOND), ("+3ns", 3),
    ],
)  # fmt: skip
def test_durations(text: str, ns: int) -> None:
    assert parse_duration(text) == ns


@pytest.mark.parametrize("text", ["", "1", "h", "1x", "1h 30m", "-", ".s", "1hh"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="invalid duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("10m", -600 * SECOND), ("1700000000", 1_700_000_000 * SECOND), ("1700000000.5", 1_700_000_000_500_000_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000 * SECOND), ("2023-11-14T23:13:20+01:00", 1_700_000_000 * SECOND),
        ("2023-11-14T22:13:20.000000001", 1_700_000_000 * SECOND + 1), ("2023-11-14", 1_699_920_000 * SECOND),
        ("2023-11-14T22:13", 1_699_999_980 * SECOND), ("-10", -10 * SECOND),
    ],
)  # fmt: skip
def test_moments(text: str, ns: int) -> None:
    assert parse_moment(text, 0) == ns


@pytest.mark.parametrize("text", ["", "yesterday", "2023-13-01", "2023-11-14T25:00:00Z", "1e9", "٣"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError, match="failed to parse value as time or duration"):
        parse_moment(text, 0)


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=50))), st.integers(1, 30))
def test_frames_however_they_are_cut(frames: list[tuple[int, bytes]], size: int) -> None:
    data = b"".join(frame(stream, payload) for stream, payload in frames)
    reader = FrameReader()
    found = [item for at in range(0, len(data), size) for item in reader.feed(data[at : at + size])]
    assert found == frames and not reader.incomplete


@pytest.mark.parametrize(
    ("text", "keys"),
    [("", DEFAULT_KEYS), ("ctrl-p,ctrl-q", b"\x10\x11"), ("a", b"a"), ("ctrl-@,ctrl-[,DEL", b"\0\x1b\x7f"),
     ("ctrl-\\,ctrl-_", b"\x1c\x1f")],
)  # fmt: skip
def test_keys(text: str, keys: bytes) -> None:
    assert parse_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-1", "ctrl-", "ab", "a,", ",", "ctrl-P", "é"])
def test_invalid_keys(text: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid detach keys"):
        parse_keys(text)


@given(
    st.sampled_from([b"ab", b"aab", b"abab", b"a"]),
    st.lists(st.text(alphabet="abc", max_size=6).map(str.encode), max_size=8),
)
def test_matcher_finds_the_keys_however_they_are_cut(keys: bytes, pieces: list[bytes]) -> None:
    matcher, out, found = DetachMatcher(keys), b"", False
    for piece in pieces:
        passed, found = matcher.feed(piece)
        out += passed
        if found:
            break
    typed = b"".join(pieces)
    assert found == (keys in typed)
    assert out == typed[: typed.find(keys)] if found else out + matcher.flush() == typed
