"""--chmod: octal and symbolic modes, as chmod(1) applies them."""

from __future__ import annotations

import pytest

from dockyard.proto.dockerfile.errors import Problem
from dockyard.proto.dockerfile.modes import apply, check_mode, check_owner


@pytest.mark.parametrize(
    ("mode", "old", "directory", "new"),
    [
        ("755", 0o600, False, 0o755),
        ("4755", 0o600, False, 0o4755),
        ("+x", 0o644, False, 0o755),
        ("a-w", 0o666, False, 0o444),
        ("u=rwX,go=rX", 0o700, True, 0o755),
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("u=rwX,go=rX", 0o100, False, 0o755),
        ("g=u", 0o740, False, 0o770),
        ("o=g", 0o750, False, 0o755),
        ("u+s,g+s", 0o755, False, 0o6755),
        ("+t", 0o777, True, 0o1777),
        ("u=", 0o777, False, 0o077),
        ("u+r-w", 0o300, False, 0o500),
        ("g+u-w", 0o640, False, 0o640),
        ("go=", 0o2777, False, 0o700),
    ],
)
def test_modes(mode: str, old: int, directory: bool, new: int) -> None:
    assert oct(apply(check_mode(mode), old, directory=directory)) == oct(new)


@pytest.mark.parametrize("mode", ["", "8", "10000", "u", "u+q", "x", "u=rwx;", "+x,", "0o755", "-1", "u+" * 500])
def test_bad_modes(mode: str) -> None:
    with pytest.raises(Problem, match="invalid chmod parameter"):
        check_mode(mode)


def test_owners() -> None:
    for text in ("root", "1:2", "a.b-c_d:staff", ":staff", "1"):
        assert check_owner(text) == text
    for text in ("", ":", "a:", "a:b:c", "a b", "a/b", "x" * 300):
        with pytest.raises(Problem):
            check_owner(text)
