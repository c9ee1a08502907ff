"""JSON out of strange hands: one kind of error for all that can be wrong with it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dockyard.model import untrusted
from dockyard.model.container import ContainerConfig
from dockyard.model.errors import InvalidArgument
from dockyard.proto import changes, dockerconfig
from dockyard.proto.dockerfile import words
from dockyard.proto.filters import Filters

DEEP = "[" * 5000 + "]" * 5000


@pytest.mark.parametrize(
    "text", [b"", b"{", b'"\xff"', b'"\\ud800"', b"1e400", b"9" * 5000, DEEP.encode(), DEEP, '"\ud800"', b"NaN", b"1 2"]
)
def test_what_is_no_document(text: bytes | str) -> None:
    with pytest.raises(msgspec.DecodeError):
        untrusted.decode(text)
    with pytest.raises(msgspec.DecodeError):
        untrusted.decode(text, dict[str, Any])


def test_documents() -> None:
    assert untrusted.decode(b'{"a": [1, "\\u00e9"]}') == {"a": [1, "é"]}
    assert untrusted.decode('{"a": 2}', dict[str, int]) == {"a": 2}


@pytest.mark.parametrize("text", [DEEP, '{"label":' * 3000, '{"label": ["\\ud800"]}', '{"\ud800": ["x"]}'])
def test_filters_that_are_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid filter"):
        Filters.parse(text)


def test_nesting_in_other_places() -> None:
    with pytest.raises(InvalidArgument):
        dockerconfig.decode_auth("W1tb" * 3000)  # "[[[" in base64
    assert words.json_words(DEEP) is None
    config = ContainerConfig()
    changes.apply(config, [f"CMD {DEEP}"])
    assert config.cmd == ["/bin/sh", "-c", DEEP]
