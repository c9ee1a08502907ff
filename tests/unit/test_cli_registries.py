"""The client's credentials, progress, and names of systems to bootstrap."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from dockyard.edge.cli import main
from dockyard.edge.cli.commands import bootstrap
from dockyard.edge.cli.commands.registries import reference_of
from dockyard.edge.cli.credentials import HUB, Credentials, folder, server_key
from dockyard.edge.cli.errors import CliError
from dockyard.edge.cli.progress import bar, show_messages


@pytest.mark.parametrize(
    ("server", "key"),
    [("", HUB), ("docker.io", HUB), ("index.docker.io", HUB), ("https://index.docker.io/v1/", HUB), (HUB, HUB),
     ("localhost:5000", "localhost:5000"), ("https://r.example/v2/", "r.example"), ("r.example/team", "r.example")],
)  # fmt: skip
def test_the_key_of_a_registry(server: str, key: str) -> None:
    assert server_key(server) == key


def test_where_the_client_s_files_lie() -> None:
    assert folder({"config": "/a"}, {"DOCKER_CONFIG": "/b"}) == "/a"
    assert folder({}, {"DOCKER_CONFIG": "/b"}) == "/b"
    assert folder({}, {}) == os.path.expanduser("~/.docker")


def kept(tmp_path: Path, values: Any = None) -> Credentials:
    if values is not None:
        (tmp_path / "config.json").write_text(json.dumps(values))
    return Credentials(str(tmp_path), {"PATH": str(tmp_path)})


def test_credentials_are_kept_as_docker_keeps_them(tmp_path: Path) -> None:
    one = kept(tmp_path, {"auths": {"old": {"auth": "eDp5"}}, "psFormat": "table"})
    assert one.put("r.example:5000", {"username": "u", "password": "p:q"})
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["auths"]["r.example:5000"] == {"auth": base64.b64encode(b"u:p:q").decode()}
    assert values["psFormat"] == "table" and values["auths"]["old"] == {"auth": "eDp5"}
    found = kept(tmp_path).get("r.example:5000")
    assert found == {"username": "u", "password": "p:q", "serveraddress": "r.example:5000"}
    header = kept(tmp_path).header("r.example:5000")["X-Registry-Auth"]
    assert json.loads(base64.urlsafe_b64decode(header)) == found
    kept(tmp_path).erase("r.example:5000")
    assert kept(tmp_path).get("r.example:5000") == {}


def test_s38_only_the_registry_s_own_credentials_are_sent(tmp_path: Path) -> None:
    auths = {"a.example": {"auth": "dTpw"}, HUB: {"auth": "aDpo"}}
    one = kept(tmp_path, {"auths": auths})
    for other in ("b.example", "a.example.evil", "xa.example", "a.example:444"):
        assert one.header(other)["X-Registry-Auth"] == base64.urlsafe_b64encode(b"{}").decode()
    assert one.get("docker.io")["username"] == "h"


def test_an_identity_token_takes_the_password_s_place(tmp_path: Path) -> None:
    kept(tmp_path).put("r", {"username": "u", "password": "", "identitytoken": "t"})
    found = kept(tmp_path).get("r")
    assert found["identitytoken"] == "t" and found["password"] == ""


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": {"r": {"auth": "%%%"}}}', '{"auths": {"r": {"auth": "eHh4"}}}'])
def test_a_damaged_config_is_named_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CliError, match=r"config\.json: "):
        Credentials(str(tmp_path), {}).get("r")
    assert path.read_text() == text


def test_a_helper_that_is_missing_or_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    one = kept(tmp_path, {"credsStore": "nosuch"})
    with pytest.raises(CliError, match="docker-credential-nosuch cannot be run"):
        one.get("r")
    helper = tmp_path / "docker-credential-bad"
    helper.write_text("#!/bin/sh\necho out of order >&2\nexit 3\n")
    helper.chmod(0o755)
    with pytest.raises(CliError, match="docker-credential-bad get: out of order"):
        kept(tmp_path, {"credHelpers": {"r": "bad"}}).get("r")
    with pytest.raises(CliError, match="invalid credential helper"):
        kept(tmp_path, {"credHelpers": {"r": "../../bin/sh"}}).get("r")


def test_a_default_helper_is_adopted_only_for_fresh_files(tmp_path: Path) -> None:
    for name in ("pass", "docker-credential-pass"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    fresh, used = kept(tmp_path, {}), kept(tmp_path, {"auths": {"x": {"auth": "eDp5"}}})
    fresh.adopt_default_helper()
    used.adopt_default_helper()
    assert (fresh.helper("r"), used.helper("r")) == ("pass", "")


# --- progress ---------------------------------------------------------------------------------------------------------

MESSAGES: list[dict[str, Any]] = [
    {"status": "Pulling from team/app", "id": "1"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "aaa"},
    {"status": "Downloading", "progressDetail": {"current": 5, "total": 10}, "progress": "[=>]", "id": "aaa"},
    {"status": "Pull complete", "progressDetail": {}, "id": "aaa"},
    {"status": "Digest: sha256:1"},
    {"aux": {"Tag": "1"}},
]


def test_without_a_terminal_every_line_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with open(path, "wb") as file:
        assert show_messages(MESSAGES, file.fileno()) == [{"Tag": "1"}]
    assert path.read_text() == "1: Pulling from team/app\naaa: Pulling fs layer\naaa: Pull complete\nDigest: sha256:1\n"


def test_on_a_terminal_lines_change_in_place() -> None:
    assert show(MESSAGES) == ["1: Pulling from team/app", "aaa: Pull complete", "Digest: sha256:1"]


def test_lines_that_have_scrolled_away_are_left_alone() -> None:
    messages = [{"status": "Waiting", "id": f"p{number}"} for number in range(40)]
    screen = show([*messages, {"status": "Done", "id": "p39"}, {"status": "Done", "id": "p0"}])
    assert screen[-1] == "p39: Done" and screen[0] == "p0: Waiting"


def show(messages: list[dict[str, Any]]) -> list[str]:
    """What a terminal of 24 rows has in the end, with what scrolled away."""
    import pty
    import threading

    master, slave = pty.openpty()
    seen = bytearray()

    def read() -> None:
        try:
            while data := os.read(master, 65536):
                seen.extend(data)
        except OSError:
            pass

    reader = threading.Thread(target=read)
    reader.start()
    show_messages(messages, slave)
    os.close(slave)
    reader.join()
    os.close(master)
    lines, at = [""], 0
    for part in seen.decode().replace("\r\n", "\n").split("\x1b["):
        if part[:2] == "K\n" or part == "K":
            part = part[1:]
        elif part[:1].isdigit() and "A" in part[:4]:
            number, _, part = part.partition("A")
            at -= int(number)
            part = part.removeprefix("\r")
            lines[at] = ""
        elif part[:1].isdigit() and "B" in part[:4]:
            number, _, part = part.partition("B")
            at += int(number)
            part = part.removeprefix("\r")
        elif part[:1] == "K":
            part = part[1:]
        for index, piece in enumerate(part.split("\n")):
            at += bool(index)
            if at == len(lines):
                lines.append("")
            lines[at] += piece
    return [line for line in lines if line]


def test_an_error_in_the_middle_ends_the_command() -> None:
    with pytest.raises(CliError, match="no such layer"):
        show_messages(
            [{"status": "x"}, {"error": "e", "errorDetail": {"message": "no such layer"}}], os.open("/dev/null", 1)
        )


def test_bars() -> None:
    assert bar(0, 0, 200) == "" and bar(1000, 0, 200) == "     1kB"
    assert bar(5, 10, 80) == "      5B/10B"
    assert bar(5, 10, 200) == f"[{'=' * 25}>{' ' * 25}]       5B/10B"
    assert bar(20, 10, 200) == "     20B"


# --- bootstrap --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "system"),
    [("debian:bookworm", ("debian", "bookworm")),
     ("debian:12", ("debian", "bookworm")), ("debian", ("debian", "stable")),
     ("ubuntu:24.04", ("ubuntu", "noble")), ("docker.io/library/debian:sid", ("debian", "sid"))],
)  # fmt: skip
def test_names_of_systems(name: str, system: tuple[str, str]) -> None:
    assert bootstrap.system_of(reference_of(name)) == system


def test_what_cannot_be_bootstrapped_is_said(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*words: str) -> str:
        assert main.run(["image", "bootstrap", *words]) == 1
        return capfd.readouterr().err

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "cannot bootstrap alpine:3" in said("alpine:3")
    assert "unknown variant" in said("--variant", "huge", "debian:12")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "needs mmdebstrap, which is not installed: apt-get install mmdebstrap" in said("debian:12")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "needs root" in said("debian:12")
    monkeypatch.undo()
    if os.geteuid() == 0 and bootstrap.shutil.which("mmdebstrap"):
        assert "the mirror cannot be reached" in said("--mirror", "http://127.0.0.1:9/debian", "debian:12")
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
        assert "is no number of seconds" in said("debian:12")
