"""TLS of registries: private authorities and client certificates, a directory for each registry.

Owns: the layout of certs.d as Docker has it (HOST[:PORT]/*.crt authorities, *.cert with *.key of the client).
Does not own: which registries may go without (`proto.registries`).
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from pathlib import Path

from dockyard.model.errors import InvalidArgument, SystemFailure
from dockyard.proto.registries import NO_FILES, TLSFiles

DIRECTORIES = ("/etc/dockyard/certs.d", "/etc/docker/certs.d")


def context_for(
    host: str, *, insecure: bool, directories: Sequence[str] = DIRECTORIES, files: TLSFiles = NO_FILES
) -> ssl.SSLContext:
    """The context for connections to `host` ("registry:5000"). Errors name the file that cannot be used.

    An insecure registry's certificate is not looked at, but its client certificates are used.
    """
    context = ssl.create_default_context()
    for directory in directories:
        _load(context, Path(directory) / host)
    for name in files.authorities:
        _try(Path(name), lambda path: context.load_verify_locations(cafile=path))
    for certificate, key in files.clients:
        _try(Path(certificate), lambda path, key=key: context.load_cert_chain(path, key or None))
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _load(context: ssl.SSLContext, place: Path) -> None:
    try:
        names = sorted(os.listdir(place))
    except FileNotFoundError:
        return
    except OSError as error:
        raise SystemFailure(f"{place}: {error.strerror}") from error
    for name in names:
        stem, extension = os.path.splitext(name)
        if extension == ".crt":
            _try(place / name, lambda path: context.load_verify_locations(cafile=path))
        elif extension == ".cert":
            key = stem + ".key"
            if key not in names:
                raise InvalidArgument(
                    f"missing key {key} for client certificate {place / name}. "
                    "CA certificates must use the extension .crt"
                )
            _try(place / name, lambda path, key=key: context.load_cert_chain(path, str(place / key)))
        elif extension == ".key" and stem + ".cert" not in names:
            raise InvalidArgument(f"missing client certificate {stem}.cert for key {place / name}")


def _try(path: Path, load: object) -> None:
    try:
        load(str(path))  # type: ignore[operator]
    except (OSError, ssl.SSLError) as error:
        raise InvalidArgument(f"certificate {path}: {error.strerror or error}") from None
