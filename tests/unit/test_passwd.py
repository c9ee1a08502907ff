"""Users and groups: Docker's rules (S16) and hostile files (S17)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockyard.linux import passwd
from dockyard.linux.passwd import LookupFailed, User

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
toor:x:0:0:second root:/toor:/bin/sh
# a comment
www:x:33:33:www:/var/www:/bin/sh
1000:x:42:43:a login that looks like a number:/evil:/bin/sh
dock:x:1000:1000:dock:/home/dock:/bin/sh
broken:x:zero:0:not a number:/root:/bin/sh
short:x:5
nohome:x:77:78
big:x:2147483648:1::/:
"""
GROUP = b"""root:x:0:
wheel:x:10:root,dock
www:x:33:
staff:x:50:dock,www
1000:x:44:dock
broken:x:none:dock
"""


def resolve(spec: str, *groups: str, users: bytes = PASSWD, group: bytes = GROUP) -> User:
    return passwd.resolve_user(spec.encode(), [name.encode() for name in groups], lambda: users, lambda: group)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("", User(0, 0, (0, 10), b"/root")),
        ("root", User(0, 0, (0, 10), b"/root")),
        ("0", User(0, 0, (0, 10), b"/root")),
        ("toor", User(0, 0, (0,), b"/root")),  # HOME is the first entry's with that uid
        ("www", User(33, 33, (33, 50), b"/var/www")),
        ("33", User(33, 33, (33, 50), b"/var/www")),
        ("dock:www", User(1000, 33, (33,), b"/home/dock")),
        ("dock:7", User(1000, 7, (7,), b"/home/dock")),
        ("4711", User(4711, 0, (0,), b"/")),
        ("4711:4712", User(4711, 4712, (4712,), b"/")),
        (":50", User(0, 50, (50,), b"/root")),
        ("nohome", User(77, 78, (78,), b"/")),
    ],
)
def test_lookup(spec: str, expected: User) -> None:
    assert resolve(spec) == expected


def test_s16_a_number_is_never_a_user_name() -> None:
    assert resolve("1000") == User(1000, 1000, (1000, 10, 50, 44), b"/home/dock")
    only_name = b"1000:x:0:0:evil:/root:/bin/sh\n"
    assert resolve("1000", users=only_name) == User(1000, 0, (0,), b"/")


def test_s16_a_number_is_never_a_group_name() -> None:
    assert resolve("www:1000").gid == 1000
    assert resolve("33:33", "1000").groups == (33, 1000)


def test_s16_absent_names_fail_in_dockers_words() -> None:
    with pytest.raises(LookupFailed, match=r"^unable to find user nobody: no matching entries in passwd file$"):
        resolve("nobody")
    with pytest.raises(LookupFailed, match=r"^unable to find group nogroup: no matching entries in group file$"):
        resolve("root:nogroup")
    with pytest.raises(LookupFailed, match=r"^unable to find group extra: no matching entries in group file$"):
        resolve("root", "extra")


def test_s16_the_primary_group_is_among_the_supplementary() -> None:
    for spec in ("", "www", "dock", "dock:staff", "5:6", "9"):
        user = resolve(spec)
        assert user.gid in user.groups, spec


def test_group_add_by_name_and_number() -> None:
    assert resolve("www", "wheel", "7", "www").groups == (33, 50, 10, 7)


@pytest.mark.parametrize("spec", ["-1", "2147483648", "5:2147483648", "5:-1", "99999999999999999999999", "big"])
def test_numbers_out_of_range_fail(spec: str) -> None:
    with pytest.raises(LookupFailed, match="uids and gids must be in range 0-2147483647"):
        resolve(spec)


def test_an_entry_without_a_number_is_no_root() -> None:
    with pytest.raises(LookupFailed, match="unable to find user broken"):
        resolve("broken")


@given(
    st.binary(max_size=300), st.binary(max_size=300), st.text(max_size=20), st.lists(st.text(max_size=10), max_size=3)
)
def test_whatever_the_files_hold_the_answer_is_a_user_or_a_refusal(
    users: bytes, group: bytes, spec: str, groups: list[str]
) -> None:
    try:
        found = resolve(spec, *groups, users=users, group=group)
    except LookupFailed:
        return
    assert 0 <= found.uid <= passwd.MAX_ID and found.gid in found.groups


@pytest.fixture
def _no_hanging() -> Iterator[None]:
    """A read that blocks becomes an error instead of a hang."""

    def on_alarm(*_: object) -> None:
        raise TimeoutError("blocked")

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.alarm(5)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("_no_hanging")
class TestReadEtcFile:
    def read(self, path: Path) -> bytes:
        return passwd.read_etc_file(bytes(path))

    def test_regular_file_and_link(self, tmp_path: Path) -> None:
        (tmp_path / "passwd").write_bytes(PASSWD)
        (tmp_path / "link").symlink_to("passwd")
        assert self.read(tmp_path / "passwd") == self.read(tmp_path / "link") == PASSWD

    def test_absent(self, tmp_path: Path) -> None:
        assert self.read(tmp_path / "none") == b""

    def test_s17_fifo_directory_and_socket_count_as_absent(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "directory").mkdir()
        (tmp_path / "loop").symlink_to("loop")
        for name in ("fifo", "directory", "loop"):
            assert self.read(tmp_path / name) == b"", name

    def test_s17_devices_count_as_absent(self) -> None:
        for name in ("/dev/zero", "/dev/null", "/dev/tty"):
            assert self.read(Path(name)) == b"", name

    def test_s17_magic_links_are_not_followed(self, tmp_path: Path) -> None:
        with (tmp_path / "file").open("w+b") as file:
            file.write(PASSWD)
            file.flush()
            (tmp_path / "magic").symlink_to(f"/proc/self/fd/{file.fileno()}")
            assert self.read(tmp_path / "magic") == b""

    def test_s17_a_huge_file_is_refused_by_name(self, tmp_path: Path) -> None:
        with (tmp_path / "passwd").open("wb") as file:
            file.truncate(1 << 30)
        with pytest.raises(LookupFailed, match=r"passwd: larger than 1048576 bytes"):
            self.read(tmp_path / "passwd")

    def test_s17_a_file_of_procfs_without_a_size_is_read_up_to_the_limit(self) -> None:
        assert self.read(Path("/proc/self/status")).startswith(b"Name:")

    def test_the_limit_itself_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "passwd").write_bytes(b"\n" * passwd.LIMIT)
        assert len(self.read(tmp_path / "passwd")) == passwd.LIMIT
