"""`dockyard system dial-stdio`: standard input and output become a connection to the daemon.

Owns: passing bytes on both ways, and the end of either. What runs it is the client at the other end of an ssh
connection (`edge.cli.ssh`, and docker's).
"""

from __future__ import annotations

import os

from dockyard.edge.cli.call import Body, Call
from dockyard.edge.cli.errors import CliError

_CHUNK = 65536


def _dial(call: Call) -> None:
    import socket
    from threading import Thread

    from dockyard.edge.cli.http import connect

    connection = connect(call.api.host)
    if call.api.host.tls is not None:
        raise CliError(f"{call.api.host.text}: dial-stdio takes an address without TLS")
    sock = connection.sock

    def send() -> None:
        try:
            while data := os.read(0, _CHUNK):
                sock.sendall(data)
            assert isinstance(sock, socket.SocketType)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the daemon has closed: the other half ends the command

    Thread(target=send, daemon=True).start()
    while data := sock.recv(_CHUNK):
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]


dial = Body(_dial)
