"""A registry, asked by the client itself: manifests, which the daemon does not hand on.

Owns: `Registry`: requests of the distribution spec 1.1 that `manifest` and `imagetools` need, log-in by basic or bearer
authentication, digests checked. Does not own: credentials (`credentials`), what a copy consists of (`copying`), pulling
and pushing images (the daemon).

Credentials are sent to the registry itself and to a token server that belongs to it, never along a redirect.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from typing import IO, Any

from dockyard.edge.cli.certificates import context_for
from dockyard.edge.cli.credentials import Credentials
from dockyard.edge.cli.errors import CliError
from dockyard.model import oci
from dockyard.model.errors import DockyardError
from dockyard.proto import wwwauth
from dockyard.proto.references import Reference
from dockyard.proto.registries import RegistryRules, places

_TIMEOUT = 60  # seconds
Data = bytes | Callable[[], Iterable[bytes]] | None  # a request's body; a stream is made anew for each try
_ACCEPT = ", ".join([oci.OCI_INDEX, oci.DOCKER_INDEX, oci.OCI_MANIFEST, oci.DOCKER_MANIFEST])


class Found:
    """A manifest as the registry has it. `data`: its bytes, which fit `digest`."""

    def __init__(self, data: bytes, media_type: str, digest: str) -> None:
        self.data = data
        self.media_type = media_type
        self.digest = digest

    @property
    def is_index(self) -> bool:
        return self.media_type in oci.INDEXES

    def document(self) -> dict[str, Any]:
        values = json.loads(self.data)
        assert isinstance(values, dict)
        return values


class RefusedError(CliError):
    """The registry answered with an error. `status`: the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class BrokenError(CliError):
    """The connection could not be made, or broke."""


