"""The syslog driver with a real receiver: what rsyslogd understands of each format over each transport."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.support import rsyslog
from tests.support.rsyslog import Rsyslogd
from tests.unit.test_shipper import Ground, complete, ground, self_signed, until

__all__ = ["ground"]
pytestmark = pytest.mark.skipif(rsyslog.PROGRAM is None, reason="rsyslogd is not installed (apt-get install rsyslog)")

FORMS = ("", "rfc3164", "rfc5424", "rfc5424micro")
LINES = (
    "hello", "", "größe 漢字", '{not: json} \\ "quoted" %s', "<13>looks like a header: x", "tab\t, bell \x07",
    "y" * 12_000,
)  # fmt: skip
AS_SEEN = [line.replace("\t", "#011").replace("\x07", "#007") for line in LINES]  # rsyslogd escapes control characters


@pytest.fixture(scope="module")
def daemon() -> Iterator[Rsyslogd]:
    """With TLS where rsyslog-gnutls is installed."""
    with tempfile.TemporaryDirectory(prefix="dyr-") as name:  # short enough for sockets
        place = Path(name)
        with rsyslog.running(place, self_signed(place) if rsyslog.TLS.exists() else None) as running:
            yield running


def addresses(daemon: Rsyslogd, form: str) -> dict[str, dict[str, str]]:
    """Options by transport. What /dev/log is on most machines takes messages without a host's name only."""
    tls = {
        "syslog-address": f"tcp+tls://localhost:{daemon.tls_port}",
        "syslog-tls-ca-cert": str(daemon.place / "certificate.pem"),
    }
    return {
        "udp": {"syslog-address": f"udp://127.0.0.1:{daemon.port}"},
        "tcp": {"syslog-address": f"tcp://127.0.0.1:{daemon.port}"},
        "unix": {"syslog-address": f"unix://{daemon.place}/stream"},
        "unixgram": {"syslog-address": f"unixgram://{daemon.place}/{'full' if form else 'log'}"},
        "tls": tls,
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("transport", ["udp", "tcp", "unix", "unixgram", "tls"])
def test_every_format_over_every_transport(daemon: Rsyslogd, ground: Ground, transport: str, form: str) -> None:
    if transport == "tls" and not rsyslog.TLS.exists():
        pytest.skip("rsyslog-gnutls is not installed")
    before = len(daemon.seen())
    options = {"syslog-format": form, "syslog-facility": "local3", **addresses(daemon, form)[transport]}

    async def main() -> None:
        ground.prepare("syslog", options)
        ground.write(*LINES)
        ground.write("bad", stream="stderr")
        async with ground.shipping():
            await until(lambda: len(daemon.seen()) == before + len(LINES) + 1)

    asyncio.run(main())
    assert ground.told == []
    found = daemon.seen()[before:]
    assert [one["msg"].removeprefix(" ") for one in found] == [*AS_SEEN, "bad"]
    assert [one["pri"] for one in found] == ["158"] * len(LINES) + ["155"]  # local3: information, error
    pid = str(os.getpid())
    assert {(one["app-name"], one["procid"]) for one in found} == {("t", pid)}
    named = form or transport.startswith("unix")  # else the receiver's name for where it comes from
    assert {one["hostname"] for one in found} <= ({socket.gethostname()} if named else {"localhost", "127.0.0.1"})
    if form.startswith("rfc5424"):
        fraction = ".001" if form == "rfc5424micro" else ""
        assert {(one["protocol-version"], one["msgid"]) for one in found} == {("1", "t")}
        moment = datetime.fromisoformat(f"2023-11-14T22:13:20{fraction}Z")
        assert datetime.fromisoformat(found[0]["timereported"]) == moment


def test_nothing_is_lost_when_rsyslogd_is_restarted(daemon: Rsyslogd, ground: Ground) -> None:
    """Over TCP, while a container writes."""
    before = len(daemon.seen())

    def numbers() -> list[int]:
        return [int(one["msg"]) for one in daemon.seen()[before:]]

    async def main() -> None:
        ground.prepare("syslog", {"syslog-format": "rfc5424", **addresses(daemon, "rfc5424")["tcp"]})
        async with ground.shipping():
            ground.write(*map(str, range(500)))
            await until(numbers)
            await asyncio.to_thread(daemon.stop)
            ground.write(*map(str, range(500, 1000)))
            await until(lambda: ground.told)
            await asyncio.to_thread(daemon.start)
            await until(lambda: 999 in numbers())

    asyncio.run(main())
    assert complete(numbers(), 1000)
    assert "is sent again" in ground.told[-1]
