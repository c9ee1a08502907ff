"""The small languages of a build's flags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dockyard.model.errors import InvalidArgument
from dockyard.proto import buildspec
from dockyard.proto.buildspec import Agent, Secret


def test_fields_are_one_record_of_csv() -> None:
    assert buildspec.fields('Type=x,"a=b,c",d=', "--x") == {"type": "x", "a": "b,c", "d": ""}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("user/app:cache", ("registry", {"ref": "user/app:cache"})),
        ("type=registry,ref=x", ("registry", {"ref": "x"})),
        ("type=local,src=/p", ("local", {"src": "/p"})),
        ("type=inline", ("inline", {})),
    ],
)
def test_caches(text: str, found: Any) -> None:
    assert buildspec.cache(text, "--cache-from") == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("out", ("local", {"dest": "out"})),
        ("-", ("tar", {"dest": "-"})),
        ("type=tar", ("tar", {"dest": "-"})),
        ("type=oci,dest=x.tar", ("oci", {"dest": "x.tar"})),
        ("type=docker", ("docker", {})),
        ("type=registry,name=a", ("image", {"name": "a", "push": "true"})),
        ("type=image,push=true", ("image", {"push": "true"})),
    ],
)
def test_outputs(text: str, found: Any) -> None:
    assert buildspec.output(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("id=a,src=/f", Secret("a", "/f")),
        ("id=a,source=/f", Secret("a", "/f")),
        ("id=a,env=B", Secret("a", "", "B")),
        ("type=env,id=A", Secret("A", "", "A")),
        ("type=env,id=a,src=B", Secret("a", "", "B")),
        ("type=file,id=a,src=B", Secret("a", "B")),
        ("id=A", Secret("A")),
    ],
)
def test_secrets(text: str, found: Secret) -> None:
    assert buildspec.secret(text) == found


def test_agents_and_named_contexts_and_pairs() -> None:
    assert buildspec.agent("default") == Agent("default")
    assert buildspec.agent("x=/a,/b") == Agent("x", ("/a", "/b"))
    assert buildspec.named_context("Base=docker-image://a=b") == ("base", "docker-image://a=b")
    assert buildspec.pair("A=b=c", "--label") == ("A", "b=c")
    assert buildspec.pair("A", "--label") == ("A", None)
    assert buildspec.pair("A=", "--label") == ("A", "")


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (buildspec.output, "type=iso", "type must be one of"),
        (buildspec.output, "type=local", "dest is required"),
        (buildspec.output, "type=tar,dest", "'dest' must be a name=value pair"),
        (buildspec.secret, "src=/f", "id is missing"),
        (buildspec.secret, "id=a,password=x", "unexpected key 'password'"),
        (buildspec.secret, "id=a,type=vault", "unsupported type 'vault'"),
        (buildspec.agent, "=x", "default or id=socket"),
        (buildspec.named_context, "x", "name=path-or-URL"),
        (lambda text: buildspec.cache(text, "--cache-to"), "ref=x", "type is missing"),
        (lambda text: buildspec.cache(text, "--cache-to"), "type=registry", "needs ref=NAME"),
        (lambda text: buildspec.fields(text, "--x"), '"a=b"c', "invalid value"),
        (lambda text: buildspec.fields(text, "--x"), "", "one list of fields"),
        (lambda text: buildspec.pair(text, "--label"), "=x", "the name is missing"),
    ],
)
def test_what_is_wrong_is_named(read: Callable[[str], Any], text: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(text)
    assert said in caught.value.message
