"""Credentials of registries, kept where docker keeps them.

Owns: the client's folder, its config.json (`auths`, `credsStore`, `credHelpers`; what else is in it stays), credential
helpers, the `X-Registry-Auth` header. Does not own: whether credentials are good (the daemon asks the registry).
Sources: docs.docker.com "docker login" ("Credential stores", "Credential helper protocol").
"""

from __future__ import annotations

import json
import os
from binascii import a2b_base64, b2a_base64

from dockyard.edge.cli.errors import CliError
from dockyard.proto.references import DEFAULT_DOMAIN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

HUB = "https://index.docker.io/v1/"  # the key of Docker Hub since before there were host names here
_HUB_NAMES = (DEFAULT_DOMAIN, "index.docker.io", "registry-1.docker.io")
_NOT_FOUND = "credentials not found in native keychain"
_PROXIES = {
    "httpProxy": "HTTP_PROXY",
    "httpsProxy": "HTTPS_PROXY",
    "ftpProxy": "FTP_PROXY",
    "noProxy": "NO_PROXY",
    "allProxy": "ALL_PROXY",
}
_TOKEN_USER = "<token>"  # a helper's way to say that the secret is an identity token


def folder(options: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    """Where the client's files lie: --config, DOCKER_CONFIG, ~/.docker."""
    given = options.get("config") or environment.get("DOCKER_CONFIG")
    return str(given) if given else os.path.expanduser("~/.docker")


def server_key(server: str) -> str:
    """The key under which a registry's credentials are kept: a host with its port, or Docker Hub's URL."""
    if not server or server == HUB:
        return HUB
    host = _host(server)
    return HUB if host in _HUB_NAMES else host


def _encoded(text: str) -> str:
    return b2a_base64(text.encode(), newline=False).decode()


def _urlsafe(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode().replace("+", "-").replace("/", "_")


def _host(server: str) -> str:
    return server.partition("://")[2].partition("/")[0] if "://" in server else server.partition("/")[0]


class Credentials:
    """config.json and the helpers that it names. Read at once, written whole."""

    def __init__(self, path: str, environment: Mapping[str, str]) -> None:
        self.path = os.path.join(path, "config.json")
        self._environment = environment
        self._values = self._read()

    def get(self, server: str) -> dict[str, str]:
        """What to send for a registry: an AuthConfig; {} where nothing is known. CliError if a helper fails."""
        key = server_key(server)
        helper = self.helper(key)
        found = self._from_helper(helper, key) if helper else self._from_file(key)
        return {**found, "serveraddress": key} if found else {}

    def header(self, server: str) -> dict[str, str]:
        """`X-Registry-Auth` for a registry. Always there: some daemons want it even if it is empty."""
        return {"X-Registry-Auth": _urlsafe(json.dumps(self.get(server)).encode())}

    def everything(self) -> dict[str, dict[str, str]]:
        """Every registry's credentials, for a build, which may pull from any of them: key → AuthConfig.

        A helper that fails is left out: the build may not need that registry.
        """
        keys = set(self._auths())
        helpers = self._values.get("credHelpers")
        keys |= set(helpers) if isinstance(helpers, dict) else set()
        store = str(self._values.get("credsStore") or "")
        found = {}
        try:
            keys |= set(json.loads(self._run(store, "list", "") or "{}")) if store else set()
        except (CliError, ValueError, TypeError):
            pass
        for key in sorted(keys):
            try:
                if entry := self.get(key):
                    found[server_key(key)] = entry
            except CliError:
                continue
        return found

    def proxies(self, host: str) -> dict[str, str]:
        """Proxy settings for containers and builds (`proxies` of config.json): HTTP_PROXY and so on, in both cases.

        `host`: the daemon's address, for which there may be settings of its own beside `default`.
        """
        known = self._values.get("proxies")
        settings = (known.get(host) or known.get("default")) if isinstance(known, dict) else None
        found = {}
        for key, name in _PROXIES.items():
            if isinstance(settings, dict) and settings.get(key):
                found[name] = found[name.lower()] = str(settings[key])
        return found

    def helper(self, key: str) -> str:
        """The helper that keeps a registry's credentials; "": the file does."""
        helpers = self._values.get("credHelpers")
        named = helpers.get(key) if isinstance(helpers, dict) else None
        return str(named or self._values.get("credsStore") or "")

    def adopt_default_helper(self) -> None:
        """As docker: with no credentials in the file and `pass` or a secret service at hand, that becomes the store."""
        if self._values.get("credsStore") or self._values.get("auths"):
            return
        name = "pass" if self._which("pass") else "secretservice"
        if self._which(f"docker-credential-{name}"):
            self._values["credsStore"] = name

    def put(self, server: str, found: Mapping[str, str]) -> bool:
        """Keep credentials; whether they are now in the file in the clear."""
        key = server_key(server)
        helper = self.helper(key)
        auths = self._auths()
        if helper:
            token = found.get("identitytoken")
            secret = {
                "ServerURL": key,
                "Username": _TOKEN_USER if token else found.get("username", ""),
                "Secret": token or found.get("password", ""),
            }
            self._run(helper, "store", json.dumps(secret))
            auths[key] = {}
        else:
            text = f"{found.get('username', '')}:{found.get('password', '')}"
            auths[key] = {"auth": _encoded(text)}
            if found.get("identitytoken"):
                auths[key] = {"auth": _encoded(f"{found.get('username', '')}:")}
                auths[key]["identitytoken"] = found["identitytoken"]
        self._write()
        return not helper

    def erase(self, server: str) -> None:
        """Forget a registry's credentials under every name that they may have. CliError if a helper fails."""
        key = server_key(server)
        helper = self.helper(key)
        names = [key] if key == HUB else [key, f"http://{key}", f"https://{key}"]
        auths = self._auths()
        before = dict(auths)
        for name in [*names, *[known for known in before if server_key(known) == key]]:
            auths.pop(name, None)
        if auths != before:
            self._write()
        if helper:
            self._run(helper, "erase", key)

    # -- the file ---------------------------------------------------------------------------------------------------

    def _auths(self) -> dict[str, Any]:
        auths = self._values.get("auths")
        if not isinstance(auths, dict):
            auths = self._values["auths"] = {}
        return auths

    def _from_file(self, key: str) -> dict[str, str]:
        auths = self._values.get("auths")
        if not isinstance(auths, dict):
            return {}
        entry = auths.get(key) or next((auths[name] for name in auths if server_key(name) == key), None)
        if not isinstance(entry, dict):
            return {}
        found = {name: str(entry[name]) for name in ("identitytoken", "registrytoken") if entry.get(name)}
        if entry.get("auth"):
            try:
                user, colon, password = a2b_base64(str(entry["auth"])).decode().partition(":")
            except ValueError:
                raise CliError(f"{self.path}: the credentials of {key} cannot be read: not base64") from None
            if not colon:
                raise CliError(f"{self.path}: the credentials of {key} cannot be read: not USER:PASSWORD")
            found |= {"username": user, "password": password.rstrip("\0")}
        elif entry.get("username"):
            found |= {"username": str(entry["username"]), "password": str(entry.get("password", ""))}
        return found

    def _read(self) -> dict[str, Any]:
        try:
            with open(self.path, encoding="utf-8") as file:
                text = file.read()
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise CliError(f"{self.path}: {error.strerror if isinstance(error, OSError) else error}") from None
        try:
            values = json.loads(text) if text.strip() else {}
        except ValueError as error:
            raise CliError(f"{self.path}: {error}") from None
        if not isinstance(values, dict):
            raise CliError(f"{self.path}: a JSON object is expected")
        return values

    def _write(self) -> None:
        """Whole or not at all, for nobody else's eyes; through a symbolic link to where it leads."""
        target = os.path.realpath(self.path)
        temporary = f"{target}.dockyard-{os.getpid()}"
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                json.dump(self._values, file, indent="\t")
                file.flush()
                os.fsync(fd)
            os.rename(temporary, target)
        except OSError as error:
            raise CliError(f"{self.path}: {error.strerror}") from None

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _from_helper(self, helper: str, key: str) -> dict[str, str]:
        text = self._run(helper, "get", key)
        if text is None:
            return {}
        try:
            answer = json.loads(text)
            user, secret = str(answer["Username"]), str(answer["Secret"])
        except (ValueError, KeyError, TypeError):
            raise CliError(f"docker-credential-{helper} get: its answer is not understood") from None
        return {"identitytoken": secret} if user == _TOKEN_USER else {"username": user, "password": secret}

    def _run(self, helper: str, action: str, text: str) -> str | None:
        """A helper's output; None if it knows nothing of this registry. Secrets go through pipes only."""
        program = f"docker-credential-{helper}"
        import subprocess

        if "/" in helper:
            raise CliError(f"{self.path}: invalid credential helper {helper!r}")
        try:
            done = subprocess.run([program, action], input=text, capture_output=True, text=True, check=False)
        except OSError as error:
            raise CliError(f"{program} cannot be run: {error.strerror}: {self.path} names it") from None
        if done.returncode == 0:
            return done.stdout
        said = (done.stdout.strip() or done.stderr.strip())[:500]
        if _NOT_FOUND in said:
            return None
        raise CliError(f"{program} {action}: {said or f'exit code {done.returncode}'}")

    def _which(self, program: str) -> bool:
        places = self._environment.get("PATH", "").split(":")
        return any(os.access(os.path.join(place, program), os.X_OK) for place in places if place)
