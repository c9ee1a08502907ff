"""Who a client is to registries: `POST /auth`, and the headers of pull, push and search.

Owns: reading credentials from requests. Does not own: verifying them (`engine.transfers`), keeping them: nobody here
does, clients send them each time.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from dockyard.edge.routing import Call, Route
from dockyard.model.errors import InvalidArgument
from dockyard.proto import dockerconfig
from dockyard.proto.dockerconfig import Credentials


def given(call: Call) -> Credentials:
    """The credentials of X-Registry-Auth. A header that cannot be read is none, as in Docker."""
    try:
        return dockerconfig.decode_auth(call.request.headers.get("X-Registry-Auth", ""))
    except InvalidArgument:
        return Credentials()


async def check(call: Call) -> web.StreamResponse:
    """`docker login`: whether a registry takes these credentials."""
    document: dict[str, Any] = await call.body(dict[str, Any])
    credentials = dockerconfig.credentials(document, "auth")
    await call.engine.transfers.log_in(credentials)
    return call.json({"Status": "Login Succeeded", "IdentityToken": ""})


ROUTES = [Route("POST", "/auth", check)]
