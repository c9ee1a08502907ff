"""zstd data that ends within a frame."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import zstandard

from dockyard.proto.zstdframes import Frames

NOISE = random.Random(1).randbytes(300_000)
SKIPPABLE = b"\x53\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"12345"


def streamed(data: bytes) -> bytes:
    """A frame that does not say its size."""
    compressor = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    return compressor.compress(data) + compressor.flush()


def frames(data: bytes, piece: int) -> Frames:
    found = Frames()
    for at in range(0, len(data), piece):
        found.feed(data[at : at + piece])
    return found


@pytest.mark.parametrize("pack", [zstandard.compress, streamed])
@pytest.mark.parametrize("data", [b"", b"a", bytes(1 << 20), NOISE, b"words " * 50_000 + NOISE])
def test_whole_and_cut(pack: Callable[[bytes], bytes], data: bytes) -> None:
    packed = pack(data)
    assert frames(packed, 65536).whole and frames(packed + SKIPPABLE + packed, 4093).whole
    assert len(packed) > 20_000 or frames(packed, 1).whole
    for cut in {1, 4, 5, 6, len(packed) // 2, len(packed) - 1} - {len(packed)}:
        assert not frames(packed[:cut], 4093).whole, cut
        assert not frames(packed + packed[:cut], 4093).whole, cut
    assert not frames(packed + SKIPPABLE[:-1], 4093).whole


def test_what_is_no_zstd_is_left_to_the_decompressor() -> None:
    assert Frames().whole and frames(b"something else", 3).whole
