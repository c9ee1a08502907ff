"""What receivers of logs get, byte for byte."""

from __future__ import annotations

import gzip
import json
import re
import zlib

import msgspec

from dockyard.proto.logformats import (
    Entry,
    Source,
    fluentd,
    gelf,
    gelf_datagrams,
    journal,
    journal_fields,
    octet_counted,
    syslog,
)

T = 1_700_000_000_123_456_789
SOURCE = Source("c" * 64, "web", "app:1", "sha256:ab", "run me", T, "syslog", {}, "tag/1", {"a.b": "x", "_e": "y"})
OUT, ERR = Entry(False, "hello", T), Entry(True, "bad", T)


def test_syslog() -> None:
    assert re.fullmatch(rb"<30>Nov 1[45] \d\d:\d\d:20 t\[7\]: hello\n", syslog(OUT, "", 3, "t", "host", 7))
    assert re.fullmatch(rb"<131>Nov 1[45] \d\d:\d\d:20 host t\[7\]: bad\n", syslog(ERR, "rfc3164", 16, "t", "host", 7))
    assert syslog(OUT, "rfc5424", 3, "t", "host", 7) == b"<30>1 2023-11-14T22:13:20Z host t 7 t - hello\n"
    assert syslog(ERR, "rfc5424micro", 3, "t", "h", 7) == b"<27>1 2023-11-14T22:13:20.123456Z h t 7 t - bad\n"
    assert octet_counted(b"<1>abc\n") == b"7 <1>abc\n"


def test_gelf() -> None:
    message = json.loads(gelf(ERR, SOURCE, "host"))
    assert message == {
        "version": "1.1", "host": "host", "short_message": "bad", "timestamp": 1700000000.1234567, "level": 3,
        "_container_id": "c" * 64, "_container_name": "web", "_image_id": "sha256:ab", "_image_name": "app:1",
        "_command": "run me", "_tag": "tag/1", "_created": "2023-11-14T22:13:20.123456789Z", "_a.b": "x", "__e": "y",
    }  # fmt: skip
    assert gelf(Entry(False, "", T), SOURCE, "host") == b""


def test_gelf_datagrams() -> None:
    assert gzip.decompress(gelf_datagrams(b"x" * 9000, "gzip", 1, b"8" * 8)[0]) == b"x" * 9000
    assert zlib.decompress(gelf_datagrams(b"x" * 9000, "zlib", 9, b"8" * 8)[0]) == b"x" * 9000
    parts = gelf_datagrams(bytes(range(256)) * 30, "none", 1, b"identity")
    assert [part[:12] for part in parts] == [b"\x1e\x0fidentity" + bytes((n, 6)) for n in range(6)]
    assert b"".join(part[12:] for part in parts) == bytes(range(256)) * 30
    assert max(map(len, parts)) <= 1420
    assert gelf_datagrams(b"x" * 300_000, "none", 1, b"identity") == []


def test_journal() -> None:
    fields = journal_fields(SOURCE)
    assert fields["A_B"] == "x" and fields["E"] == "y" and fields["CONTAINER_ID"] == "c" * 12
    lines = journal(ERR, fields).split(b"\n")
    assert b"MESSAGE=bad" in lines and b"PRIORITY=3" in lines and b"SYSLOG_IDENTIFIER=tag/1" in lines
    fields["A_B"] = "two\nlines"
    assert b"A_B\n\x09\0\0\0\0\0\0\0two\nlines\n" in journal(OUT, fields)
    assert b"CONTAINER_PARTIAL_MESSAGE=true\n" in journal(Entry(False, "x", T, True, 1, "l"), fields)


def test_fluentd() -> None:
    rest = Entry(False, "end", T, False, 2, "line")
    tag, rows, options = msgspec.msgpack.decode(fluentd([OUT, ERR, rest], SOURCE, "chunk", precise=True))
    assert (tag, options) == ("tag/1", {"size": 3, "chunk": "chunk"})
    assert rows[0][0] == msgspec.msgpack.Ext(0, (1_700_000_000).to_bytes(4, "big") + (123_456_789).to_bytes(4, "big"))
    assert rows[1][1] == {
        "container_id": "c" * 64, "container_name": "/web", "source": "stderr", "log": "bad", "a.b": "x", "_e": "y",
    }  # fmt: skip
    assert rows[2][1]["partial_id"] == "line" and rows[2][1]["partial_last"] == "true"
    plain = msgspec.msgpack.decode(fluentd([OUT], SOURCE, "", precise=False))
    assert plain[1][0][0] == 1_700_000_000 and plain[2] == {"size": 1}
