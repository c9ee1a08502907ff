"""A real rsyslogd on loopback: what it understood of each message, as JSON.

Owns: its configuration, its life, one listener of each kind. Does not own: what is sent to it.
"""

from __future__ import annotations

import json
import platform
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("rsyslogd") or shutil.which("/usr/sbin/rsyslogd")
TLS = Path(f"/usr/lib/{platform.machine()}-linux-gnu/rsyslog/lmnsd_gtls.so")
_PROPERTIES = (
    "pri", "timereported:::date-rfc3339", "hostname", "syslogtag", "app-name", "procid", "msgid", "protocol-version",
    "inputname", "msg",
)  # fmt: skip
_CONFIGURATION = """
global(workDirectory="{place}" maxMessageSize="64k" {tls_files})
module(load="imudp") module(load="imtcp") module(load="imptcp") module(load="imuxsock" SysSock.Use="off")
template(name="seen" type="list" option.jsonf="on") {{ {properties} }}
ruleset(name="all") {{ action(type="omfile" file="{place}/seen" template="seen" asyncWriting="off") }}
input(type="imudp" address="127.0.0.1" port="{port}" ruleset="all")
input(type="imtcp" address="127.0.0.1" port="{port}" ruleset="all" name="imtcp")
input(type="imptcp" path="{place}/stream" ruleset="all" name="imptcp")
input(type="imuxsock" socket="{place}/log" ruleset="all" useSpecialParser="on" parseHostname="off")
input(type="imuxsock" socket="{place}/full" ruleset="all" useSpecialParser="off" parseHostname="on"
      ignoreTimestamp="off" useSysTimeStamp="off")
{tls_input}
"""


class Rsyslogd:
    """`port` is that of UDP and TCP, `tls_port` of TLS; unix sockets below `place`: `stream`, `log` (as /dev/log),
    `full` (datagrams as over UDP)."""

    def __init__(self, place: Path, certificate: Path | None = None) -> None:
        """`certificate`: one file with certificate and key; None: no TLS."""
        self.place, self.port, self.tls_port = place, _free_port(), _free_port()
        properties = " ".join(
            f'property(outname="{p.split(":")[0]}" name="{_name(p)}" format="jsonf")' for p in _PROPERTIES
        )
        files = tls = ""
        if certificate:
            files = f'defaultNetstreamDriverCAFile="{certificate}" defaultNetstreamDriverCertFile="{certificate}" '
            files += f'defaultNetstreamDriverKeyFile="{certificate}"'
            tls = (
                f'input(type="imtcp" address="127.0.0.1" port="{self.tls_port}" ruleset="all" name="tls"'
                ' streamdriver.name="gtls" streamdriver.mode="1" streamdriver.authmode="anon")'
            )
        text = _CONFIGURATION.format(place=place, port=self.port, properties=properties, tls_files=files, tls_input=tls)
        (place / "conf").write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it listens."""
        assert PROGRAM
        with open(self.place / "errors", "ab") as errors:
            command = [PROGRAM, "-n", "-f", str(self.place / "conf"), "-i", str(self.place / "pid")]
            self._process = subprocess.Popen(command, stdout=errors, stderr=errors)
        deadline = time.monotonic() + 30
        while True:
            assert self._process.poll() is None and time.monotonic() < deadline, (self.place / "errors").read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(20)
            self._process = None

    def seen(self) -> list[dict[str, Any]]:
        """Every message so far."""
        try:
            whole = (self.place / "seen").read_text().rpartition("\n")[0]  # what follows is being written
            return [json.loads(line) for line in whole.splitlines()]
        except FileNotFoundError:
            return []


@contextmanager
def running(place: Path, certificate: Path | None = None) -> Iterator[Rsyslogd]:
    daemon = Rsyslogd(place, certificate)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


def _name(wanted: str) -> str:
    """A property's name with its options, as a list template has them."""
    name, _, options = wanted.partition(":::")
    return f'{name}" dateFormat="{options.removeprefix("date-")}' if options else name


def _free_port() -> int:
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.bind(("127.0.0.1", 0))
        udp.bind(tcp.getsockname())
        return int(tcp.getsockname()[1])
