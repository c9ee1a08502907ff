"""TLS to registries from the client itself: certs.d/HOST[:PORT]/ as the daemon reads it.

Owns: the context for one registry, errors that name the file. Does not own: which registries are insecure
(`proto.registries`), TLS to the daemon (`tls`).
"""

from __future__ import annotations

import os
import ssl

from dockyard.edge.cli.errors import CliError

DIRECTORIES = ("/etc/dockyard/certs.d", "/etc/docker/certs.d")


def context_for(host: str, *, insecure: bool, directories: tuple[str, ...] = DIRECTORIES) -> ssl.SSLContext:
    """*.crt are authorities, *.cert with *.key ours. CliError."""
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for directory in directories:
        place = os.path.join(directory, host)
        for name in sorted(os.listdir(place)) if os.path.isdir(place) else ():
            path, (stem, extension) = os.path.join(place, name), os.path.splitext(name)
            try:
                if extension == ".crt":
                    context.load_verify_locations(cafile=path)
                elif extension == ".cert":
                    context.load_cert_chain(path, os.path.join(place, f"{stem}.key"))
            except (OSError, ssl.SSLError) as error:
                raise CliError(f"certificate {path}: {getattr(error, 'strerror', None) or error}") from None
    return context
