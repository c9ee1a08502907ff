"""The instructions that `import` and `commit` take: `CMD ["sh"]`, `ENV A=1`, `LABEL a="b c"`, …

Owns: applying such lines to a container's settings. Does not own: Dockerfiles (stages, variables, files). Pure.
Words are split as a Dockerfile's are: quotes, backslashes, and variables, which are those of the settings so far.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable

import msgspec

from dockyard.model import untrusted
from dockyard.model.container import ContainerConfig, HealthConfig
from dockyard.model.errors import InvalidArgument
from dockyard.proto.dockerfile.errors import Problem
from dockyard.proto.dockerfile.words import expand
from dockyard.proto.times import parse_duration

_PORT = re.compile(r"(?P<first>[0-9]{1,5})(?:-(?P<last>[0-9]{1,5}))?(?:/(?P<protocol>tcp|udp|sctp))?\Z")
_ASSIGNMENT = re.compile(r"[^\s=]+=")


def apply(config: ContainerConfig, lines: Iterable[str]) -> None:
    """Change `config` by every line. InvalidArgument in Docker's words for what is no instruction allowed here."""
    for text in lines:
        for line in _logical_lines(text):
            name, _, rest = line.partition(" ")
            change = _CHANGES.get(name.upper())
            if change is None:
                raise InvalidArgument(f"{name.upper()} is not a valid change command")
            if not rest.strip():
                raise InvalidArgument(f"{name.upper()} requires at least one argument")
            change(config, rest.strip())


def _logical_lines(text: str) -> list[str]:
    joined = re.sub(r"\\[ \t]*\n", " ", text.replace("\r\n", "\n"))
    lines = (" ".join(line.strip().split("\t")) for line in joined.split("\n"))
    return [line for line in lines if line and not line.startswith("#")]


def _command(text: str) -> list[str]:
    """A JSON list as it is, anything else for the shell."""
    if text.startswith("["):
        try:
            return untrusted.decode(text, list[str])
        except msgspec.MsgspecError:
            pass
    return ["/bin/sh", "-c", text]


def _list(text: str) -> list[str]:
    if text.startswith("["):
        try:
            return untrusted.decode(text, list[str])
        except msgspec.MsgspecError:
            pass
    return _words(text)


def _expanded(config: ContainerConfig, text: str) -> str:
    """Without quotes and escapes, and with the values of variables."""
    pairs = (entry.partition("=") for entry in config.env or ())
    try:
        return expand(text, {key: value for key, _, value in pairs}).text
    except Problem as error:
        raise InvalidArgument(str(error)) from None


def _words(text: str) -> list[str]:
    """Blank-separated words as they are written; quotes group, a backslash takes the next character along."""
    words: list[str] = []
    word: list[str] | None = None  # None between words; [] is an empty quoted word
    quote = ""
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if not quote and char.isspace():
            if word is not None:
                words.append("".join(word))
            word = None
            continue
        word = [] if word is None else word
        word.append(char)
        if char == "\\" and quote != "'" and position < len(text):
            word.append(text[position])
            position += 1
        elif char == quote:
            quote = ""
        elif not quote and char in "'\"":
            quote = char
    if quote:
        raise InvalidArgument(f"unexpected end of statement while looking for matching {quote}")
    if word is not None:
        words.append("".join(word))
    return words


def _pairs(config: ContainerConfig, instruction: str, text: str) -> list[tuple[str, str]]:
    """`a=1 b="2 3"`, or the old form `a 1 2`; all of them with the variables as they were before."""
    return [(_expanded(config, key), _expanded(config, value)) for key, value in _split_pairs(instruction, text)]


def _split_pairs(instruction: str, text: str) -> list[tuple[str, str]]:
    if not _ASSIGNMENT.match(text):
        key, _, value = text.partition(" ")
        if not value.strip():
            raise InvalidArgument(f"{instruction} must have two arguments")
        return [(key, value.strip())]
    pairs = []
    for word in _words(text):
        key, equals, value = word.partition("=")
        if not equals:
            raise InvalidArgument(f"Syntax error - can't find = in {word!r}. Must be of the form: name=value")
        if not key:
            raise InvalidArgument(f"{instruction} names can not be blank")
        pairs.append((key, value))
    return pairs


def _cmd(config: ContainerConfig, text: str) -> None:
    config.cmd = _command(text)


def _entrypoint(config: ContainerConfig, text: str) -> None:
    config.entrypoint = _command(text)


def _env(config: ContainerConfig, text: str) -> None:
    for key, value in _pairs(config, "ENV", text):
        entries = list(config.env or ())
        known = next((i for i, entry in enumerate(entries) if entry.partition("=")[0] == key), len(entries))
        entries[known : known + 1] = [f"{key}={value}"]  # where it was: clients show the order
        config.env = entries


def _label(config: ContainerConfig, text: str) -> None:
    config.labels = {**(config.labels or {}), **dict(_pairs(config, "LABEL", text))}


def _expose(config: ContainerConfig, text: str) -> None:
    ports = dict(config.exposed_ports or {})
    for word in _expanded(config, text).split():
        match = _PORT.match(word)
        if not match:
            raise InvalidArgument(f"invalid containerPort: {word}")
        first, last = int(match["first"]), int(match["last"] or match["first"])
        if not 0 < first <= last <= 65535:
            raise InvalidArgument(f"invalid containerPort: {word}")
        ports.update({f"{port}/{match['protocol'] or 'tcp'}": {} for port in range(first, last + 1)})
    config.exposed_ports = ports


def _user(config: ContainerConfig, text: str) -> None:
    config.user = _expanded(config, text)


def _volume(config: ContainerConfig, text: str) -> None:
    config.volumes = {**(config.volumes or {}), **{_expanded(config, path): {} for path in _list(text)}}


def _workdir(config: ContainerConfig, text: str) -> None:
    config.working_dir = posixpath.normpath(posixpath.join("/", config.working_dir, _expanded(config, text)))


def _onbuild(config: ContainerConfig, text: str) -> None:
    trigger = text.partition(" ")[0].upper()
    if trigger == "ONBUILD":
        raise InvalidArgument("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise InvalidArgument(f"{trigger} isn't allowed as an ONBUILD trigger")
    config.on_build = [*(config.on_build or []), text]


def _stopsignal(config: ContainerConfig, text: str) -> None:
    config.stop_signal = _expanded(config, text)


def _healthcheck(config: ContainerConfig, text: str) -> None:
    health = HealthConfig()
    while text.startswith("--"):
        option, _, text = text.partition(" ")
        _health_option(health, option)
        text = text.strip()
    kind, _, rest = text.partition(" ")
    if kind.upper() == "NONE":
        health.test = ["NONE"]
    elif kind.upper() == "CMD" and rest.strip():
        words = _command(rest.strip())
        health.test = ["CMD-SHELL", rest.strip()] if words[:2] == ["/bin/sh", "-c"] else ["CMD", *words]
    else:
        raise InvalidArgument(f"Unknown type {kind.upper()!r} in HEALTHCHECK (try CMD)")
    config.healthcheck = health


def _health_option(health: HealthConfig, option: str) -> None:
    name, _, value = option.removeprefix("--").partition("=")
    try:
        if name == "retries":
            health.retries = int(value)
        elif name in ("interval", "timeout", "start-period", "start-interval"):
            setattr(health, name.replace("-", "_"), parse_duration(value))
        else:
            raise InvalidArgument(f"Unknown flag: {name}")
    except ValueError as error:
        raise InvalidArgument(f"HEALTHCHECK --{name}: {error}") from None


_CHANGES: dict[str, Callable[[ContainerConfig, str], None]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
