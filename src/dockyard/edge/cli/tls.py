"""TLS to a daemon on TCP.

Owns: the context made of the `--tls…` files, and errors that name the file. Imported only when TLS is used (ssl costs
time to import). Does not own: which files (`host`).
"""

from __future__ import annotations

import socket
import ssl

from dockyard.edge.cli.errors import CliError, NotReachable
from dockyard.edge.cli.host import Host


def wrap(sock: socket.socket, host: Host) -> ssl.SSLSocket:
    """The socket with TLS on it. CliError for files that do not load, NotReachable for a failed handshake."""
    assert host.tls is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not host.tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        if host.tls.ca:
            context.load_verify_locations(host.tls.ca)
        elif host.tls.verify:
            context.load_default_certs()
        if host.tls.cert or host.tls.key:
            context.load_cert_chain(host.tls.cert, host.tls.key or None)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(file for file in (host.tls.ca, host.tls.cert, host.tls.key) if file)
        raise CliError(f"could not read the TLS files {files}: {error}") from None
    try:
        return context.wrap_socket(sock, server_hostname=host.name, suppress_ragged_eofs=True)
    except (OSError, ssl.SSLError) as error:
        raise NotReachable(f"TLS with the daemon at {host.text} failed: {error}") from None


def close_write(sock: ssl.SSLSocket) -> None:
    """Half-closes: sends close_notify and leaves reading possible."""
    blocking = sock.getblocking()
    sock.setblocking(False)
    try:
        sock.unwrap()
    except (ssl.SSLError, OSError, ValueError):
        pass  # "want read": the alert is out, the peer's has not come, and that is what is wanted
    finally:
        sock.setblocking(blocking)
