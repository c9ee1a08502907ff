"""Entries of binfmt_misc: which machines' programs they take."""

from __future__ import annotations

from dockyard.proto import binfmt

ARM64 = """\
enabled
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: POF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""


def test_an_interpreter_takes_its_machine_only() -> None:
    entry = binfmt.parse(ARM64)
    assert entry is not None and entry.fixed and entry.interpreter.endswith("aarch64-binfmt-P")
    assert binfmt.takes(entry, "arm64")
    assert not any(binfmt.takes(entry, other) for other in ("amd64", "arm", "s390x", "riscv64", "vax"))


def test_what_is_no_interpreter_for_programs() -> None:
    assert binfmt.parse(ARM64.replace("enabled", "disabled")) is None
    assert binfmt.parse("enabled\ninterpreter /bin/x\nflags: \nextension .exe\n") is None
    assert binfmt.parse("") is None and binfmt.parse(ARM64.replace("7f45", "zz")) is None


def test_without_the_flag_it_is_not_seen_in_containers() -> None:
    entry = binfmt.parse(ARM64.replace("POF", "PO"))
    assert entry is not None and not entry.fixed


def test_big_endian_machines_and_magic_beyond_the_head() -> None:
    s390x = binfmt.Entry("/q", 0, bytes.fromhex("7f454c4602020100000000000000000000020016"), b"\xff" * 20, True)
    assert binfmt.takes(s390x, "s390x") and not binfmt.takes(s390x, "ppc64")
    assert not binfmt.takes(s390x._replace(offset=30), "s390x")
