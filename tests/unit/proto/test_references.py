"""Names of images: Docker's grammar, defaults and complaints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockyard.model.errors import InvalidArgument
from dockyard.proto import references

D = "sha256:" + "a" * 64

GOOD = {
    "busybox": ("docker.io", "library/busybox", "", "", "busybox"),
    "busybox:1.36": ("docker.io", "library/busybox", "1.36", "", "busybox:1.36"),
    "docker.io/busybox": ("docker.io", "library/busybox", "", "", "busybox"),
    "docker.io/library/busybox": ("docker.io", "library/busybox", "", "", "busybox"),
    "index.docker.io/library/busybox:x": ("docker.io", "library/busybox", "x", "", "busybox:x"),
    "library/busybox": ("docker.io", "library/busybox", "", "", "busybox"),
    "user/app": ("docker.io", "user/app", "", "", "user/app"),
    "localhost/app": ("localhost", "app", "", "", "localhost/app"),
    "localhost:5000/app": ("localhost:5000", "app", "", "", "localhost:5000/app"),
    "host.example:5000/a/b:t": ("host.example:5000", "a/b", "t", "", "host.example:5000/a/b:t"),
    "[::1]:5000/a": ("[::1]:5000", "a", "", "", "[::1]:5000/a"),
    f"busybox@{D}": ("docker.io", "library/busybox", "", D, f"busybox@{D}"),
    f"a/b:t@{D}": ("docker.io", "a/b", "t", D, f"a/b:t@{D}"),
    "Host/app": ("Host", "app", "", "", "Host/app"),
    "a__b/c.d-e---f": ("docker.io", "a__b/c.d-e---f", "", "", "a__b/c.d-e---f"),
    "sha256:abc": ("docker.io", "library/sha256", "abc", "", "sha256:abc"),
    "a:" + "t" * 128: ("docker.io", "library/a", "t" * 128, "", "a:" + "t" * 128),
}

BAD = {
    "": "invalid reference format",
    "UPPER": "invalid reference format: repository name (library/UPPER) must be lowercase",
    "user/Upper:x": "invalid reference format: repository name (user/Upper) must be lowercase",
    "a" * 64: f"invalid repository name ({'a' * 64}), cannot specify 64-byte hexadecimal strings",
    "a//b": "invalid reference format",
    "-a": "invalid reference format",
    "a:": "invalid reference format",
    "a:-x": "invalid reference format",
    "a b": "invalid reference format",
    "a/b/": "invalid reference format",
    "a___b": "invalid reference format",
    "a..b": "invalid reference format",
    "a@sha256:abc": "invalid reference format",
    "a\nb": "invalid reference format",
    "a\n": "invalid reference format",
    "../../etc": "invalid reference format",
    "a:" + "t" * 129: "invalid reference format",
    "a/" + "x" * 254: "repository name must not be more than 255 characters",
}


@pytest.mark.parametrize("text", GOOD)
def test_good_names(text: str) -> None:
    domain, path, tag, digest, familiar = GOOD[text]
    found = references.parse(text)
    assert found == (domain, path, tag, digest)
    assert found.familiar == familiar
    assert references.from_complete(found.complete) == found
    assert references.parse(found.familiar) == found


@pytest.mark.parametrize("text", BAD)
def test_bad_names(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        references.parse(text)
    assert str(caught.value) == BAD[text]


def test_default_tag() -> None:
    assert references.parse("a").with_default_tag().familiar == "a:latest"
    assert references.parse("a:1").with_default_tag().tag == "1"
    assert references.parse(f"a@{D}").with_default_tag().tag == ""


@given(st.text(alphabet="aB0.:/@-_[]sha256\n é", max_size=30))
def test_whatever_is_taken_can_be_shown_and_read_again(text: str) -> None:
    try:
        found = references.parse(text)
    except InvalidArgument:
        return
    assert references.parse(found.familiar) == found
    assert ".." not in found.path.split("/")


def test_no_image_gets_a_name_that_reads_as_an_id() -> None:
    with pytest.raises(InvalidArgument, match="ambiguous tag"):
        references.for_image(references.parse("sha256:abc"))
    assert references.for_image(references.parse("host/sha256")).tag == "latest"
