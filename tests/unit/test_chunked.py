"""HTTP's chunked coding taken apart, whatever the pieces in which it comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockyard.proto.chunked import ChunkError, Dechunker


def coded(parts: list[bytes], trailers: bytes = b"") -> bytes:
    chunks = b"".join(b"%X;name=value\r\n%s\r\n" % (len(part), part) for part in parts if part)
    return chunks + b"0\r\n" + trailers + b"\r\n"


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(1, 200), min_size=1, max_size=30))
def test_any_pieces_give_the_body(parts: list[bytes], steps: list[int]) -> None:
    data, dechunker, found, at, turn = coded(parts, b"X-Sum: 1\r\n"), Dechunker(), b"", 0, 0
    while at < len(data):
        assert not dechunker.ended
        step = steps[turn % len(steps)]
        found += b"".join(dechunker.feed(data[at : at + step]))
        at, turn = at + step, turn + 1
    assert dechunker.ended and found == b"".join(parts)
    assert dechunker.feed(b"GET / HTTP/1.1\r\n\r\n") == []


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n", b"zz\r\n", b"-1\r\n", b"1\r\nab\r\n", b"5000000000000000\r\n", b"1" * 5000,
        b"0\r\n" + b"a: b\r\n" * 200, b"1;" + b"x" * 5000 + b"\r\n", b"0x10\r\n", b"1_0\r\n",
    ],
)  # fmt: skip
def test_s30_what_is_no_chunked_body_is_refused(data: bytes) -> None:
    with pytest.raises(ChunkError):
        Dechunker().feed(data)
