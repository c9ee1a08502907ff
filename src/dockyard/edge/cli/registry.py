"""A registry, asked by the client itself: manifests, which the daemon does not hand on.

Owns: `Registry`: requests of the distribution spec 1.1 that `manifest` and `imagetools` need, log-in by basic or bearer
authentication, digests checked. Does not own: credentials (`credentials`), pulling and pushing images (the daemon).

Credentials are sent to the registry itself and to a token server that belongs to it, never along a redirect.
"""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import IO, Any

from dockyard.edge.cli.credentials import Credentials
from dockyard.edge.cli.errors import CliError
from dockyard.model import oci
from dockyard.proto import wwwauth
from dockyard.proto.references import Reference
from dockyard.proto.registries import RegistryRules, places

_TIMEOUT = 60  # seconds
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


class Registry:
    """One registry. Connections are made one by one: this is for a few small documents."""

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
        context = ssl.create_default_context()
        if len(self._schemes) > 1:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
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
        manifest = oci.parse_manifest(data, reference.familiar)
        media_type = manifest.media_type or headers.get("content-type", "").partition(";")[0].strip()
        return Found(data, media_type, digest)

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

    def ensure_blob(self, target: Reference, source: Reference, digest: str) -> None:
        """Let `target`'s repository have a blob of `source`'s, in the same registry or another."""
        self._need(target.path, "pull,push")
        try:
            self._ask("HEAD", f"/v2/{target.path}/blobs/{digest}")
            return
        except RefusedError as error:
            if error.status != 404:
                raise
        query = ""
        if source.domain == target.domain:
            self._need(source.path, "pull")
            query = "?" + urllib.parse.urlencode({"mount": digest, "from": source.path})
        _, headers = self._ask("POST", f"/v2/{target.path}/blobs/uploads/{query}", data=b"")
        if not query or headers.get("status") != "201":
            raise CliError(
                f"{target.familiar_repository} lacks blob {digest} of {source.familiar}, and it cannot be mounted: "
                "push the image to that repository first"
            )

    # -- requests ---------------------------------------------------------------------------------------------------

    def _ask(
        self, method: str, path: str, *, accept: str = "", data: bytes | None = None, media_type: str = ""
    ) -> tuple[bytes, dict[str, str]]:
        headers = {"Accept": accept} if accept else {}
        if data is not None:
            headers["Content-Type"] = media_type or "application/octet-stream"
        for attempt in (1, 2):
            try:
                return self._send(method, path, headers, data)
            except urllib.error.HTTPError as error:
                with error:
                    if error.code == 401 and attempt == 1 and self._log_in(error.headers.get_all("WWW-Authenticate")):
                        continue
                    raise RefusedError(error.code, self._explain(method, path, error)) from None
        raise AssertionError("unreachable")

    def _send(
        self, method: str, path: str, headers: Mapping[str, str], data: bytes | None
    ) -> tuple[bytes, dict[str, str]]:
        problem: Exception | None = None
        for scheme in self._schemes:
            request = urllib.request.Request(f"{scheme}://{self._host}{path}", data, dict(headers), method=method)
            if self._authorization:
                request.add_unredirected_header("Authorization", self._authorization)
            try:
                with self._opener.open(request, timeout=_TIMEOUT) as answer:
                    self._schemes = [scheme]
                    found = {name.lower(): text for name, text in answer.headers.items()}
                    return _read(answer), {**found, "status": str(answer.status)}
            except urllib.error.HTTPError:
                self._schemes = [scheme]
                raise
            except (OSError, HTTPException) as error:
                problem = problem or error
        reason = getattr(problem, "reason", None) or problem
        raise CliError(f"{self._domain} cannot be reached: {reason}") from None

    @staticmethod
    def _explain(method: str, path: str, error: urllib.error.HTTPError) -> str:
        """What the registry says: distribution-spec, "Error Codes"."""
        try:
            first = json.loads(error.read(1 << 16))["errors"][0]
            said = f"{first.get('code', '')}: {first.get('message', '')}".strip(": ")
        except (ValueError, KeyError, TypeError, IndexError, OSError, AttributeError):
            said = error.reason
        return f"{method} {path}: {error.code} {said}"

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
