"""Log records as remote receivers take them: syslog, GELF, journald's native protocol, Fluentd's forward protocol.

Owns: the bytes. Does not own: connections (`runtime.shipper.sinks`), where records come from. Pure.

Sources: RFC 3164, RFC 5424; https://go2docs.graylog.org (GELF 1.1);
https://systemd.io/JOURNAL_NATIVE_PROTOCOL; https://github.com/fluent/fluentd/wiki/Forward-Protocol-Specification-v1.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct, field

_ERROR, _INFORMATION = 3, 6  # severities of stderr and stdout
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_CHUNK: Final = 1420  # bytes of a GELF datagram, as Docker
_CHUNKS: Final = 128


class Source(Struct):
    """The container whose log it is (what `engine.logspec.shipping` writes)."""

    id: str
    name: str  # without the slash
    image: str
    image_id: str
    command: str
    created: int  # ns since the epoch
    driver: str
    options: dict[str, str]
    tag: str
    extra: dict[str, str] = field(default_factory=dict)


class Entry(NamedTuple):
    """One record of a log."""

    stderr: bool
    text: str  # without the newline
    time: int  # ns since the epoch
    partial: bool = False  # the line goes on in the next one of its stream
    piece: int = 0  # of a line in pieces: 1, 2, …; 0: it is in one
    line: str = ""  # what all pieces of a line have in common


# --- syslog ---


def syslog(entry: Entry, form: str, facility: int, tag: str, hostname: str, pid: int) -> bytes:
    """One message, with the newline at its end that Docker's have. `form`: "", rfc3164, rfc5424, rfc5424micro."""
    priority = facility * 8 + (_ERROR if entry.stderr else _INFORMATION)
    if form.startswith("rfc5424"):
        stamp = _stamp(entry.time, 6 if form == "rfc5424micro" else 0)
        head = f"<{priority}>1 {stamp} {hostname or '-'} {tag or '-'} {pid} {tag or '-'} -"
    else:
        moment = datetime.fromtimestamp(entry.time // 1_000_000_000)  # in local time
        stamp = f"{_MONTHS[moment.month - 1]} {moment.day:2d} {moment:%H:%M:%S}"
        host = f" {hostname}" if form == "rfc3164" else ""
        head = f"<{priority}>{stamp}{host} {tag}[{pid}]:"
    return f"{head} {entry.text}\n".encode()


def _stamp(moment: int, digits: int) -> str:
    seconds, rest = divmod(moment, 1_000_000_000)
    fraction = f".{rest:09d}"[: digits + 1] if digits else ""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"


def octet_counted(message: bytes) -> bytes:
    """RFC 5425: over TLS a message is preceded by its length."""
    return b"%d %s" % (len(message), message)


# --- GELF ---


def gelf(entry: Entry, source: Source, hostname: str) -> bytes:
    """One message as JSON; b"" for an empty line, which GELF does not allow."""
    if not entry.text:
        return b""
    fields: dict[str, Any] = {
        "version": "1.1",
        "host": hostname,
        "short_message": entry.text,
        "timestamp": entry.time / 1e9,
        "level": _ERROR if entry.stderr else _INFORMATION,
        "_container_id": source.id,
        "_container_name": source.name,
        "_image_id": source.image_id,
        "_image_name": source.image,
        "_command": source.command,
        "_tag": source.tag,
        "_created": _stamp(source.created, 9),
    }
    fields.update({f"_{key}": value for key, value in source.extra.items() if key != "id"})
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


def gelf_datagrams(message: bytes, kind: str, level: int, identity: bytes) -> list[bytes]:
    """Compressed (`kind`: gzip, zlib, none) and in chunks where it does not fit into one datagram. `identity`: 8 bytes
    that tell its chunks from those of others. [] for one that no datagrams can carry."""
    if kind == "gzip":
        message = gzip.compress(message, 6 if level < 0 else level, mtime=0)
    elif kind == "zlib":
        message = zlib.compress(message, level)
    if len(message) <= _CHUNK:
        return [message]
    room = _CHUNK - 12
    parts = [message[at : at + room] for at in range(0, len(message), room)]
    if len(parts) > _CHUNKS:
        return []
    return [b"\x1e\x0f" + identity + bytes((number, len(parts))) + part for number, part in enumerate(parts)]


# --- journald ---


def journal_fields(source: Source) -> dict[str, str]:
    """What all records of a container have."""
    fields = {
        "CONTAINER_ID": source.id[:12],
        "CONTAINER_ID_FULL": source.id,
        "CONTAINER_NAME": source.name,
        "CONTAINER_TAG": source.tag,
        "IMAGE_NAME": source.image,
        "SYSLOG_IDENTIFIER": source.tag,
    }
    for key, value in source.extra.items():
        if name := re.sub(r"[^A-Z0-9]", "_", key.upper()).lstrip("_"):
            fields[name] = value
    return fields


def journal(entry: Entry, fields: Mapping[str, str]) -> bytes:
    """One datagram of the native protocol. `fields`: `journal_fields`."""
    stamp = _stamp(entry.time, 9)
    all_fields = {
        **fields,
        "MESSAGE": entry.text,
        "PRIORITY": str(_ERROR if entry.stderr else _INFORMATION),
        "SYSLOG_TIMESTAMP": stamp,
    }
    if entry.partial:
        all_fields["CONTAINER_PARTIAL_MESSAGE"] = "true"
    if entry.piece:
        all_fields |= {"CONTAINER_PARTIAL_ID": entry.line, "CONTAINER_PARTIAL_ORDINAL": str(entry.piece)}
    out = []
    for name, value in all_fields.items():
        data = value.encode()
        if b"\n" in data:
            out.append(name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n")
        else:
            out.append(name.encode() + b"=" + data + b"\n")
    return b"".join(out)


# --- Fluentd ---


def fluentd(entries: Sequence[Entry], source: Source, chunk: str, *, precise: bool) -> bytes:
    """A message of mode Forward: all entries under the container's tag. `chunk`: "" or what the receiver shall
    acknowledge; `precise`: times with nanoseconds."""
    common = {"container_id": source.id, "container_name": f"/{source.name}", **source.extra}
    rows = []
    for entry in entries:
        record = {**common, "source": "stderr" if entry.stderr else "stdout", "log": entry.text}
        if entry.piece:
            record |= {
                "partial_message": "true",
                "partial_id": entry.line,
                "partial_ordinal": str(entry.piece),
                "partial_last": "false" if entry.partial else "true",
            }
        seconds, rest = divmod(entry.time, 1_000_000_000)
        stamp: Any = seconds
        if precise:
            stamp = msgspec.msgpack.Ext(0, seconds.to_bytes(4, "big") + rest.to_bytes(4, "big"))
        rows.append([stamp, record])
    options: dict[str, Any] = {"size": len(rows)}
    if chunk:
        options["chunk"] = chunk
    return msgspec.msgpack.encode([source.tag, rows, options])
