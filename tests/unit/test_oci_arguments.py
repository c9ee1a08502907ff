"""The command line of the OCI runtime."""

from __future__ import annotations

import pytest

from dockyard.runtime.oci.arguments import Option, parse
from dockyard.runtime.oci.errors import OciError

OPTIONS = (Option(("memory", "m")), Option(("force", "f"), value=False), Option(("env", "e"), many=True))


def test_options_end_at_the_program_of_an_exec() -> None:
    given = parse(["-e", "A=1", "--env=B=2", "id", "ls", "-f", "--", "x"], OPTIONS, "exec")
    assert given.many("env") == ["A=1", "B=2"] and given.rest == ["id", "ls", "-f", "--", "x"]
    assert not given.flag("force")


def test_elsewhere_they_may_come_behind_the_id() -> None:
    """As scripts around runc write them: `update ID --memory 5`, `delete ID -f`."""
    given = parse(["id", "--memory", "-1", "-f"], OPTIONS, "update", scattered=True)
    assert (given.rest, given.text("memory"), given.flag("force")) == (["id"], "-1", True)
    assert parse(["id", "--", "-f"], OPTIONS, "x", scattered=True).rest == ["id", "-f"]
    assert parse(["-f", "-", "id"], OPTIONS, "x", scattered=True).rest == ["-", "id"]


@pytest.mark.parametrize(
    "words, said", [(["id", "--no"], "not defined: --no"), (["id", "-m"], "needs an argument: -m")]
)
def test_what_is_wrong_behind_the_id_is_told(words: list[str], said: str) -> None:
    with pytest.raises(OciError, match=said):
        parse(words, OPTIONS, "update", scattered=True)