class Registry:
    """One registry. Connections are made one by one."""

    def __init__(self, domain: str, kept: Credentials, *, insecure: bool = False) -> None:
        rules = RegistryRules.make([], [domain] if insecure else [])
        place = places(rules, domain, rules.is_insecure(domain) or domain.partition(":")[0] == "localhost")[-1]
        self._rules = rules
        self._host = place.host
        self._schemes = list(place.schemes)
        self._domain = domain
        self._kept = kept
        self._authorization = ""
        self._scopes: list[str] = []
        context = context_for(self._host, insecure=len(self._schemes) > 1)
        self._opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))

    # -- documents --------------------------------------------------------------------------------------------------

    def manifest(self, reference: Reference) -> Found:
        """The manifest or index behind a name. CliError "no such manifest: NAME" if there is none."""
        wanted = reference.digest or reference.tag or "latest"
        try:
            data, headers = self._ask("GET", f"/v2/{reference.path}/manifests/{wanted}", accept=_ACCEPT)
        except RefusedError as error:
            if error.status == 404:
                raise CliError(f"no such manifest: {reference.complete}") from None
            raise
        digest = oci.sha256(data)
        if digest != (reference.digest or digest):
            raise CliError(f"{reference.familiar}: the registry answered with {digest}")
        try:
            manifest = oci.parse_manifest(data, reference.familiar)
        except DockyardError as error:
            raise CliError(str(error)) from None
        told = headers.get("content-type", "").partition(";")[0].strip()
        if told in oci.MANIFESTS | oci.INDEXES and manifest.media_type not in ("", told):
            raise CliError(
                f"{reference.familiar}: its media type is {manifest.media_type!r}, its Content-Type {told!r}"
            )
        return Found(data, manifest.media_type or told, digest)

    def blob(self, reference: Reference, digest: str) -> bytes:
        """A small blob, verified."""
        data, _ = self._ask("GET", f"/v2/{reference.path}/blobs/{digest}")
        if oci.sha256(data) != digest:
            raise CliError(f"{reference.familiar}: blob {digest}: the registry answered with {oci.sha256(data)}")
        return data

    def put_manifest(self, reference: Reference, found: Found) -> None:
        """Keep a manifest under the reference's digest, or its tag."""
        wanted = reference.digest or reference.tag or "latest"
        self._need(reference.path, "pull,push")
        path = f"/v2/{reference.path}/manifests/{wanted}"
        self._ask("PUT", path, data=found.data, media_type=found.media_type)

    # -- blobs on their way -----------------------------------------------------------------------------------------

    def has_blob(self, target: Reference, digest: str) -> bool:
        self._need(target.path, "pull,push")
        try:
            self._ask("HEAD", f"/v2/{target.path}/blobs/{digest}")
        except RefusedError as error:
            if error.status != 404:
                raise
            return False
        return True

    def begin(self, target: Reference, mount: str = "", source: Reference | None = None) -> str:
        """Begin an upload, or take a blob over from `source` in the same registry. Its address, "" if it is done."""
        self._need(target.path, "pull,push")
        query = ""
        if mount and source is not None:
            self._need(source.path, "pull")
            query = "?" + urllib.parse.urlencode({"mount": mount, "from": source.path})
        _, headers = self._ask("POST", f"/v2/{target.path}/blobs/uploads/{query}", data=b"")
        if query and headers.get("status") == "201":
            return ""
        if not headers.get("location"):
            raise CliError(f"{target.familiar_repository}: the registry names no address for the upload")
        return headers["location"]

    def put_blob(self, location: str, chunks: Callable[[], Iterable[bytes]], size: int, digest: str) -> None:
        """Send a blob in one request. BrokenError if the connection broke."""
        mark = "&" if "?" in location else "?"
        address = f"{location}{mark}digest={urllib.parse.quote(digest)}"
        self._ask("PUT", address, data=chunks, size=size)

    @contextmanager
    def open_blob(self, source: Reference, digest: str) -> Iterator[IO[bytes]]:
        """A blob's bytes, not verified."""
        self._need(source.path, "pull")
        with self._open("GET", f"/v2/{source.path}/blobs/{digest}", {}, None) as answer:
            yield answer

    # -- requests ---------------------------------------------------------------------------------------------------

    def _ask(
        self, method: str, path: str, *, accept: str = "", data: Data = None, media_type: str = "",
        size: int | None = None,
    ) -> tuple[bytes, dict[str, str]]:  # fmt: skip
        """A small answer and its headers, "status" among them. `data`: of `size` bytes if it is a stream."""
        headers = {"Accept": accept} if accept else {}
        if data is not None:
            headers["Content-Type"] = media_type or "application/octet-stream"
        if size is not None:
            headers["Content-Length"] = str(size)
        with self._open(method, path, headers, data) as answer:
            found = {name.lower(): text for name, text in answer.headers.items()}
            try:
                return _read(answer), {**found, "status": str(answer.status)}
            except (OSError, HTTPException) as error:
                raise BrokenError(f"{self._domain}: {error}") from None

    @contextmanager
    def _open(self, method: str, path: str, headers: Mapping[str, str], data: Data) -> Iterator[Any]:
        """The answer to a request, logged in. RefusedError, BrokenError."""
        for attempt in (1, 2):
            try:
                answer = self._send(method, path, headers, data)
                break
            except urllib.error.HTTPError as error:
                with error:
                    if error.code == 401 and attempt == 1 and self._log_in(error.headers.get_all("WWW-Authenticate")):
                        continue
                    raise RefusedError(error.code, self._explain(method, path, error)) from None
        with answer:
            yield answer

    def _send(self, method: str, path: str, headers: Mapping[str, str], data: Data) -> Any:
        problem: Exception | None = None
        for scheme in self._schemes:
            url = urllib.parse.urljoin(f"{scheme}://{self._host}", path)
            body = data() if callable(data) else data
            request = urllib.request.Request(url, body, dict(headers), method=method)
            if self._authorization and urllib.parse.urlsplit(url)[:2] == (scheme, self._host):
                request.add_unredirected_header("Authorization", self._authorization)
            try:
                answer = self._opener.open(request, timeout=_TIMEOUT)
            except urllib.error.HTTPError:
                self._schemes = [scheme]
                raise
            except (OSError, HTTPException) as error:
                problem = problem or error
            else:
                self._schemes = [scheme]
                return answer
        reason = getattr(problem, "reason", None) or problem
        raise BrokenError(f"{self._domain} cannot be reached: {reason}") from None

    @staticmethod
    def _explain(method: str, path: str, error: urllib.error.HTTPError) -> str:
        """What the registry says: distribution-spec, "Error Codes"."""
        try:
            first = json.loads(error.read(1 << 16))["errors"][0]
            said = f"{first.get('code', '')}: {first.get('message', '')}".strip(": ")
        except (ValueError, KeyError, TypeError, IndexError, OSError, AttributeError):
            said = error.reason
        wait = error.headers.get("Retry-After", "") if error.code == 429 else ""
        asked = f" (it asks to wait for {wait[:40]} seconds)" if wait else ""
        return f"{method} {urllib.parse.urlsplit(path).path}: {error.code} {said}{asked}"

    # -- log-in -----------------------------------------------------------------------------------------------------

    def _need(self, repository: str, actions: str) -> None:
        """From now on ask for a token that allows this too."""
        scope = f"repository:{repository}:{actions}"
        if scope not in self._scopes:
            self._scopes.append(scope)
            if self._authorization.startswith("Bearer"):
                self._authorization = ""

    def _log_in(self, lines: list[str] | None) -> bool:
        """Find out what to send from now on; whether anything was found."""
        found = self._kept.get(self._domain)
        for challenge in wwwauth.parse(lines or []):
            if challenge.scheme == "basic" and found.get("username"):
                self._authorization = _basic(found)
                return True
            if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
                self._authorization = f"Bearer {self._token(challenge.parameters, found)}"
                return True
        return False

    def _token(self, parameters: Mapping[str, str], found: Mapping[str, str]) -> str:
        """Ask the token server: distribution's "Token Authentication Specification"."""
        realm = urllib.parse.urlsplit(parameters["realm"])
        plain = realm.scheme == "http" and self._schemes == ["http"]
        if realm.scheme != "https" and not plain:
            raise CliError(f"{self._domain}: its token server {parameters['realm']!r} is not reached over https")
        if found and not self._rules.realm_gets_credentials(self._host, realm.netloc):
            raise CliError(f"{self._domain}: its token server {realm.netloc} is somebody else's: no credentials for it")
        scopes = [*self._scopes, *([parameters["scope"]] if parameters.get("scope") else [])]
        fields = [("service", parameters.get("service", "")), *(("scope", scope) for scope in dict.fromkeys(scopes))]
        url = parameters["realm"]
        if found.get("registrytoken"):
            return found["registrytoken"]
        if found.get("identitytoken"):
            form = {"grant_type": "refresh_token", "refresh_token": found["identitytoken"], "client_id": "dockyard"}
            data = urllib.parse.urlencode({**form, "service": fields[0][1], "scope": " ".join(scopes)}).encode()
            request = urllib.request.Request(url, data, method="POST")
        else:
            request = urllib.request.Request(url + ("&" if realm.query else "?") + urllib.parse.urlencode(fields))
            if found.get("username"):
                request.add_unredirected_header("Authorization", _basic(found))
        try:
            with self._opener.open(request, timeout=_TIMEOUT) as answer:
                values = json.loads(_read(answer))
            return str(values.get("token") or values["access_token"])
        except (OSError, HTTPException, ValueError, KeyError, AttributeError) as error:
            raise CliError(f"{self._domain}: no token from {realm.netloc}: {error}") from None


def _basic(found: Mapping[str, str]) -> str:
    text = f"{found.get('username', '')}:{found.get('password', '')}"
    return "Basic " + base64.b64encode(text.encode()).decode()


def _read(answer: IO[bytes]) -> bytes:
    data = answer.read(oci.MAX_DOCUMENT + 1)
    if len(data) > oci.MAX_DOCUMENT:
        raise CliError(f"the registry's answer is larger than {oci.MAX_DOCUMENT} bytes")
    return data
